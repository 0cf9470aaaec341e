//! IPAddress and ServiceCIDR: which addresses of services are taken (`registry::addresses` writes those of services), and
//! from which ranges they come: here from the one given at start, which the ServiceCIDR `kubernetes` tells of. Others are
//! kept; their controller says in their conditions that nothing is taken from them.

use super::shared::{cells, network, object_meta};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ParentReference, ServiceCIDR};
use serde_json::Value;
use std::net::IpAddr;

pub(super) struct IpAddresses;

/// A parent as messages show it.
#[derive(PartialEq, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
struct Parent<'a> {
    group: &'a str,
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl<'a> Parent<'a> {
    fn of(parent: &'a ParentReference) -> Self {
        Self {
            group: parent.group.as_deref().unwrap_or_default(),
            resource: &parent.resource,
            namespace: parent.namespace.as_deref().unwrap_or_default(),
            name: &parent.name,
        }
    }
}

impl Kind for IpAddresses {
    type Object = IPAddress;
    const PLURAL: &'static str = "ipaddresses";
    const SINGULAR: &'static str = "ipaddress";
    const SHORT_NAMES: &'static [&'static str] = &["ip"];
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] =
        &[Column::name(), Column::new("ParentRef", "string", 0, "Whose address it is.")];

    fn check_name(name: &str) -> Vec<String> {
        // In the one form an address has.
        match name.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
                vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
            }
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(ip) => vec![format!("must be in canonical form (\"{ip}\")")],
            Err(_) if network::has_leading_zeros(name) => vec!["must not have leading 0s".to_owned()],
            Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        }
    }

    fn validate(object: &IPAddress) -> Errors {
        let (mut errors, parent) = (Errors::default(), &object.spec.parent_ref);
        let path = Path::new("spec").child("parentRef");
        if *parent == ParentReference::default() {
            errors.required(&path, "");
            return errors;
        }
        if let Some(group) = parent.group.as_deref().filter(|g| !g.is_empty()) {
            errors.invalid_each(&path.child("group"), group, names::dns_subdomain(group));
        }
        let namespace = parent.namespace.as_deref().filter(|n| !n.is_empty());
        for (field, text) in [
            ("resource", Some(parent.resource.as_str())),
            ("name", Some(parent.name.as_str())),
            ("namespace", namespace),
        ] {
            match text {
                None => {}
                Some("") => errors.required(&path.child(field), ""),
                Some(text) => errors.invalid_each(&path.child(field), text, names::path_segment(text)),
            }
        }
        errors
    }

    fn validate_update(new: &IPAddress, old: &IPAddress) -> Errors {
        let mut errors = Self::validate(new);
        let path = Path::new("spec").child("parentRef");
        let (new, old) = (Parent::of(&new.spec.parent_ref), Parent::of(&old.spec.parent_ref));
        object_meta::immutable(new, old, &path, &mut errors);
        errors
    }

    fn row(object: &IPAddress, _: Timestamp) -> Vec<Value> {
        let parent = &object.spec.parent_ref;
        let group = parent.group.as_deref().filter(|g| !g.is_empty()).map(|group| format!(".{group}"));
        let resource = format!("{}{}", parent.resource, group.unwrap_or_default()).to_lowercase();
        let namespace = parent.namespace.as_deref().filter(|n| !n.is_empty());
        let parts: Vec<&str> =
            [Some(resource.as_str()), namespace, Some(parent.name.as_str())].into_iter().flatten().collect();
        vec![cells::name(&object.metadata), parts.join("/").into()]
    }
}

pub(super) struct ServiceCidrs;

impl Kind for ServiceCidrs {
    type Object = ServiceCIDR;
    const PLURAL: &'static str = "servicecidrs";
    const SINGULAR: &'static str = "servicecidr";
    const NAMESPACED: bool = false;
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] =
        &[Column::name(), Column::new("CIDRs", "string", 0, "Ranges of service addresses."), Column::age()];

    fn prepare_create(object: &mut ServiceCIDR) {
        object.spec.get_or_insert_default();
        object.status = Some(Default::default());
    }
    fn prepare_update(new: &mut ServiceCIDR, old: &ServiceCIDR) {
        new.status = old.status.clone();
    }
    fn prepare_status_update(new: &mut ServiceCIDR, old: &ServiceCIDR) {
        new.spec = old.spec.clone();
        object_meta::keep(&mut new.metadata, &old.metadata);
    }

    fn validate(object: &ServiceCIDR) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("spec").child("cidrs"));
        let cidrs = object.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default();
        match cidrs.len() {
            0 => errors.required(&path, "at least one CIDR required"),
            1 | 2 => {}
            _ => {
                errors.invalid(&path, serde_json::json!({"CIDRs": cidrs}), "may only hold up to 2 values");
            }
        }
        if cidrs.len() > 2 {
            return errors;
        }
        for (i, cidr) in cidrs.iter().enumerate() {
            network::strict_cidr(cidr, &path.index(i), &mut errors);
        }
        let family = |cidr: &String| cidr.split_once('/')?.0.parse().ok().map(|ip: IpAddr| ip.is_ipv4());
        if let [first, second] = cidrs
            && family(first).is_some()
            && family(first) == family(second)
        {
            let detail =
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.invalid(&path, cidrs, detail);
        }
        errors
    }

    /// A second family may be added; nothing else changes.
    fn validate_update(new: &ServiceCIDR, old: &ServiceCIDR) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("spec").child("cidrs"));
        let cidrs =
            |object: &ServiceCIDR| object.spec.as_ref().and_then(|s| s.cidrs.clone()).unwrap_or_default();
        let (after, before) = (cidrs(new), cidrs(old));
        if after.len() != before.len() && (before.len(), after.len()) != (1, 2) {
            errors.invalid(&path, &after, "field is immutable");
            return errors;
        }
        for (i, (after, before)) in after.iter().zip(&before).enumerate() {
            object_meta::immutable(after, before, &path.index(i), &mut errors);
        }
        if after.len() != before.len() {
            errors.extend(Self::validate(new));
        }
        errors
    }

    fn warnings(object: &ServiceCIDR) -> Vec<String> {
        let text = "spec.cidrs: this server takes the addresses of services from the range that it was started with \
                    (--service-cidr); a ServiceCIDR outside of it is kept, but not used";
        let own = object.metadata.name.as_deref() == Some("kubernetes");
        if own { Vec::new() } else { vec![text.to_owned()] }
    }

    fn row(object: &ServiceCIDR, now: Timestamp) -> Vec<Value> {
        let cidrs = object.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default();
        vec![cells::name(&object.metadata), cidrs.join(",").into(), cells::age(&object.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn addresses() {
        for (name, fault) in [
            ("10.0.0.1", None),
            ("2001:db8::1", None),
            ("2001:DB8::1", Some("must be in canonical form (\"2001:db8::1\")")),
            ("::ffff:10.0.0.1", Some("must not be an IPv4-mapped IPv6 address")),
            ("010.0.0.1", Some("must not have leading 0s")),
            ("web", Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")),
        ] {
            assert_eq!(IpAddresses::check_name(name), Vec::from_iter(fault), "{name}");
        }
        let address = |parent: Value| -> IPAddress {
            object(json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}}))
        };
        let faults = |parent: Value| texts(IpAddresses::validate(&address(parent)));
        let service = json!({"resource": "services", "namespace": "n", "name": "web"});
        assert!(faults(service.clone()).is_empty());
        assert_eq!(faults(json!({})), ["spec.parentRef: Required value"]);
        assert_eq!(
            faults(json!({"group": "Example", "namespace": "a/b"})),
            [
                "spec.parentRef.group: Invalid value: \"Example\": a lowercase RFC 1123 subdomain must consist of lower case \
                 alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
                 'example.com', regex used for validation is \
                 '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.parentRef.resource: Required value",
                "spec.parentRef.name: Required value",
                "spec.parentRef.namespace: Invalid value: \"a/b\": may not contain '/'",
            ]
        );
        let row = |parent: Value| IpAddresses::row(&address(parent), Timestamp::UNIX_EPOCH)[1].clone();
        assert_eq!(row(service.clone()), "services/n/web");
        assert_eq!(row(json!({"group": "g.io", "resource": "Things", "name": "a"})), "things.g.io/a");
        let other = json!({"resource": "services", "namespace": "n", "name": "other"});
        assert_eq!(
            texts(IpAddresses::validate_update(&address(other), &address(service))),
            ["spec.parentRef: Invalid value: \
              {\"Group\":\"\",\"Resource\":\"services\",\"Namespace\":\"n\",\"Name\":\"other\"}: field is immutable"]
        );
    }

    #[test]
    fn ranges() {
        let range = |cidrs: Value| -> ServiceCIDR {
            object(json!({"metadata": {"name": "r"}, "spec": {"cidrs": cidrs}}))
        };
        for (cidrs, fault) in [
            (json!(["10.0.0.0/24"]), None),
            (json!(["10.0.0.0/24", "fd00::/112"]), None),
            (json!([]), Some("spec.cidrs: Required value: at least one CIDR required")),
            (
                json!(["10.0.0.0/24", "10.1.0.0/24"]),
                Some(
                    "spec.cidrs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one IP for \
                      each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
                ),
            ),
            (
                json!(["a", "b", "c"]),
                Some(
                    "spec.cidrs: Invalid value: {\"CIDRs\":[\"a\",\"b\",\"c\"]}: may only hold up to 2 values",
                ),
            ),
            (
                json!(["10.0.0.1/24"]),
                Some(
                    "spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length",
                ),
            ),
            (
                json!(["10.00.0.0/24"]),
                Some(
                    "spec.cidrs[0]: Invalid value: \"10.00.0.0/24\": must not have leading 0s in IP or prefix length",
                ),
            ),
            (
                json!(["FD00::/112"]),
                Some(
                    "spec.cidrs[0]: Invalid value: \"FD00::/112\": must be in canonical form (\"fd00::/112\")",
                ),
            ),
        ] {
            assert_eq!(texts(ServiceCidrs::validate(&range(cidrs))), Vec::from_iter(fault));
        }
        let update = |new: Value, old: Value| texts(ServiceCidrs::validate_update(&range(new), &range(old)));
        let (one, other) = (json!(["10.0.0.0/24"]), json!(["10.1.0.0/24"]));
        assert!(update(one.clone(), one.clone()).is_empty());
        assert!(update(json!(["10.0.0.0/24", "fd00::/112"]), one.clone()).is_empty());
        assert_eq!(
            update(other, one.clone()),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable"]
        );
        assert_eq!(
            update(one, json!(["10.0.0.0/24", "fd00::/112"])),
            ["spec.cidrs: Invalid value: [\"10.0.0.0/24\"]: field is immutable"]
        );
    }
}
