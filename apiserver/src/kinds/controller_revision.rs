//! ControllerRevision: one remembered state of a StatefulSet or DaemonSet; its data never changes.

use super::shared::{cells, object_meta};
use super::{Column, Kind};
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use serde_json::Value;

pub(super) struct ControllerRevisions;

impl Kind for ControllerRevisions {
    type Object = ControllerRevision;
    const PLURAL: &'static str = "controllerrevisions";
    const SINGULAR: &'static str = "controllerrevision";
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Controller", "string", 0, "Controller of the object"),
        Column::new("Revision", "string", 0, "Number of the revision"),
        Column::age(),
    ];

    fn validate(object: &ControllerRevision) -> Errors {
        let mut errors = Errors::default();
        match &object.data {
            None => errors.required(&Path::new("data"), "data is mandatory"),
            Some(data) if !data.0.is_object() => {
                errors.invalid(&Path::new("data"), "", "must be a valid JSON object")
            }
            Some(_) => {}
        }
        if object.revision < 0 {
            errors.invalid(&Path::new("revision"), object.revision, "must be greater than or equal to 0");
        }
        errors
    }

    fn validate_update(new: &ControllerRevision, old: &ControllerRevision) -> Errors {
        let mut errors = Self::validate(new);
        let data = |r: &ControllerRevision| r.data.as_ref().map(|d| d.0.clone());
        object_meta::immutable(data(new), data(old), &Path::new("data"), &mut errors);
        errors
    }

    fn row(object: &ControllerRevision, now: Timestamp) -> Vec<Value> {
        let controller = api::owner::controller_of(&object.metadata).map_or_else(
            || "<none>".to_owned(),
            |owner| {
                let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
                let kind = owner.kind.to_lowercase();
                if group.is_empty() {
                    format!("{kind}/{}", owner.name)
                } else {
                    format!("{kind}.{group}/{}", owner.name)
                }
            },
        );
        vec![
            cells::name(&object.metadata),
            controller.into(),
            object.revision.into(),
            cells::age(&object.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn data_stays() {
        let old = object::<ControllerRevision>(json!({"revision": 1, "data": {"a": 1}}));
        let new = object::<ControllerRevision>(json!({"revision": 2, "data": {"a": 2}}));
        assert_eq!(
            texts(ControllerRevisions::validate_update(&new, &old)),
            ["data: Invalid value: {\"a\":2}: field is immutable"]
        );
        let empty = object::<ControllerRevision>(json!({"revision": -1}));
        assert_eq!(
            texts(ControllerRevisions::validate(&empty)),
            [
                "data: Required value: data is mandatory",
                "revision: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
    }

    #[test]
    fn row() {
        let revision = object::<ControllerRevision>(
            json!({"metadata": {"name": "kubia-7f", "creationTimestamp": at(0),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "kubia", "uid": "u", "controller": true}]},
            "revision": 3}),
        );
        let row = ControllerRevisions::row(&revision, "1970-01-01T00:00:05Z".parse().unwrap());
        assert_eq!(json!(row), json!(["kubia-7f", "statefulset.apps/kubia", 3, "5s"]));
    }
}
