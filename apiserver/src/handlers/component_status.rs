//! `componentstatuses`: the old way to ask how the control plane is. Deprecated since Kubernetes 1.19; answered, and never
//! stored: all its parts live in this process, so whoever is answered at all finds them well.

use super::{method_not_allowed, respond};
use crate::{
    error::{ApiError, Result},
    kinds,
    registry::{Page, Selection, facts::Facts},
    request::{Incoming, options::ListOptions},
    state::App,
};
use axum::response::Response;
use serde_json::json;
use storage::{Key, KeyValue, Revision};

pub(super) const PLURAL: &str = "componentstatuses";
const DEPRECATED: &str = "v1 ComponentStatus is deprecated in v1.19+";
/// As Kubernetes calls them.
const COMPONENTS: [&str; 3] = ["controller-manager", "etcd-0", "scheduler"];

pub fn read(app: &App, incoming: &Incoming) -> Result<Response> {
    let kind = kinds::component_status();
    let accepted = incoming.accepted()?;
    let well = !app.stop.is_cancelled() && app.latches.all_ready();
    let of = |name: &str| {
        let (status, message) = if well { ("True", "ok") } else { ("False", "not ready") };
        let object = json!({
            "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": status, "message": message}],
        });
        object.to_string().into()
    };
    let response = match incoming.info.verb {
        "list" => {
            let selection = Selection::parse(kind, &ListOptions::parse(&incoming.query, false)?)?;
            let items = COMPONENTS.into_iter().map(|name| KeyValue {
                key: Key::new(format!("/core/{PLURAL}/{name}")),
                value: of(name),
                created: Revision(0),
                modified: Revision(0),
            });
            let items = items.filter(|kv| selection.matches(kind, &kv.key, &Facts::of(&kv.value))).collect();
            let page = Page { items, revision: Revision(0), next: None, remaining: None };
            respond::list(kind, accepted, &page)?
        }
        "get" if incoming.info.subresource.is_empty() => {
            let name = COMPONENTS.into_iter().find(|name| *name == incoming.info.name);
            let name = name.ok_or_else(|| ApiError::NotFound {
                group: String::new(),
                resource: "componentstatus".to_owned(),
                name: incoming.info.name.clone(),
            })?;
            respond::object(kind, accepted, false, of(name), &[])?
        }
        _ => return Err(method_not_allowed()),
    };
    Ok(respond::warn(response, &[DEPRECATED.to_owned()]))
}
