//! The cluster's CA as a signer: from a request to a certificate.
//!
//! The certificate is written here, byte by byte, because subject and key have to be the request's own: makers of
//! certificates know fewer sorts of both (several organizations in one name, say, which are a user's groups).

use super::request::Request;
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use rcgen::{KeyPair, SigningKey};
use std::fmt;
use x509_parser::{extensions::ParsedExtension, pem::parse_x509_pem};

/// How long a certificate is good if the request does not say, and at most; Kubernetes' default.
const LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// Clocks of others may lag. Of short lives it is not taken off.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
const SHORT: SignedDuration = SignedDuration::from_hours(8);
/// A line of PEM.
const PEM_WIDTH: usize = 64;
/// Random bytes of a serial number: enough never to meet twice.
const SERIAL_BYTES: usize = 16;

/// The CA's certificate and key.
pub struct Authority {
    key: KeyPair,
    /// DER of its name, and the identifier of its key.
    name: Vec<u8>,
    key_id: Vec<u8>,
    not_after: Timestamp,
}

/// Names nothing of the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CannotSign {
    #[error("the CA cannot be used: {0}")]
    Ca(String),
    #[error("unrecognized usage: {0}")]
    Usage(String),
    #[error("the request cannot be signed: {0}")]
    Request(String),
}

impl Authority {
    /// From PEM.
    ///
    /// # Errors
    /// When one of them is unreadable, or the key is not of the kind our CAs have.
    pub fn new(certificate: &str, key: &str) -> Result<Self, CannotSign> {
        let ca = |e: &dyn fmt::Display| CannotSign::Ca(e.to_string());
        let key = KeyPair::from_pem(key).map_err(|e| ca(&e))?;
        if !key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256) {
            return Err(CannotSign::Ca("its key is not an ECDSA key on P-256".to_owned()));
        }
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).map_err(|e| ca(&e))?;
        let parsed = pem.parse_x509().map_err(|e| ca(&e))?;
        let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_owned()),
            _ => None,
        });
        let not_after =
            Timestamp::from_second(parsed.validity().not_after.timestamp()).map_err(|e| ca(&e))?;
        Ok(Self {
            key,
            name: parsed.subject().as_raw().to_owned(),
            key_id: key_id.unwrap_or_default(),
            not_after,
        })
    }

    /// The certificate in PEM.
    ///
    /// # Errors
    /// For usages that no certificate can name, and when the key does not sign.
    pub fn sign(
        &self,
        request: &Request,
        usages: &[&str],
        seconds: Option<i32>,
        now: Timestamp,
    ) -> Result<String, CannotSign> {
        let (not_before, not_after) = life(seconds, now, self.not_after);
        let extensions = self.extensions(request, usages)?;
        let mut serial = [0u8; SERIAL_BYTES];
        serial.fill_with(|| fastrand::u8(..));
        // Positive, and of full length.
        serial[0] = serial[0] & 0x7f | 0x40;
        let algorithm = sequence(&[oid(ECDSA_WITH_SHA256)]);
        let body = sequence(&[
            tlv(0xa0, &tlv(INTEGER, &[2])),
            tlv(INTEGER, &serial),
            algorithm.clone(),
            self.name.clone(),
            sequence(&[time(not_before), time(not_after)]),
            request.subject.clone(),
            request.public_key.clone(),
            tlv(0xa3, &sequence(&extensions)),
        ]);
        let signature = self.key.sign(&body).map_err(|e| CannotSign::Request(e.to_string()))?;
        let signed = sequence(&[body, algorithm, tlv(BIT_STRING, &[&[0], signature.as_slice()].concat())]);
        Ok(pem("CERTIFICATE", &signed))
    }

    fn extensions(&self, request: &Request, usages: &[&str]) -> Result<Vec<Vec<u8>>, CannotSign> {
        let (mut bits, mut purposes) = (0u16, Vec::new());
        for usage in usages {
            match (key_usage(usage), purpose(usage)) {
                (Some(bit), _) => bits |= 1 << bit,
                (_, Some(purpose)) => purposes.push(oid(purpose)),
                _ => return Err(CannotSign::Usage((*usage).to_owned())),
            }
        }
        let mut all = Vec::new();
        if bits != 0 {
            all.push(extension(&[2, 5, 29, 15], true, &bit_string(bits)));
        }
        if !purposes.is_empty() {
            all.push(extension(&[2, 5, 29, 37], false, &sequence(&purposes)));
        }
        // It is no CA.
        all.push(extension(&[2, 5, 29, 19], true, &sequence(&[])));
        if !self.key_id.is_empty() {
            all.push(extension(&[2, 5, 29, 35], false, &sequence(&[tlv(0x80, &self.key_id)])));
        }
        let named = |tag: u8, names: &[String]| -> Vec<Vec<u8>> {
            names.iter().map(|name| tlv(tag, name.as_bytes())).collect()
        };
        let mut names = named(0x81, &request.emails);
        names.extend(named(0x82, &request.dns));
        names.extend(named(0x86, &request.uris));
        names.extend(request.ips.iter().map(|ip| tlv(0x87, ip)));
        if !names.is_empty() {
            all.push(extension(&[2, 5, 29, 17], false, &sequence(&names)));
        }
        Ok(all)
    }
}

/// From when to when. No certificate outlives its CA.
fn life(seconds: Option<i32>, now: Timestamp, ca_end: Timestamp) -> (Timestamp, Timestamp) {
    let asked = seconds.map_or(LIFE, |seconds| SignedDuration::from_secs(seconds.into()));
    let life = asked.clamp(SHORTEST, LIFE);
    let begin = now.checked_sub(BACKDATE).unwrap_or(now);
    let end = if life < SHORT { now } else { begin }.checked_add(life).unwrap_or(ca_end);
    (begin, end.min(ca_end))
}

/// The end of a certificate's life.
pub(super) fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let (_, block) = parse_x509_pem(certificate).ok()?;
    Timestamp::from_second(block.parse_x509().ok()?.validity().not_after.timestamp()).ok()
}

fn key_usage(usage: &str) -> Option<u8> {
    const BITS: [&str; 9] = [
        "digital signature",
        "content commitment",
        "key encipherment",
        "data encipherment",
        "key agreement",
        "cert sign",
        "crl sign",
        "encipher only",
        "decipher only",
    ];
    let usage = if usage == "signing" { BITS[0] } else { usage };
    BITS.iter().position(|bit| *bit == usage).and_then(|at| u8::try_from(at).ok())
}

fn purpose(usage: &str) -> Option<&'static [u64]> {
    Some(match usage {
        "any" => &[2, 5, 29, 37, 0],
        "server auth" => &[1, 3, 6, 1, 5, 5, 7, 3, 1],
        "client auth" => &[1, 3, 6, 1, 5, 5, 7, 3, 2],
        "code signing" => &[1, 3, 6, 1, 5, 5, 7, 3, 3],
        "email protection" | "s/mime" => &[1, 3, 6, 1, 5, 5, 7, 3, 4],
        "ipsec end system" => &[1, 3, 6, 1, 5, 5, 7, 3, 5],
        "ipsec tunnel" => &[1, 3, 6, 1, 5, 5, 7, 3, 6],
        "ipsec user" => &[1, 3, 6, 1, 5, 5, 7, 3, 7],
        "timestamping" => &[1, 3, 6, 1, 5, 5, 7, 3, 8],
        "ocsp signing" => &[1, 3, 6, 1, 5, 5, 7, 3, 9],
        "microsoft sgc" => &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3],
        "netscape sgc" => &[2, 16, 840, 1, 113_730, 4, 1],
        _ => return None,
    })
}

const INTEGER: u8 = 2;
const BIT_STRING: u8 = 3;
const OCTET_STRING: u8 = 4;
const OBJECT_IDENTIFIER: u8 = 6;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const ECDSA_WITH_SHA256: &[u64] = &[1, 2, 840, 10045, 4, 3, 2];

/// Tag, length, value: the whole of DER.
fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match u8::try_from(value.len()) {
        Ok(length) if length < 0x80 => out.push(length),
        _ => {
            let length = value.len().to_be_bytes();
            let digits: Vec<u8> = length.iter().copied().skip_while(|digit| *digit == 0).collect();
            out.push(0x80 | u8::try_from(digits.len()).unwrap_or(0));
            out.extend(digits);
        }
    }
    out.extend_from_slice(value);
    out
}

fn sequence(items: &[Vec<u8>]) -> Vec<u8> {
    tlv(SEQUENCE, &items.concat())
}

fn oid(arcs: &[u64]) -> Vec<u8> {
    let (first, rest) = arcs.split_at(2.min(arcs.len()));
    let first = first.iter().fold(0, |sum, arc| sum * 40 + arc);
    let mut value = Vec::new();
    for arc in std::iter::once(&first).chain(rest) {
        // Seven bits a byte, the most significant first; all but the last have the top bit set.
        let septets = (1..10u32).find(|n| arc >> (7 * n) == 0).unwrap_or(10);
        for n in (0..septets).rev() {
            let septet = u8::try_from(arc >> (7 * n) & 0x7f).unwrap_or(0);
            value.push(if n == 0 { septet } else { septet | 0x80 });
        }
    }
    tlv(OBJECT_IDENTIFIER, &value)
}

/// Named bits, the first of which is the highest; trailing zeros are left out.
fn bit_string(bits: u16) -> Vec<u8> {
    let [low, high] = bits.reverse_bits().to_be_bytes();
    let bytes: &[u8] = if high == 0 { &[low] } else { &[low, high] };
    let unused = bytes.last().map_or(0, |last| last.trailing_zeros());
    tlv(BIT_STRING, &[&[u8::try_from(unused).unwrap_or(0)], bytes].concat())
}

fn extension(id: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let mut items = vec![oid(id)];
    if critical {
        items.push(vec![1, 1, 0xff]);
    }
    items.push(tlv(OCTET_STRING, value));
    sequence(&items)
}

/// Years up to 2049 have two digits.
fn time(at: Timestamp) -> Vec<u8> {
    let at = at.to_zoned(TimeZone::UTC);
    if at.year() < 2050 {
        tlv(UTC_TIME, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())
    } else {
        tlv(GENERALIZED_TIME, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let text = BASE64_STANDARD.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(PEM_WIDTH.min(rest.len()));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
