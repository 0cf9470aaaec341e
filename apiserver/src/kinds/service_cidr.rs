//! IPAddress and ServiceCIDR: which ranges service addresses come from, and which are taken. Stored and served; the
//! addresses of services here come from the range given at start.

use super::shared::{cells, network, object_meta};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use serde_json::Value;
use std::net::IpAddr;

pub(super) struct IpAddresses;

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
            Ok(ip) if ip.to_string() == name => Vec::new(),
            Ok(ip) => vec![format!("must be in canonical form (\"{ip}\")")],
            Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
        }
    }

    fn validate(object: &IPAddress) -> Errors {
        let (mut errors, parent) = (Errors::default(), &object.spec.parent_ref);
        let path = Path::new("spec").child("parentRef");
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
        let mut errors = Errors::default();
        let path = Path::new("spec").child("parentRef");
        object_meta::immutable(&new.spec.parent_ref, &old.spec.parent_ref, &path, &mut errors);
        errors
    }

    fn row(object: &IPAddress, _: Timestamp) -> Vec<Value> {
        let parent = &object.spec.parent_ref;
        let parts = [
            parent.group.as_deref(),
            Some(parent.resource.as_str()),
            parent.namespace.as_deref(),
            Some(parent.name.as_str()),
        ];
        let parts: Vec<&str> = parts.into_iter().flatten().filter(|p| !p.is_empty()).collect();
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
    }

    fn validate(object: &ServiceCIDR) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("spec").child("cidrs"));
        let cidrs = object.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default();
        match cidrs.len() {
            0 => errors.required(&path, "at least one CIDR required"),
            1 | 2 => {}
            _ => errors.invalid(&path, cidrs, "may only hold up to 2 values"),
        }
        for (i, cidr) in cidrs.iter().enumerate() {
            network::cidr(cidr, &path.index(i), &mut errors);
        }
        let v6 = |cidr: &String| cidr.contains(':');
        if let [first, second] = cidrs
            && v6(first) == v6(second)
        {
            let detail =
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/96";
            errors.invalid(&path, cidrs, detail);
        }
        errors
    }

    fn validate_update(new: &ServiceCIDR, old: &ServiceCIDR) -> Errors {
        let mut errors = Self::validate(new);
        object_meta::immutable(&new.spec, &old.spec, &Path::new("spec").child("cidrs"), &mut errors);
        errors
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
    fn addresses_and_ranges() {
        assert!(IpAddresses::check_name("10.0.0.1").is_empty());
        assert_eq!(IpAddresses::check_name("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
        assert_eq!(IpAddresses::check_name("web").len(), 1);
        let address: IPAddress = object(
            json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "namespace": "n", "name": "web"}}}),
        );
        assert!(texts(IpAddresses::validate(&address)).is_empty());
        assert_eq!(IpAddresses::row(&address, Timestamp::UNIX_EPOCH)[1], "services/n/web");
        let range = |cidrs: Value| -> ServiceCIDR {
            object(json!({"metadata": {"name": "r"}, "spec": {"cidrs": cidrs}}))
        };
        assert!(texts(ServiceCidrs::validate(&range(json!(["10.0.0.0/24", "fd00::/112"])))).is_empty());
        assert_eq!(texts(ServiceCidrs::validate(&range(json!(["10.0.0.0/24", "10.1.0.0/24"])))).len(), 1);
        assert_eq!(texts(ServiceCidrs::validate(&range(json!([])))).len(), 1);
    }
}
