//! PodTemplate: a template kept on its own.

use super::shared::{cells, pod_template};
use super::{Column, Kind};
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplate;
use serde_json::Value;

pub(super) struct PodTemplates;

impl Kind for PodTemplates {
    type Object = PodTemplate;
    const PLURAL: &'static str = "podtemplates";
    const SINGULAR: &'static str = "podtemplate";
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Containers", "string", 0, "Names of each container in the template."),
        Column::new("Images", "string", 0, "Images referenced by each container in the template."),
        Column::new("Pod Labels", "string", 0, "The labels for the pod template."),
    ];
    const RETURNS_DELETED: bool = true;

    fn default(object: &mut PodTemplate) {
        pod_template::default(object.template.get_or_insert_default());
    }

    fn generation_changed(new: &PodTemplate, old: &PodTemplate) -> Option<bool> {
        Some(new.template != old.template)
    }

    fn validate(object: &PodTemplate) -> Errors {
        let mut errors = Errors::default();
        if let Some(template) = &object.template {
            pod_template::validate(template, &Path::new("template"), &mut errors);
        }
        errors
    }

    fn validate_update(new: &PodTemplate, _: &PodTemplate) -> Errors {
        Self::validate(new)
    }

    fn warnings(object: &PodTemplate) -> Vec<String> {
        pod_template::warnings(object.template.as_ref(), &Path::new("template"))
    }

    fn row(object: &PodTemplate, _: Timestamp) -> Vec<Value> {
        let [containers, images] = pod_template::container_cells(object.template.as_ref());
        let labels = object.template.as_ref().and_then(|t| t.metadata.as_ref()?.labels.as_ref());
        vec![cells::name(&object.metadata), containers, images, cells::labels(labels).into()]
    }
}
