//! Addresses, ports and protocols.

use api::field::{Errors, Path};
use api::names;
use std::net::IpAddr;

pub(in crate::kinds) const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// An IP address; the address is answered for further checks.
pub(in crate::kinds) fn ip(text: &str, path: &Path, errors: &mut Errors) -> Option<IpAddr> {
    let ip = text.parse().ok();
    if ip.is_none() {
        errors.invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
    ip
}

/// The name of a host, which no address is.
pub(in crate::kinds) fn no_address(host: &str, path: &Path, errors: &mut Errors) {
    if host.parse::<IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
}

/// An address that traffic may be sent to: not loopback, link-local and the like.
pub(in crate::kinds) fn endpoint_ip(ip: IpAddr, path: &Path, errors: &mut Errors) {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let fault = match () {
        () if ip.is_unspecified() => "may not be unspecified (0.0.0.0 or ::)",
        () if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        () if link_local => "may not be in the link-local range (169.254.0.0/16, fe80::/10)",
        () if link_local_multicast => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        () => return,
    };
    errors.invalid(path, ip.to_string(), fault);
}

/// A network in CIDR form.
pub(in crate::kinds) fn cidr(text: &str, path: &Path, errors: &mut Errors) {
    let valid = text.split_once('/').is_some_and(|(ip, bits)| match (ip.parse(), bits.parse::<u8>()) {
        (Ok(IpAddr::V4(_)), Ok(bits)) => bits <= 32,
        (Ok(IpAddr::V6(_)), Ok(bits)) => bits <= 128,
        _ => false,
    });
    if !valid {
        errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

/// A network as newer kinds want it: in its one form, with nothing beyond the prefix.
pub(in crate::kinds) fn strict_cidr(text: &str, path: &Path, errors: &mut Errors) {
    let Some((address, bits)) = text.split_once('/') else { return cidr(text, path, errors) };
    let trimmed = bits.trim_start_matches('0');
    let zeros = has_leading_zeros(address) || bits.len() > 1 && bits != trimmed;
    let (Ok(ip), Ok(length)) = (without_zeros(address).parse::<IpAddr>(), bits.parse::<u32>()) else {
        return cidr(text, path, errors);
    };
    let (number, width) = match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    };
    // Not signed, and no longer than an address.
    if length > width || bits.starts_with('+') {
        return cidr(text, path, errors);
    }
    let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let beyond = 1_u128.checked_shl(width - length).map_or(u128::MAX, |end| end - 1);
    let canonical = format!("{ip}/{length}");
    if zeros {
        errors.invalid(path, text, "must not have leading 0s in IP or prefix length");
    } else if mapped {
        errors.invalid(path, text, "must not have an IPv4-mapped IPv6 address");
    } else if number & beyond != 0 {
        errors.invalid(path, text, "must not have bits set beyond the prefix length");
    } else if text != canonical {
        errors.invalid(path, text, format!("must be in canonical form ({canonical:?})"));
    }
}

/// Whether this would be an IPv4 address, were it not for zeros in front of its numbers.
pub(in crate::kinds) fn has_leading_zeros(text: &str) -> bool {
    text.parse::<IpAddr>().is_err() && without_zeros(text).parse::<IpAddr>().is_ok()
}

fn without_zeros(text: &str) -> String {
    if text.contains(':') {
        return text.to_owned();
    }
    let number = |part: &str| match part.trim_start_matches('0') {
        "" if !part.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    text.split('.').map(number).collect::<Vec<_>>().join(".")
}

/// `example.com/some/path`.
pub(in crate::kinds) fn domain_prefixed(text: &str, path: &Path, errors: &mut Errors) {
    if text.is_empty() {
        return errors.required(path, "");
    }
    let Some((domain, rest)) = text.split_once('/').filter(|(d, r)| !d.is_empty() && !r.is_empty()) else {
        return errors.invalid(path, text, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    errors.invalid_each(path, domain, names::dns_subdomain(domain));
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/%:=_~!$&'()*+,;-.@".contains(c);
    if !rest.chars().all(allowed) {
        errors.invalid(path, rest, "Invalid path");
    }
}

/// A host name, or `*.` and one.
pub(in crate::kinds) fn host_or_wildcard(host: &str, path: &Path, errors: &mut Errors) {
    if !host.contains('*') {
        return errors.invalid_each(path, host, names::dns_subdomain(host));
    }
    if !host.strip_prefix("*.").is_some_and(|rest| names::dns_subdomain(rest).is_empty()) {
        let detail = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must \
                      consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character \
                      (e.g. '*.example.com', regex used for validation is \
                      '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        errors.invalid(path, host, detail);
    }
}

pub(in crate::kinds) fn port(port: i32, path: &Path, errors: &mut Errors) {
    errors.invalid_each(path, port, names::port_number(i64::from(port)));
}

pub(in crate::kinds) fn protocol(protocol: Option<&str>, path: &Path, errors: &mut Errors) {
    match protocol.unwrap_or("") {
        "" => errors.required(path, ""),
        known if PROTOCOLS.contains(&known) => {}
        other => errors.not_supported(path, other, &PROTOCOLS),
    }
}

pub(in crate::kinds) fn app_protocol(protocol: Option<&String>, path: &Path, errors: &mut Errors) {
    if let Some(protocol) = protocol {
        errors.invalid_each(path, protocol, names::qualified_name(protocol));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::texts;

    #[test]
    fn addresses() {
        for (text, fault) in [
            ("10.0.0.1", None),
            ("fd00::1", None),
            ("0.0.0.0", Some("may not be unspecified (0.0.0.0 or ::)")),
            ("127.0.0.1", Some("may not be in the loopback range (127.0.0.0/8, ::1/128)")),
            ("169.254.1.1", Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)")),
            ("ff02::1", Some("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")),
            ("010.0.0.1", Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")),
        ] {
            let (mut errors, path) = (Errors::default(), Path::new("ip"));
            if let Some(ip) = ip(text, &path, &mut errors) {
                endpoint_ip(ip, &path, &mut errors);
            }
            let expected: Vec<_> =
                fault.iter().map(|f| format!("ip: Invalid value: {text:?}: {f}")).collect();
            assert_eq!(texts(errors), expected);
        }
        let mut errors = Errors::default();
        cidr("10.0.0.0/24", &Path::new("c"), &mut errors);
        assert!(errors.is_empty());
        cidr("10.0.0.0/33", &Path::new("c"), &mut errors);
        assert_eq!(errors.0.len(), 1);
    }
}
