//! ServiceAccount tokens: issued and checked. ES256 JSON Web Tokens (RFC 7519, RFC 7518 §3.4) with Kubernetes' claims.
//!
//! Pure but for the random token id: the time is handed in, and whether the account still exists is asked elsewhere.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL};
use ring::{
    digest,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    },
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Header of a SubjectPublicKeyInfo of a P-256 key (RFC 5480); the 65-byte point follows. The key id hashes the whole.
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Ours are below 1.5 KiB; what is longer is not worth parsing.
const MAX_TOKEN: usize = 16 << 10;

/// The claims of a token, spelled as Kubernetes spells them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Audience,
    /// Seconds since 1970, as `iat` and `nbf`.
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    pub nbf: i64,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
}

/// RFC 7519 §4.1.3 allows one string or a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    Many(Vec<String>),
    One(String),
}

impl Audience {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::Many(all) => all.as_slice(),
            Self::One(one) => std::slice::from_ref(one),
        }
        .iter()
        .map(String::as_str)
    }
}

/// What the token is bound to: it dies with each of these.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    pub serviceaccount: Reference,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// Why a token is no good. For the log: the client reads `Unauthorized`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("not a JSON Web Token: {0}")]
    Malformed(&'static str),
    #[error("signed with {0}, not with our key")]
    OtherKey(String),
    #[error("the signature is wrong")]
    Signature,
    #[error("issued by {0:?}")]
    Issuer(String),
    #[error("expired")]
    Expired,
    #[error("not valid yet")]
    NotYet,
}

/// Our signing key and issuer.
pub struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    key_id: String,
    issuer: String,
}

impl Signer {
    /// `key` is PEM, PKCS#8, EC P-256.
    pub fn new(key: &str, issuer: String) -> Result<Self, String> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(key.as_bytes())
            .map_err(|e| format!("the ServiceAccount key is not PKCS#8 PEM: {e}"))?;
        let random = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &random)
                .map_err(|e| format!("the ServiceAccount key is not an EC P-256 key: {e}"))?;
        let mut spki = P256_SPKI_PREFIX.to_vec();
        spki.extend_from_slice(pair.public_key().as_ref());
        let key_id = BASE64URL.encode(digest::digest(&digest::SHA256, &spki));
        Ok(Self { pair, random, key_id, issuer })
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A token for `bound.serviceaccount`, and its claims.
    pub fn issue(
        &self,
        bound: Bound,
        audiences: Vec<String>,
        now: i64,
        seconds: i64,
    ) -> Result<(String, Claims), String> {
        let claims = Claims {
            aud: Audience::Many(audiences),
            exp: now.saturating_add(seconds),
            iat: now,
            iss: self.issuer.clone(),
            jti: uuid::Uuid::new_v4().to_string(),
            sub: format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name),
            kubernetes: bound,
            nbf: now,
        };
        let header = json!({"alg": "ES256", "kid": self.key_id});
        let payload = serde_json::to_vec(&claims).map_err(|e| e.to_string())?;
        let mut token = format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(payload));
        let signature =
            self.pair.sign(&self.random, token.as_bytes()).map_err(|_| "signing failed".to_owned())?;
        token.push('.');
        BASE64URL.encode_string(signature, &mut token);
        Ok((token, claims))
    }

    /// Is it ours and in its time? Says nothing of audiences, nor of whether the account still exists.
    pub fn check(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        use TokenError::Malformed;
        if token.len() > MAX_TOKEN {
            return Err(Malformed("too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Malformed("no signature"))?;
        let (header, payload) = signed.split_once('.').ok_or(Malformed("no payload"))?;
        let header: Value = part(header)?;
        // The algorithm is ours to choose, never the token's: "none" and HMAC tricks end here.
        if header["alg"] != "ES256" || header["kid"] != self.key_id.as_str() {
            return Err(TokenError::OtherKey(header["kid"].as_str().unwrap_or("no key id").to_owned()));
        }
        let signature = BASE64URL.decode(signature).map_err(|_| Malformed("signature is not base64url"))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key())
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| TokenError::Signature)?;
        let claims: Claims = part(payload)?;
        if claims.iss != self.issuer {
            return Err(TokenError::Issuer(claims.iss));
        }
        if now >= claims.exp {
            return Err(TokenError::Expired);
        }
        if now < claims.nbf {
            return Err(TokenError::NotYet);
        }
        Ok(claims)
    }

    /// The JSON Web Key Set (RFC 7517) with which others check our tokens.
    pub fn key_set(&self) -> Value {
        // 0x04, then the two coordinates of 32 bytes.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..).map(|xy| xy.split_at(xy.len() / 2)).unwrap_or_default();
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": BASE64URL.encode(x), "y": BASE64URL.encode(y),
        }]})
    }

    /// The OpenID Connect discovery document.
    pub fn discovery(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, TokenError> {
    let bytes = BASE64URL.decode(text).map_err(|_| TokenError::Malformed("not base64url"))?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed("not the expected JSON"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn signer() -> Signer {
        let random = SystemRandom::new();
        let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            base64::engine::general_purpose::STANDARD.encode(der)
        );
        Signer::new(&pem, "https://kubernetes.default.svc.cluster.local".to_owned()).unwrap()
    }

    fn bound() -> Bound {
        Bound {
            namespace: "default".to_owned(),
            serviceaccount: Reference { name: "web".to_owned(), uid: "u1".to_owned() },
            pod: Some(Reference { name: "web-0".to_owned(), uid: "u2".to_owned() }),
            ..Bound::default()
        }
    }

    #[test]
    fn a_token_reads_back_as_it_was_issued() {
        let signer = signer();
        let (token, claims) = signer.issue(bound(), vec!["a".to_owned(), "b".to_owned()], 1000, 600).unwrap();
        assert_eq!(signer.check(&token, 1000).unwrap(), claims);
        assert_eq!((claims.iat, claims.nbf, claims.exp), (1000, 1000, 1600));
        assert_eq!(claims.sub, "system:serviceaccount:default:web");
        let json = serde_json::to_value(&claims).unwrap();
        assert_eq!(json["aud"], json!(["a", "b"]));
        assert_eq!(
            json["kubernetes.io"],
            json!({"namespace": "default", "pod": {"name": "web-0", "uid": "u2"},
                   "serviceaccount": {"name": "web", "uid": "u1"}})
        );
    }

    #[test]
    fn what_is_not_ours_or_not_in_its_time_is_refused() {
        let ours = signer();
        let (token, _) = ours.issue(bound(), vec!["a".to_owned()], 1000, 600).unwrap();
        let (foreign, _) = signer().issue(bound(), vec!["a".to_owned()], 1000, 600).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let none = BASE64URL.encode(json!({"alg": "none", "kid": ours.key_id}).to_string());
        let other = BASE64URL.encode(serde_json::to_vec(&json!({"sub": "system:admin"})).unwrap());
        let cases = [
            ("expired", token.clone(), 1600),
            ("not yet", token.clone(), 999),
            ("other key", foreign, 1000),
            ("no algorithm", format!("{none}.{}.", parts[1]), 1000),
            ("other payload", format!("{}.{other}.{}", parts[0], parts[2]), 1000),
            ("cut", token[..token.len() - 4].to_owned(), 1000),
            ("two parts", format!("{}.{}", parts[0], parts[1]), 1000),
            ("not a token", "abc".to_owned(), 1000),
            ("empty", String::new(), 1000),
            ("huge", "a".repeat(MAX_TOKEN + 1), 1000),
        ];
        for (case, token, now) in cases {
            assert!(ours.check(&token, now).is_err(), "{case}");
        }
        assert_eq!(ours.check(&token, 1600), Err(TokenError::Expired));
        assert_eq!(ours.check(&token, 999), Err(TokenError::NotYet));
    }

    #[test]
    fn the_published_key_checks_the_signature() {
        let signer = signer();
        let (token, _) = signer.issue(bound(), vec![], 1, 600).unwrap();
        let set = signer.key_set();
        let key = &set["keys"][0];
        let mut point = vec![4_u8];
        for coordinate in ["x", "y"] {
            point.extend(BASE64URL.decode(key[coordinate].as_str().unwrap()).unwrap());
        }
        let (signed, signature) = token.rsplit_once('.').unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
            .verify(signed.as_bytes(), &BASE64URL.decode(signature).unwrap())
            .unwrap();
        let header: Value = part(token.split('.').next().unwrap()).unwrap();
        assert_eq!(header["kid"], key["kid"]);
    }

    #[test]
    fn an_audience_may_be_one_string() {
        let one: Audience = serde_json::from_str("\"a\"").unwrap();
        assert_eq!(one.iter().collect::<Vec<_>>(), ["a"]);
    }
}
