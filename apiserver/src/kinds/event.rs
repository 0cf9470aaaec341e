//! Event: what happened to an object, for people. Stored as core/v1, served as events.k8s.io/v1 too.

use super::shared::cells;
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSeries};
use k8s_openapi::api::events::v1 as new;
use serde_json::Value;

/// Kubernetes' limits for events in the new style (those with `eventTime`).
const SHORT_MAX_BYTES: usize = 128;
const MESSAGE_MAX_BYTES: usize = 1024;

pub(super) struct Events;

impl Kind for Events {
    type Object = Event;
    const PLURAL: &'static str = "events";
    const SINGULAR: &'static str = "event";
    const SHORT_NAMES: &'static [&'static str] = &["ev"];
    const COLUMNS: &'static [Column] = &[
        Column::new("Last Seen", "string", 0, "When the event was last seen"),
        Column::new("Type", "string", 0, "Normal or Warning"),
        Column::new("Reason", "string", 0, "Short, machine-readable reason"),
        Column::new("Object", "string", 0, "The object the event is about"),
        Column::new("Subobject", "string", 1, "The part of the object the event is about"),
        Column::new("Source", "string", 1, "The component that reported the event"),
        Column::new("Message", "string", 0, "What happened, for people"),
        Column::new("First Seen", "string", 1, "When the event was first seen"),
        Column::new("Count", "string", 1, "How often the event has been seen"),
        Column::formatted("Name", "string", "name", 1, "Name of the event"),
    ];
    const CREATE_ON_UPDATE: bool = true;
    const SELECTABLE: &'static [&'static str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];

    fn validate(object: &Event) -> Errors {
        let mut errors = Errors::default();
        let namespace = object.metadata.namespace.as_deref().unwrap_or("");
        let involved = object.involved_object.namespace.as_deref().unwrap_or("");
        let agrees = match (&object.event_time, involved) {
            (None, "") => matches!(namespace, "" | "default"),
            (Some(_), "") => matches!(namespace, "default" | "kube-system"),
            (None, involved) => involved == namespace,
            (Some(_), _) => true,
        };
        if !agrees {
            errors.invalid(
                &Path::new("involvedObject.namespace"),
                involved,
                "does not match event.namespace",
            );
        }
        if object.event_time.is_some() {
            new_style(object, &mut errors);
        }
        errors
    }

    fn validate_update(new: &Event, _old: &Event) -> Errors {
        Self::validate(new)
    }

    fn row(object: &Event, now: Timestamp) -> Vec<Value> {
        let first = match &object.first_timestamp {
            Some(first) => api::age::since(Some(first.0), now),
            None => cells::since_micro(object.event_time.as_ref(), now),
        };
        let mut last = match &object.last_timestamp {
            Some(last) => api::age::since(Some(last.0), now),
            None => first.clone(),
        };
        let mut count = object.count.unwrap_or(0);
        if let Some(series) = &object.series {
            last = cells::since_micro(series.last_observed_time.as_ref(), now);
            count = series.count.unwrap_or(0);
        } else if count == 0 {
            count = 1;
        }
        let kind = object.involved_object.kind.as_deref().unwrap_or("").to_lowercase();
        let target = match object.involved_object.name.as_deref() {
            None | Some("") => kind,
            Some(name) => format!("{kind}/{name}"),
        };
        let message = object.message.as_deref().unwrap_or("").trim();
        vec![
            last.into(),
            cells::text(object.type_.as_ref()),
            cells::text(object.reason.as_ref()),
            target.into(),
            cells::text(object.involved_object.field_path.as_ref()),
            source(object).into(),
            message.into(),
            first.into(),
            count.into(),
            cells::name(&object.metadata),
        ]
    }

    fn selectable_fields(object: &Event) -> Vec<(&'static str, String)> {
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let about = &object.involved_object;
        let component = object.source.as_ref().and_then(|s| s.component.clone()).filter(|c| !c.is_empty());
        vec![
            ("involvedObject.kind", text(&about.kind)),
            ("involvedObject.namespace", text(&about.namespace)),
            ("involvedObject.name", text(&about.name)),
            ("involvedObject.uid", text(&about.uid)),
            ("involvedObject.apiVersion", text(&about.api_version)),
            ("involvedObject.resourceVersion", text(&about.resource_version)),
            ("involvedObject.fieldPath", text(&about.field_path)),
            ("reason", text(&object.reason)),
            ("reportingComponent", text(&object.reporting_component)),
            ("source", component.unwrap_or_else(|| text(&object.reporting_component))),
            ("type", text(&object.type_)),
        ]
    }
}

/// events.k8s.io/v1: the same events in the newer form.
pub(super) struct EventsV1;

impl Kind for EventsV1 {
    type Object = new::Event;
    const PLURAL: &'static str = Events::PLURAL;
    const SINGULAR: &'static str = Events::SINGULAR;
    const SHORT_NAMES: &'static [&'static str] = Events::SHORT_NAMES;
    const COLUMNS: &'static [Column] = Events::COLUMNS;
    const CREATE_ON_UPDATE: bool = true;
    const IS_VIEW: bool = true;
    const STORED_GROUP: &'static str = "";
    const SELECTABLE: &'static [&'static str] = &[
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reason",
        "reportingController",
        "type",
    ];

    fn to_stored(object: &new::Event) -> Vec<u8> {
        serde_json::to_vec(&to_core(object)).unwrap_or_default()
    }
    fn from_stored(bytes: &[u8]) -> Result<new::Event, String> {
        serde_json::from_slice(bytes).map(of_core).map_err(|e| e.to_string())
    }
    fn validate(object: &new::Event) -> Errors {
        let mut errors = Events::validate(&to_core(object));
        // This version is only for events in the new style.
        if object.event_time.is_none() {
            errors.required(&Path::new("eventTime"), "");
        }
        let type_ = object.type_.as_deref().unwrap_or_default();
        if !["Normal", "Warning"].contains(&type_) {
            errors.invalid(&Path::new("type"), "", format!("has invalid value: {type_}"));
        }
        for (field, set) in [
            ("firstTimestamp", object.deprecated_first_timestamp.is_some()),
            ("lastTimestamp", object.deprecated_last_timestamp.is_some()),
            ("count", object.deprecated_count.unwrap_or(0) != 0),
        ] {
            if set {
                errors.invalid(&Path::new(field), "", "needs to be unset");
            }
        }
        if object.series.as_ref().is_some_and(|s| s.count < 2) {
            let count = object.series.as_ref().map(|s| s.count);
            errors.invalid(&Path::new("series.count"), count, "should be at least 2");
        }
        errors
    }
    fn validate_update(new: &new::Event, old: &new::Event) -> Errors {
        // Events of the old style may still be touched.
        match old.event_time {
            None => Events::validate(&to_core(new)),
            Some(_) => Self::validate(new),
        }
    }
    fn row(object: &new::Event, now: Timestamp) -> Vec<Value> {
        Events::row(&to_core(object), now)
    }
    fn selectable_fields(object: &new::Event) -> Vec<(&'static str, String)> {
        // What core/v1 selects, in its order; here the source has no name.
        let fields =
            Events::selectable_fields(&to_core(object)).into_iter().filter(|(name, _)| *name != "source");
        Self::SELECTABLE.iter().copied().zip(fields.map(|(_, value)| value)).collect()
    }
}

fn to_core(event: &new::Event) -> Event {
    let event = event.clone();
    Event {
        action: event.action,
        count: event.deprecated_count,
        event_time: event.event_time,
        first_timestamp: event.deprecated_first_timestamp,
        involved_object: event.regarding.unwrap_or_default(),
        last_timestamp: event.deprecated_last_timestamp,
        message: event.note,
        metadata: event.metadata,
        reason: event.reason,
        related: event.related,
        reporting_component: event.reporting_controller,
        reporting_instance: event.reporting_instance,
        series: event
            .series
            .map(|s| EventSeries { count: Some(s.count), last_observed_time: Some(s.last_observed_time) }),
        source: event.deprecated_source,
        type_: event.type_,
    }
}

fn of_core(event: Event) -> new::Event {
    let series = event.series.and_then(|s| {
        let last_observed_time = s.last_observed_time?;
        Some(new::EventSeries { count: s.count.unwrap_or(0), last_observed_time })
    });
    let about = event.involved_object;
    new::Event {
        action: event.action,
        deprecated_count: event.count,
        deprecated_first_timestamp: event.first_timestamp,
        deprecated_last_timestamp: event.last_timestamp,
        deprecated_source: event.source,
        event_time: event.event_time,
        metadata: event.metadata,
        note: event.message,
        reason: event.reason,
        regarding: (about != Default::default()).then_some(about),
        related: event.related,
        reporting_controller: event.reporting_component,
        reporting_instance: event.reporting_instance,
        series,
        type_: event.type_,
    }
}

fn source(event: &Event) -> String {
    let source = event.source.as_ref();
    let component = cells::text_or(
        source.and_then(|s| s.component.as_ref()),
        event.reporting_component.as_deref().unwrap_or(""),
    );
    let host = cells::text_or(
        source.and_then(|s| s.host.as_ref()),
        event.reporting_instance.as_deref().unwrap_or(""),
    );
    [component, host].into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join(", ")
}

fn new_style(event: &Event, errors: &mut Errors) {
    let component = Path::new("reportingComponent");
    let reporter = event.reporting_component.as_deref().unwrap_or("");
    if reporter.is_empty() {
        errors.required(&component, "");
    }
    errors.invalid_each(&component, reporter, names::qualified_name(reporter));
    for (name, value) in [
        ("reportingInstance", &event.reporting_instance),
        ("action", &event.action),
        ("reason", &event.reason),
    ] {
        match value.as_deref().unwrap_or("") {
            "" => errors.required(&Path::new(name), ""),
            text if text.len() > SHORT_MAX_BYTES => {
                errors.invalid(
                    &Path::new(name),
                    "",
                    format!("can have at most {SHORT_MAX_BYTES} characters"),
                );
            }
            _ => {}
        }
    }
    if event.message.as_deref().is_some_and(|m| m.len() > MESSAGE_MAX_BYTES) {
        errors.invalid(&Path::new("message"), "", format!("can have at most {MESSAGE_MAX_BYTES} characters"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn namespaces_agree() {
        let event = |ns: &str, about: &str| {
            object::<Event>(json!({"metadata": {"namespace": ns}, "involvedObject": {"namespace": about}}))
        };
        assert!(Events::validate(&event("a", "a")).is_empty());
        assert!(Events::validate(&event("default", "")).is_empty());
        assert_eq!(
            texts(Events::validate(&event("a", "b"))),
            ["involvedObject.namespace: Invalid value: \"b\": does not match event.namespace"]
        );
        let new =
            object::<Event>(json!({"metadata": {"namespace": "a"}, "involvedObject": {"namespace": "a"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingComponent": "kubelet", "reason": "r"}));
        assert_eq!(
            texts(Events::validate(&new)),
            ["reportingInstance: Required value", "action: Required value"]
        );
    }

    #[test]
    fn both_versions_are_one() {
        let old = object::<Event>(json!({
            "metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"kind": "Pod", "name": "p", "namespace": "a"},
            "type": "Normal", "reason": "Pulled", "message": "done", "count": 4, "source": {"component": "kubelet"}
        }));
        let seen = EventsV1::from_stored(&serde_json::to_vec(&old).unwrap()).unwrap();
        let value = serde_json::to_value(&seen).unwrap();
        assert_eq!((&value["apiVersion"], &value["note"]), (&json!("events.k8s.io/v1"), &json!("done")));
        assert_eq!((&value["regarding"]["name"], &value["deprecatedCount"]), (&json!("p"), &json!(4)));
        assert_eq!(serde_json::from_slice::<Event>(&EventsV1::to_stored(&seen)).unwrap(), old);
        assert_eq!(EventsV1::selectable_fields(&seen)[2], ("regarding.name", "p".to_owned()));
        let faults = texts(EventsV1::validate(&seen));
        assert_eq!(faults, ["eventTime: Required value", "count: Invalid value: \"\": needs to be unset"]);
    }

    #[test]
    fn row() {
        let event = object::<Event>(json!({
            "metadata": {"name": "p.17", "namespace": "a"}, "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"},
            "type": "Warning", "reason": "BackOff", "message": " Back-off \n", "firstTimestamp": at(0), "lastTimestamp": at(50),
            "count": 4, "source": {"component": "kubelet", "host": "n"}
        }));
        assert_eq!(
            json!(Events::row(&event, "1970-01-01T00:01:00Z".parse().unwrap())),
            json!([
                "10s",
                "Warning",
                "BackOff",
                "pod/p",
                "spec.containers{c}",
                "kubelet, n",
                "Back-off",
                "60s",
                4,
                "p.17"
            ])
        );
        assert_eq!(Events::selectable_fields(&event).len(), Events::SELECTABLE.len());
    }
}
