//! PersistentVolume: a piece of storage.

use super::persistent_volume_claim::{VOLUME_MODES, access_modes};
use super::shared::diff::diff;
use super::shared::pod_spec::{validate_host_path, validate_quantities};
use super::shared::{cells, label_selector, object_meta};
use super::{Column, Kind, Subresource};
use api::field::{Error, Errors, Path, Type};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeSpec, PersistentVolumeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;

pub(super) struct PersistentVolumes;

impl Kind for PersistentVolumes {
    type Object = PersistentVolume;
    const PLURAL: &'static str = "persistentvolumes";
    const SINGULAR: &'static str = "persistentvolume";
    const NAMESPACED: bool = false;
    const SHORT_NAMES: &'static [&'static str] = &["pv"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Capacity", "string", 0, "Size of the volume"),
        Column::new("Access Modes", "string", 0, "Ways the volume can be mounted"),
        Column::new("Reclaim Policy", "string", 0, "What becomes of the volume when its claim is gone"),
        Column::new("Status", "string", 0, "Available, Bound, Released or Failed"),
        Column::new("Claim", "string", 0, "The claim it is bound to"),
        Column::new("StorageClass", "string", 0, "StorageClass of the pv"),
        Column::new("VolumeAttributesClass", "string", 0, "VolumeAttributesClass of the pv"),
        Column::new("Reason", "string", 0, "Why the volume is in this state"),
        Column::age(),
        Column::new("VolumeMode", "string", 1, "Filesystem or Block"),
    ];
    const RETURNS_DELETED: bool = true;

    fn default(object: &mut PersistentVolume) {
        let spec = object.spec.get_or_insert_default();
        spec.persistent_volume_reclaim_policy.get_or_insert_with(|| "Retain".to_owned());
        spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        if let Some(host_path) = &mut spec.host_path {
            host_path.type_.get_or_insert_default();
        }
        if let Some(claim) = &mut spec.claim_ref {
            claim.api_version.get_or_insert_with(|| "v1".to_owned());
            claim.kind.get_or_insert_with(|| "PersistentVolumeClaim".to_owned());
        }
        let status = object.status.get_or_insert_default();
        status.phase.get_or_insert_with(|| "Pending".to_owned());
    }

    fn prepare_create(object: &mut PersistentVolume) {
        object.status = Some(PersistentVolumeStatus {
            phase: Some("Pending".to_owned()),
            last_phase_transition_time: object.metadata.creation_timestamp.clone(),
            ..Default::default()
        });
    }

    fn prepare_update(new: &mut PersistentVolume, old: &PersistentVolume) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut PersistentVolume, old: &PersistentVolume) {
        new.spec = old.spec.clone();
        // Who changes the phase may say when; who does not say leaves it to the server (KEP-3762).
        let none = PersistentVolumeStatus::default();
        let (now, before) = (new.status.get_or_insert_default(), old.status.as_ref().unwrap_or(&none));
        let said = now.last_phase_transition_time.is_some()
            && now.last_phase_transition_time != before.last_phase_transition_time;
        if now.phase != before.phase && !said {
            now.last_phase_transition_time = Some(Time(crate::registry::create::now()));
        }
    }

    fn validate(object: &PersistentVolume) -> Errors {
        let mut errors = Errors::default();
        let none = Default::default();
        validate_spec(object.spec.as_ref().unwrap_or(&none), &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(new: &PersistentVolume, old: &PersistentVolume) -> Errors {
        let mut errors = Self::validate(new);
        let none = (PersistentVolumeSpec::default(), PersistentVolumeSpec::default());
        let (spec, before) = (new.spec.as_ref().unwrap_or(&none.0), old.spec.as_ref().unwrap_or(&none.1));
        let (source, source_before) = (source_of(spec), source_of(before));
        if source != source_before {
            let changes = diff(&source_before, &source);
            let detail = format!("spec.persistentvolumesource is immutable after creation\n{changes}");
            errors.forbidden(&Path::new("spec.persistentvolumesource"), detail);
        }
        object_meta::immutable(&spec.volume_mode, &before.volume_mode, &Path::new("volumeMode"), &mut errors);
        if before.node_affinity.is_some() {
            let path = Path::new("nodeAffinity");
            object_meta::immutable(&spec.node_affinity, &before.node_affinity, &path, &mut errors);
        }
        errors
    }

    fn row(object: &PersistentVolume, now: Timestamp) -> Vec<Value> {
        let none = Default::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let status = object.status.as_ref();
        let claim = spec.claim_ref.as_ref().map_or_else(String::new, |c| {
            format!("{}/{}", c.namespace.as_deref().unwrap_or(""), c.name.as_deref().unwrap_or(""))
        });
        let phase = match object.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => status.and_then(|s| s.phase.as_deref()).unwrap_or(""),
        };
        let storage = spec.capacity.as_ref().and_then(|c| c.get("storage"));
        vec![
            cells::name(&object.metadata),
            storage.map_or("0", |q| q.0.as_str()).into(),
            cells::access_modes(spec.access_modes.as_deref().unwrap_or_default()).into(),
            cells::text(spec.persistent_volume_reclaim_policy.as_ref()),
            phase.into(),
            claim.into(),
            cells::storage_class(&object.metadata, spec.storage_class_name.as_ref()).into(),
            cells::text_or(spec.volume_attributes_class_name.as_ref(), "<unset>").into(),
            cells::text(status.and_then(|s| s.reason.as_ref())),
            cells::age(&object.metadata, now),
            cells::text_or(spec.volume_mode.as_ref(), "<unset>").into(),
        ]
    }
}

/// The spec without all that is not the storage itself.
fn source_of(spec: &PersistentVolumeSpec) -> PersistentVolumeSpec {
    PersistentVolumeSpec {
        access_modes: None,
        capacity: None,
        claim_ref: None,
        mount_options: None,
        node_affinity: None,
        persistent_volume_reclaim_policy: None,
        storage_class_name: None,
        volume_attributes_class_name: None,
        volume_mode: None,
        ..spec.clone()
    }
}

fn validate_spec(spec: &PersistentVolumeSpec, path: &Path, errors: &mut Errors) {
    let modes = spec.access_modes.as_deref().unwrap_or_default();
    if modes.is_empty() {
        errors.required(&path.child("accessModes"), "");
    }
    access_modes(modes, &path.child("accessModes"), errors);
    let none = Default::default();
    let (capacity, capacity_path) = (spec.capacity.as_ref().unwrap_or(&none), path.child("capacity"));
    if capacity.is_empty() {
        errors.required(&capacity_path, "");
    }
    if capacity.len() > 1 || !capacity.contains_key("storage") {
        errors.add(Error {
            kind: Type::NotSupported,
            path: capacity_path.to_string(),
            bad_value: serde_json::to_string(&spec.capacity).ok(),
            detail: "supported values: \"storage\"".to_owned(),
        });
    }
    validate_quantities(capacity, &capacity_path, errors);
    let policies = ["Delete", "Recycle", "Retain"];
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or("");
    if !policy.is_empty() && !policies.contains(&policy) {
        errors.not_supported(&path.child("persistentVolumeReclaimPolicy"), policy, &policies);
    }
    if let Some(affinity) = &spec.node_affinity {
        let path = path.child("nodeAffinity").child("required");
        match &affinity.required {
            Some(selector) => label_selector::validate_node_selector(selector, &path, errors),
            None => errors.required(&path, "must specify required node constraints"),
        }
    }
    validate_source(spec, path, errors);
    if let Some(class) = spec.storage_class_name.as_deref().filter(|c| !c.is_empty()) {
        errors.invalid_each(&path.child("storageClassName"), class, names::dns_subdomain(class));
    }
    if let Some(mode) = spec.volume_mode.as_deref().filter(|m| !VOLUME_MODES.contains(m)) {
        errors.not_supported(&path.child("volumeMode"), mode, &VOLUME_MODES);
    }
}

fn validate_source(spec: &PersistentVolumeSpec, path: &Path, errors: &mut Errors) {
    let mut sources = [
        (spec.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (spec.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (spec.glusterfs.is_some(), "glusterfs"),
        (spec.flocker.is_some(), "flocker"),
        (spec.nfs.is_some(), "nfs"),
        (spec.rbd.is_some(), "rbd"),
        (spec.quobyte.is_some(), "quobyte"),
        (spec.cephfs.is_some(), "cephFS"),
        (spec.iscsi.is_some(), "iscsi"),
        (spec.cinder.is_some(), "cinder"),
        (spec.fc.is_some(), "fc"),
        (spec.flex_volume.is_some(), "flexVolume"),
        (spec.azure_file.is_some(), "azureFile"),
        (spec.vsphere_volume.is_some(), "vsphereVolume"),
        (spec.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (spec.portworx_volume.is_some(), "portworxVolume"),
        (spec.azure_disk.is_some(), "azureDisk"),
        (spec.scale_io.is_some(), "scaleIO"),
        (spec.storageos.is_some(), "storageos"),
        (spec.host_path.is_some(), "hostPath"),
        (spec.local.is_some(), "local"),
        (spec.csi.is_some(), "csi"),
    ]
    .into_iter()
    .filter(|(present, _)| *present)
    .map(|(_, name)| name);
    if sources.next().is_none() {
        errors.required(path, "must specify a volume type");
    }
    for second in sources {
        errors.forbidden(&path.child(second), "may not specify more than 1 volume type");
    }
    if let Some(host_path) = &spec.host_path {
        let path_of = path.child("hostPath");
        validate_host_path(&host_path.path, host_path.type_.as_deref(), &path_of, errors);
    }
    if let Some(local) = &spec.local {
        let path_of = path.child("local").child("path");
        if local.path.is_empty() {
            errors.required(&path_of, "");
        } else {
            errors.invalid_each(&path_of, &local.path, names::no_backsteps(&local.path));
        }
        if spec.node_affinity.is_none() {
            errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
    }
    if let Some(csi) = &spec.csi {
        let path = path.child("csi");
        if csi.driver.is_empty() {
            errors.required(&path.child("driver"), "");
        }
        if csi.volume_handle.is_empty() {
            errors.required(&path.child("volumeHandle"), "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    fn volume(spec: Value) -> PersistentVolume {
        let mut volume =
            object(json!({"metadata": {"name": "pv-1", "creationTimestamp": at(0)}, "spec": spec}));
        PersistentVolumes::default(&mut volume);
        volume
    }

    fn good() -> Value {
        json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"}, "hostPath": {"path": "/data"}})
    }

    #[test]
    fn rules() {
        let volume_ok = volume(good());
        assert!(PersistentVolumes::validate(&volume_ok).is_empty());
        let spec = serde_json::to_value(&volume_ok).unwrap()["spec"].clone();
        assert_eq!(spec["persistentVolumeReclaimPolicy"], "Retain");
        assert_eq!((&spec["volumeMode"], &spec["hostPath"]["type"]), (&json!("Filesystem"), &json!("")));
        let bad = volume(
            json!({"hostPath": {"path": "/a/../b"}, "nfs": {"server": "s", "path": "/"}, "local": {"path": "/x"}}),
        );
        assert_eq!(
            texts(PersistentVolumes::validate(&bad)),
            [
                "spec.accessModes: Required value",
                "spec.capacity: Required value",
                "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                "spec.hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.local: Forbidden: may not specify more than 1 volume type",
                "spec.hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.nodeAffinity: Required value: Local volume requires node affinity",
            ]
        );
        let mut moved = good();
        moved["hostPath"]["path"] = "/other".into();
        moved["claimRef"] = json!({"namespace": "a", "name": "b"});
        assert_eq!(
            texts(PersistentVolumes::validate_update(&volume(moved), &volume_ok)),
            [
                "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation\n\
              - hostPath.path: \"/data\"\n+ hostPath.path: \"/other\"\n"
            ]
        );
    }

    #[test]
    fn the_time_of_a_change_of_phase() {
        let with = |phase: &str, time: Option<&str>| {
            let mut volume = volume(good());
            volume.status = object(json!({"phase": phase, "lastPhaseTransitionTime": time}));
            volume
        };
        let changed = |new: PersistentVolume| {
            let mut new = new;
            PersistentVolumes::prepare_status_update(&mut new, &with("Pending", Some(&at(0))));
            new.status.unwrap().last_phase_transition_time.unwrap().0.to_string()
        };
        let mut made = volume(good());
        PersistentVolumes::prepare_create(&mut made);
        assert_eq!(made.status.unwrap().last_phase_transition_time, made.metadata.creation_timestamp);
        assert_eq!(changed(with("Pending", Some(&at(0)))), at(0));
        assert_eq!(changed(with("Bound", Some(&at(9)))), at(9));
        for silent in [None, Some(at(0))] {
            assert!(changed(with("Bound", silent.as_deref())) > at(9));
        }
    }

    #[test]
    fn row() {
        let mut spec = good();
        spec["claimRef"] = json!({"namespace": "default", "name": "data-kubia-0"});
        spec["storageClassName"] = "standard".into();
        let mut volume = volume(spec);
        volume.status = object(json!({"phase": "Bound"}));
        let row = PersistentVolumes::row(&volume, "1970-01-01T00:03:00Z".parse().unwrap());
        assert_eq!(
            json!(row),
            json!([
                "pv-1",
                "1Mi",
                "RWO",
                "Retain",
                "Bound",
                "default/data-kubia-0",
                "standard",
                "<unset>",
                "",
                "3m",
                "Filesystem"
            ])
        );
    }
}
