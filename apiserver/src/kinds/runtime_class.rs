//! RuntimeClass: how the containers of a pod are run. Stored and served; every pod runs on Docker's own runtime.

use super::shared::{cells, object_meta, pod_spec, repeats};
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use api::quantity;
use jiff::Timestamp;
use k8s_openapi::api::{core::v1::Toleration, node::v1::RuntimeClass};
use serde_json::Value;

pub(super) struct RuntimeClasses;

impl Kind for RuntimeClasses {
    type Object = RuntimeClass;
    const PLURAL: &'static str = "runtimeclasses";
    const SINGULAR: &'static str = "runtimeclass";
    const CREATE_ON_UPDATE: bool = true;
    const UNCONDITIONAL_UPDATE: bool = false;
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] =
        &[Column::name(), Column::new("Handler", "string", 0, "The runtime's configuration."), Column::age()];

    fn validate(object: &RuntimeClass) -> Errors {
        let mut errors = Errors::default();
        match object.handler.as_str() {
            "" => errors.required(&Path::new("handler"), ""),
            handler => errors.invalid_each(&Path::new("handler"), handler, names::dns_label(handler)),
        }
        let path = Path::new("overhead").child("podFixed");
        for (name, amount) in object.overhead.iter().flat_map(|o| o.pod_fixed.iter().flatten()) {
            errors.invalid_each(&path.key(name), name, names::qualified_name(name));
            if quantity::of(Some(amount)).is_negative() {
                errors.invalid(&path.key(name), &amount.0, "must be greater than or equal to 0");
            }
        }
        if let Some(scheduling) = &object.scheduling {
            let path = Path::new("scheduling");
            let selector = scheduling.node_selector.as_ref();
            object_meta::labels(selector, &path.child("nodeSelector"), &mut errors);
            let tolerations = scheduling.tolerations.as_deref().unwrap_or_default();
            let path = path.child("tolerations");
            pod_spec::validate_tolerations(tolerations, &path, &mut errors);
            let parts = |t: &Toleration| {
                (t.key.clone(), t.operator.clone(), t.value.clone(), t.effect.clone(), t.toleration_seconds)
            };
            let repeated = repeats(tolerations.iter().map(parts));
            for (i, (toleration, _)) in
                tolerations.iter().zip(repeated).enumerate().filter(|(_, (_, again))| *again)
            {
                errors.duplicate(&path.index(i), toleration);
            }
        }
        errors
    }

    fn validate_update(new: &RuntimeClass, old: &RuntimeClass) -> Errors {
        let mut errors = Self::validate(new);
        object_meta::immutable(&new.handler, &old.handler, &Path::new("handler"), &mut errors);
        errors
    }

    fn row(object: &RuntimeClass, now: Timestamp) -> Vec<Value> {
        vec![cells::name(&object.metadata), object.handler.clone().into(), cells::age(&object.metadata, now)]
    }
}
