//! Devices that a pod claims, and how its containers name the claims.

use api::field::{Error, Errors, Path, Type};
use api::names;
use k8s_openapi::api::core::v1::{PodSpec, ResourceClaim, ResourceRequirements};
use std::collections::BTreeSet;

pub(super) fn validate(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let claims = spec.resource_claims.as_deref().unwrap_or_default();
    validate_claims(spec, &path.child("resourceClaims"), errors);
    let known: BTreeSet<&str> = claims.iter().map(|c| c.name.as_str()).filter(|n| !n.is_empty()).collect();
    let containers = [
        ("initContainers", spec.init_containers.as_deref().unwrap_or_default()),
        ("containers", spec.containers.as_slice()),
    ];
    for (field, all) in containers {
        for (i, container) in all.iter().enumerate() {
            used(container.resources.as_ref(), &known, &path.child(field).index(i), errors);
        }
    }
    if spec.resources.as_ref().is_some_and(|r| r.claims.is_some()) {
        let detail = "claims may not be set for Resources at pod-level";
        errors.forbidden(&path.child("resources").child("claims"), detail);
    }
    used(spec.resources.as_ref(), &known, path, errors);
}

fn validate_claims(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, claim) in spec.resource_claims.iter().flatten().enumerate() {
        let path = path.index(i);
        let name = path.child("name");
        if claim.name.is_empty() {
            errors.required(&name, "");
        } else if seen.insert(claim.name.as_str()) {
            errors.invalid_each(&name, &claim.name, names::dns_label(&claim.name));
        } else {
            errors.duplicate(&name, &claim.name);
        }
        let sources = [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ];
        match sources.iter().filter(|(_, name)| name.is_some()).count() {
            0 => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid(&path, claim, detail);
            }
            1 => {}
            _ => {
                let detail =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid(&path, claim, detail);
            }
        }
        for (field, name) in sources {
            if let Some(name) = name {
                errors.invalid_each(&path.child(field), name, names::dns_subdomain(name));
            }
        }
    }
}

/// The claims that a container uses are claims of its pod, each named once.
fn used(resources: Option<&ResourceRequirements>, known: &BTreeSet<&str>, path: &Path, errors: &mut Errors) {
    let path = path.child("resources").child("claims");
    let mut seen: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (i, claim) in resources.iter().flat_map(|r| r.claims.iter().flatten()).enumerate() {
        let ResourceClaim { name, request } = claim;
        let (name, request) = (name.as_str(), request.as_deref().unwrap_or_default());
        let path = path.index(i);
        if name.is_empty() {
            errors.required(&path, "");
            continue;
        }
        if !request.is_empty() {
            errors.invalid_each(&path.child("request"), request, names::dns_label(request));
        }
        // The whole claim holds each of its requests.
        let whole = seen.contains(&(name, ""));
        let part = request.is_empty() && seen.iter().any(|(n, _)| *n == name);
        if whole || part {
            errors.duplicate(&path, name);
        } else if !seen.insert((name, request)) {
            errors.duplicate(&path, format!("{name}/{request}"));
        }
        if !known.contains(name) {
            let all: Vec<&str> = known.iter().copied().collect();
            let list =
                if all.is_empty() { " which is empty".to_owned() } else { format!(": {}", all.join(", ")) };
            errors.add(Error {
                kind: Type::NotFound,
                path: path.to_string(),
                bad_value: Some(format!("{name:?}")),
                detail: format!("must be one of the names in pod.spec.resourceClaims{list}"),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::{Value, json};

    fn faults(spec: Value) -> Vec<String> {
        let mut errors = Errors::default();
        validate(&object(spec), &Path::new("spec"), &mut errors);
        texts(errors)
    }

    #[test]
    fn claims_and_their_users() {
        let user = |claims: Value| json!([{"name": "c", "resources": {"claims": claims}}]);
        assert!(
            faults(json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": "x"}],
                "containers": user(json!([{"name": "gpu"}]))}))
            .is_empty()
        );
        assert_eq!(
            faults(json!({"resourceClaims": [{"name": "gpu"}],
                "containers": user(json!([{"name": "gpu", "request": "a"}, {"name": "gpu"}, {"name": "x"}]))})),
            [
                "spec.resourceClaims[0]: Invalid value: {\"name\":\"gpu\"}: must specify one of: `resourceClaimName`, \
                 `resourceClaimTemplateName`",
                "spec.containers[0].resources.claims[1]: Duplicate value: \"gpu\"",
                "spec.containers[0].resources.claims[2]: Not found: \"x\": must be one of the names in \
                 pod.spec.resourceClaims: gpu",
            ]
        );
        assert_eq!(
            faults(json!({"containers": [], "resources": {"claims": [{"name": "x"}]}})),
            [
                "spec.resources.claims: Forbidden: claims may not be set for Resources at pod-level",
                "spec.resources.claims[0]: Not found: \"x\": must be one of the names in pod.spec.resourceClaims which \
                 is empty",
            ]
        );
    }
}
