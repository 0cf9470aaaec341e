//! APIService: a group and version served by someone else. Stored and served; requests for such groups are not passed
//! on yet, and a warning says so.

use super::shared::cells;
use super::shared::spec_and_status::spec_and_status;
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use serde_json::Value;

const HTTPS: i32 = 443;
const GROUP_PRIORITY_MAX: i32 = 20_000;
const VERSION_PRIORITY_MAX: i32 = 1_000;

pub(super) struct ApiServices;

impl Kind for ApiServices {
    type Object = APIService;
    const PLURAL: &'static str = "apiservices";
    const SINGULAR: &'static str = "apiservice";
    const UNCONDITIONAL_UPDATE: bool = false;
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const NAMESPACED: bool = false;
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Service", "string", 0, "The reference to the service that hosts this API endpoint."),
        Column::new("Available", "string", 0, "Whether this service is available."),
        Column::age(),
    ];

    fn default(object: &mut APIService) {
        if let Some(service) = &mut object.spec.get_or_insert_default().service {
            service.port.get_or_insert(HTTPS);
        }
    }

    spec_and_status!(APIService, status alone);

    fn validate(object: &APIService) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("spec"));
        let spec = object.spec.clone().unwrap_or_default();
        let (group, version) = (spec.group.unwrap_or_default(), spec.version.unwrap_or_default());
        let wanted = format!("{version}.{group}");
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if name != wanted.trim_end_matches('.') && name != wanted {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
            errors.invalid(&Path::new("metadata").child("name"), name, detail);
        }
        if !group.is_empty() {
            errors.invalid_each(&path.child("group"), &group, names::dns_subdomain(&group));
        }
        errors.invalid_each(&path.child("version"), &version, names::dns1035_label(&version));
        for (field, value, max) in [
            ("groupPriorityMinimum", spec.group_priority_minimum, GROUP_PRIORITY_MAX),
            ("versionPriority", spec.version_priority, VERSION_PRIORITY_MAX),
        ] {
            if value <= 0 || value > max {
                let detail = format!("must be positive and less than {max}");
                errors.invalid(&path.child(field), value, detail);
            }
        }
        match &spec.service {
            None => {
                let ca = spec.ca_bundle.is_some_and(|b| !b.0.is_empty());
                if ca {
                    errors.invalid(&path.child("caBundle"), "", "local APIServices may not have a caBundle");
                }
                if spec.insecure_skip_tls_verify == Some(true) {
                    let detail = "local APIServices may not have insecureSkipTLSVerify";
                    errors.invalid(&path.child("insecureSkipTLSVerify"), true, detail);
                }
            }
            Some(service) => {
                let at = path.child("service");
                for (field, text) in [("name", &service.name), ("namespace", &service.namespace)] {
                    if text.as_deref().unwrap_or("").is_empty() {
                        errors.required(&at.child(field), "");
                    }
                }
                if service.port.is_some_and(|p| !(1..=65535).contains(&p)) {
                    let detail = "port is not valid: must be between 1 and 65535, inclusive";
                    errors.invalid(&at.child("port"), service.port, detail);
                }
                if spec.insecure_skip_tls_verify == Some(true)
                    && spec.ca_bundle.is_some_and(|b| !b.0.is_empty())
                {
                    let detail = "may not be true if caBundle is present";
                    errors.invalid(&path.child("insecureSkipTLSVerify"), true, detail);
                }
            }
        }
        errors
    }

    fn validate_update(new: &APIService, _: &APIService) -> Errors {
        Self::validate(new)
    }

    fn warnings(object: &APIService) -> Vec<String> {
        let remote = object.spec.as_ref().is_some_and(|s| s.service.is_some());
        let text = "APIService: stored, but its group is not passed on: this server has no aggregation yet";
        remote.then(|| text.to_owned()).into_iter().collect()
    }

    fn row(object: &APIService, now: Timestamp) -> Vec<Value> {
        let service = object.spec.as_ref().and_then(|s| s.service.as_ref()).map(|s| {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            format!("{}/{}", text(&s.namespace), text(&s.name))
        });
        let all = object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let available = match all.iter().find(|c| c.type_ == "Available") {
            Some(c) if c.status != "True" => format!("{} ({})", c.status, c.reason.as_deref().unwrap_or("")),
            Some(c) => c.status.clone(),
            None => "Unknown".to_owned(),
        };
        vec![
            cells::name(&object.metadata),
            service.unwrap_or_else(|| "Local".to_owned()).into(),
            available.into(),
            cells::age(&object.metadata, now),
        ]
    }
}
