//! Which names are allowed: the checks of `k8s.io/apimachinery/pkg/util/validation`. Each returns what is wrong; empty is fine.

/// RFC 1123 subdomain: most object names.
pub fn dns_subdomain(name: &str) -> Vec<String> {
    let _ = name;
    Vec::new()
}
