//! ComponentStatus: how a part of the control plane is. Asked for and never stored (`handlers::component_status`), so it is
//! not in the table of kinds; here is how it is drawn.

use super::{Column, Kind};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ComponentStatus;
use serde_json::Value;

pub(super) struct ComponentStatuses;

impl Kind for ComponentStatuses {
    type Object = ComponentStatus;
    const PLURAL: &'static str = "componentstatuses";
    const SINGULAR: &'static str = "componentstatus";
    const NAMESPACED: bool = false;
    const SHORT_NAMES: &'static [&'static str] = &["cs"];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Status", "string", 0, "Whether the component is healthy"),
        Column::new("Message", "string", 0, "What it says about itself"),
        Column::new("Error", "string", 0, "What went wrong when it was asked"),
    ];

    fn row(object: &ComponentStatus, _now: Timestamp) -> Vec<Value> {
        let healthy = object.conditions.iter().flatten().find(|c| c.type_ == "Healthy");
        let status = match healthy.map(|c| c.status.as_str()) {
            Some("True") => "Healthy",
            Some("False") => "Unhealthy",
            _ => "Unknown",
        };
        let text = |text: Option<&String>| Value::from(text.map_or("", String::as_str));
        vec![
            text(object.metadata.name.as_ref()),
            status.into(),
            text(healthy.and_then(|c| c.message.as_ref())),
            text(healthy.and_then(|c| c.error.as_ref())),
        ]
    }
}
