//! The cluster's certificates: one CA made at the first start, and leaves signed by it.
//!
//! The keys of CA and ServiceAccounts stay for the life of the data directory. The serving certificate is made at every
//! start, with the names of today. Whatever has less than a third of its life left is made anew, at start and while
//! serving ([`Renewal`]), so no cluster is ever stranded by an expired certificate. A CA made anew keeps its name and its key:
//! whoever trusts the old one trusts what the new one signs, for as long as the old one lasts.

use crate::Exit;
use jiff::Timestamp;
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
    time::Duration,
};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Clocks of clients may lag; certificates start so long in the past.
const BACKDATE: Duration = DAY;

/// How long certificates live.
#[derive(Debug, Clone, Copy)]
struct Lives {
    ca: Duration,
    leaf: Duration,
}

const LIVES: Lives =
    Lives { ca: Duration::from_secs(3650 * 24 * 3600), leaf: Duration::from_secs(365 * 24 * 3600) };

/// PEM texts of everything a server needs.
#[derive(Clone)]
pub struct Certificates {
    pub ca: String,
    pub ca_key: String,
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
    load_or_make_at(dir, names, Timestamp::now(), LIVES)
}

/// What a server renews while it serves.
pub struct Renewal {
    pub dir: PathBuf,
    pub names: Names,
}

impl Renewal {
    /// Everything anew that is due at `now`, or `None` if nothing is.
    pub fn turn(&self, current: &Certificates, now: Timestamp) -> Result<Option<Certificates>, Exit> {
        let all = [&current.ca, &current.serving_cert, &current.admin_cert];
        if !all.into_iter().any(|pem| is_due(pem, now)) {
            return Ok(None);
        }
        load_or_make_at(&self.dir, &self.names, now, LIVES).map(Some)
    }
}

/// Whether a certificate should be made anew. One that cannot be read should.
fn is_due(pem: &str, now: Timestamp) -> bool {
    let life = || {
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
        let validity = pem.parse_x509().ok()?.validity().clone();
        Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
    };
    life().is_none_or(|(from, to)| due(from, to, now.as_second()))
}

/// Whether less than a third of a life is left, or none; of one that has not begun, nothing is gone.
fn due(from: i64, to: i64, now: i64) -> bool {
    now >= to || to.saturating_sub(now) < to.saturating_sub(from) / 3
}

fn load_or_make_at(dir: &Path, names: &Names, now: Timestamp, lives: Lives) -> Result<Certificates, Exit> {
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
        Ok(pem) if !is_due(&pem, now) => pem,
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail("read ca.crt", &e)),
        _ => {
            let params = ca_params(now, lives.ca);
            let pem = params.self_signed(&ca_key).map_err(|e| fail("make the CA", &e))?.pem();
            write_private(&ca_path, &pem)?;
            pem
        }
    };
    let ca_key_pem = ca_key.serialize_pem();
    let issuer = Issuer::new(ca_params(now, lives.ca), ca_key);
    let leaf = |name, organization, usage| {
        let mut params = leaf_params(name, organization, usage);
        set_life(&mut params, now, lives.leaf);
        params
    };

    let mut serving = leaf("minik8s-apiserver", None, ExtendedKeyUsagePurpose::ServerAuth);
    for name in &names.dns {
        let name = name.clone().try_into().map_err(|e| fail("use a DNS name", &e))?;
        serving.subject_alt_names.push(SanType::DnsName(name));
    }
    serving.subject_alt_names.extend(names.ips.iter().copied().map(SanType::IpAddress));
    let (serving_cert, serving_key) =
        sign(serving, &issuer).map_err(|e| fail("sign the serving certificate", &e))?;

    let (admin_cert, admin_key) = match load_admin(dir, now) {
        Some(pair) => pair,
        None => {
            let params =
                leaf("kubernetes-admin", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth);
            let pair = sign(params, &issuer).map_err(|e| fail("sign the administrator's certificate", &e))?;
            write_private(&paths("admin.crt"), &pair.0)?;
            write_private(&paths("admin.key"), &pair.1)?;
            pair
        }
    };
    let service_account_key = load_or_make_key(&paths("service-account.key"))?.serialize_pem();
    let ca_key = ca_key_pem;
    Ok(Certificates { ca, ca_key, serving_cert, serving_key, admin_cert, admin_key, service_account_key })
}

/// The administrator's pair on disk while it is good for long enough: kubeconfigs stay as they are.
fn load_admin(dir: &Path, now: Timestamp) -> Option<(String, String)> {
    let cert = fs::read_to_string(dir.join("admin.crt")).ok()?;
    let key = fs::read_to_string(dir.join("admin.key")).ok()?;
    (!is_due(&cert, now)).then_some((cert, key))
}

fn ca_params(now: Timestamp, life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "minik8s-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    set_life(&mut params, now, life);
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
    params
}

fn set_life(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let now = Duration::from_secs(now.as_second().unsigned_abs());
    let epoch = date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATE.min(life));
    params.not_after = epoch + now.saturating_add(life);
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
    fn a_third_before_its_end_a_certificate_is_due() {
        for (from, to, now, expected) in [
            (0, 90, 0, false),
            (0, 90, 60, false),
            (0, 90, 61, true),
            (0, 90, 90, true),
            (0, 90, 1000, true),
            (50, 80, 0, false),
            (50, 50, 50, true),
        ] {
            assert_eq!(due(from, to, now), expected, "{from}..{to} at {now}");
        }
        assert!(is_due("no certificate", Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn what_is_due_is_made_anew_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let names = Names { dns: vec!["localhost".into()], ips: vec![] };
        let start: Timestamp = "2026-11-23T00:00:00Z".parse().unwrap();
        let day = |n: i64| start + jiff::SignedDuration::from_hours(24 * n);
        let renewal = Renewal { dir: dir.path().to_owned(), names: names.clone() };
        // One that was made with a short life is renewed at the next start.
        let short = Lives { leaf: Duration::from_secs(60), ..LIVES };
        let first = load_or_make_at(dir.path(), &names, start, short).unwrap();
        assert!(!is_due(&first.admin_cert, start) && is_due(&first.admin_cert, day(1)));
        let second = load_or_make_at(dir.path(), &names, day(1), LIVES).unwrap();
        assert_ne!(second.admin_cert, first.admin_cert);
        assert_eq!((&second.ca, &second.ca_key), (&first.ca, &first.ca_key));
        // And while serving.
        assert!(renewal.turn(&second, day(200)).unwrap().is_none());
        let third = renewal.turn(&second, day(300)).unwrap().unwrap();
        assert_ne!(third.serving_cert, second.serving_cert);
        assert_ne!(third.admin_cert, second.admin_cert);
        assert_eq!(third.ca, second.ca);
        assert!(renewal.turn(&third, day(301)).unwrap().is_none());
        // The CA too, with its name and its key: what it signs is good for those who know only the old one.
        let fourth = renewal.turn(&third, day(3000)).unwrap().unwrap();
        assert_ne!(fourth.ca, third.ca);
        assert_eq!(fourth.ca_key, third.ca_key);
        let roots = |ca: &str| {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(der(ca)).unwrap();
            roots
        };
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        for (ca, time) in [(&third.ca, day(3001)), (&fourth.ca, day(3001))] {
            let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
                std::sync::Arc::new(roots(ca)),
                provider.clone(),
            )
            .build()
            .unwrap();
            let time = Duration::from_secs(time.as_second().unsigned_abs());
            use rustls::client::danger::ServerCertVerifier;
            verifier
                .verify_server_cert(
                    &der(&fourth.serving_cert),
                    &[],
                    &"localhost".try_into().unwrap(),
                    &[],
                    rustls::pki_types::UnixTime::since_unix_epoch(time),
                )
                .unwrap();
        }
    }

    fn der(pem: &str) -> rustls::pki_types::CertificateDer<'static> {
        use rustls::pki_types::pem::PemObject;
        rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
    }

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
