//! The cluster's certificates: one CA made at the first start, and leaves signed by it at every start.
//!
//! The CA and the ServiceAccount key stay for the life of the data directory. Serving and administrator certificates
//! are made anew whenever less than half of their life is left or their names changed, so no cluster is ever stranded
//! by an expired certificate (peers.md §2, row 13).

use crate::Exit;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use std::{
    fs,
    io::Write,
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

const CA_YEARS: i16 = 10;
const LEAF_YEARS: i16 = 1;
/// Clocks of clients may lag; certificates start this many days in the past.
const BACKDATE_DAYS: i32 = 1;

/// PEM texts of everything a server needs.
#[derive(Clone)]
pub struct Certificates {
    pub ca: String,
    pub serving_cert: String,
    pub serving_key: String,
    pub admin_cert: String,
    pub admin_key: String,
    pub service_account_key: String,
}

/// Names the serving certificate answers to.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub dns: Vec<String>,
    pub ips: Vec<IpAddr>,
}

/// Loads or makes everything below `dir` (mode 0700).
pub fn load_or_make(dir: &Path, names: &Names) -> Result<Certificates, Exit> {
    let fail = |what: &str, e: &dyn std::fmt::Display| {
        Exit::failed(format!("cannot {what} in {}: {e}", dir.display()))
    };
    fs::create_dir_all(dir).map_err(|e| fail("make the certificate directory", &e))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
        .map_err(|e| fail("protect certificates", &e))?;
    let paths = |name: &str| -> PathBuf { dir.join(name) };

    let ca_key = load_or_make_key(&paths("ca.key"))?;
    let ca_path = paths("ca.crt");
    let ca = match fs::read_to_string(&ca_path) {
        Ok(pem) => pem,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let pem = ca_params().self_signed(&ca_key).map_err(|e| fail("make the CA", &e))?.pem();
            write_private(&ca_path, &pem)?;
            pem
        }
        Err(e) => return Err(fail("read ca.crt", &e)),
    };
    let issuer = Issuer::new(ca_params(), ca_key);

    let mut serving = leaf_params("minik8s-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth);
    for name in &names.dns {
        let name = name.clone().try_into().map_err(|e| fail("use a DNS name", &e))?;
        serving.subject_alt_names.push(SanType::DnsName(name));
    }
    serving.subject_alt_names.extend(names.ips.iter().copied().map(SanType::IpAddress));
    let (serving_cert, serving_key) =
        sign(serving, &issuer).map_err(|e| fail("sign the serving certificate", &e))?;

    let (admin_cert, admin_key) = match load_admin(dir) {
        Some(pair) => pair,
        None => {
            let params =
                leaf_params("kubernetes-admin", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth);
            let pair = sign(params, &issuer).map_err(|e| fail("sign the administrator's certificate", &e))?;
            write_private(&paths("admin.crt"), &pair.0)?;
            write_private(&paths("admin.key"), &pair.1)?;
            pair
        }
    };
    let service_account_key = load_or_make_key(&paths("service-account.key"))?.serialize_pem();
    Ok(Certificates { ca, serving_cert, serving_key, admin_cert, admin_key, service_account_key })
}

/// The administrator's pair on disk while more than half of its life is left: kubeconfigs stay as they are.
fn load_admin(dir: &Path) -> Option<(String, String)> {
    let cert = fs::read_to_string(dir.join("admin.crt")).ok()?;
    let key = fs::read_to_string(dir.join("admin.key")).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(cert.as_bytes()).ok()?;
    let parsed = pem.parse_x509().ok()?;
    let half = i64::from(LEAF_YEARS) * 365 * 86_400 / 2;
    let left = parsed.validity().not_after.timestamp() - jiff::Timestamp::now().as_second();
    (left > half).then_some((cert, key))
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "minik8s-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_life(&mut params, CA_YEARS);
    params
}

fn leaf_params(name: &str, organization: Option<&str>, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    if let Some(organization) = organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    set_life(&mut params, LEAF_YEARS);
    params
}

fn set_life(params: &mut CertificateParams, years: i16) {
    let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let date = |d: jiff::civil::Date| {
        date_time_ymd(d.year().into(), d.month().unsigned_abs(), d.day().unsigned_abs())
    };
    params.not_before = date(today.saturating_sub(jiff::Span::new().days(BACKDATE_DAYS)));
    params.not_after = date(today.saturating_add(jiff::Span::new().years(years)));
}

fn sign(params: CertificateParams, issuer: &Issuer<'_, KeyPair>) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, issuer)?;
    Ok((cert.pem(), key.serialize_pem()))
}

fn load_or_make_key(path: &Path) -> Result<KeyPair, Exit> {
    let fail =
        |e: &dyn std::fmt::Display| Exit::failed(format!("cannot use the key {}: {e}", path.display()));
    match fs::read_to_string(path) {
        Ok(pem) => KeyPair::from_pem(&pem).map_err(|e| fail(&e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let key = KeyPair::generate().map_err(|e| fail(&e))?;
            write_private(path, &key.serialize_pem())?;
            Ok(key)
        }
        Err(e) => Err(fail(&e)),
    }
}

/// Writes a file of mode 0600 whole or not at all: to a temporary name, synced, renamed.
pub fn write_private(path: &Path, text: &str) -> Result<(), Exit> {
    let temporary = path.with_extension("tmp");
    let write = || -> std::io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| Exit::failed(format!("cannot write {}: {e}", path.display())))
}

/// The administrator's kubeconfig for the API at `server` (`https://127.0.0.1:6443`).
pub fn kubeconfig(server: &str, certificates: &Certificates) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: minik8s\n  cluster:\n    server: {server}\n    \
         certificate-authority-data: {}\nusers:\n- name: kubernetes-admin\n  user:\n    client-certificate-data: {}\n    \
         client-key-data: {}\ncontexts:\n- name: minik8s\n  context:\n    cluster: minik8s\n    user: kubernetes-admin\n\
         current-context: minik8s\n",
        encode(&certificates.ca),
        encode(&certificates.admin_cert),
        encode(&certificates.admin_key),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ca_and_the_admin_pair_survive_a_second_start_and_the_serving_names_follow() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_make(dir.path(), &Names { dns: vec!["localhost".into()], ips: vec![] }).unwrap();
        let names = Names { dns: vec!["other".into()], ips: vec!["127.0.0.1".parse().unwrap()] };
        let second = load_or_make(dir.path(), &names).unwrap();
        assert_eq!(first.ca, second.ca);
        assert_eq!(first.admin_cert, second.admin_cert);
        assert_eq!(first.service_account_key, second.service_account_key);
        let (_, pem) = x509_parser::pem::parse_x509_pem(second.serving_cert.as_bytes()).unwrap();
        let cert = pem.parse_x509().unwrap();
        let san = cert.subject_alternative_name().unwrap().unwrap().value.general_names.clone();
        assert_eq!(san.len(), 2);
        let (_, ca) = x509_parser::pem::parse_x509_pem(second.ca.as_bytes()).unwrap();
        assert_eq!(cert.issuer(), ca.parse_x509().unwrap().subject());
        let mode = fs::metadata(dir.path().join("ca.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
