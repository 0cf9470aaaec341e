//! Volumes of a pod: one source each, names that are unique, paths that stay inside.

use super::{SoundVolumes, disks};
use crate::kinds::shared::object_meta;
use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, ObjectFieldSelector, ProjectedVolumeSource, ResourceFieldSelector,
    Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeSet;

const MODE_TEXT: &str = "must be a number between 0 and 0777 (octal), both inclusive";
const ONE_SOURCE: &str = "may not specify more than 1 volume type";
const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// The names of the sources a volume has (one, when it is right).
pub(super) fn sources(volume: &Volume) -> impl Iterator<Item = &'static str> {
    [
        (volume.empty_dir.is_some(), "emptyDir"),
        (volume.host_path.is_some(), "hostPath"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (volume.secret.is_some(), "secret"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.flocker.is_some(), "flocker"),
        (volume.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (volume.rbd.is_some(), "rbd"),
        (volume.cinder.is_some(), "cinder"),
        (volume.cephfs.is_some(), "cephFS"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.downward_api.is_some(), "downwardAPI"),
        (volume.fc.is_some(), "fc"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.config_map.is_some(), "configMap"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (volume.portworx_volume.is_some(), "portworxVolume"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (volume.storageos.is_some(), "storageos"),
        (volume.projected.is_some(), "projected"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.csi.is_some(), "csi"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.image.is_some(), "image"),
    ]
    .into_iter()
    .filter(|(present, _)| *present)
    .map(|(_, name)| name)
}

/// Checks all; answers those that mounts may name (a broken one would only raise a second error there).
pub(super) fn validate<'a>(volumes: &'a [Volume], path: &Path, errors: &mut Errors) -> SoundVolumes<'a> {
    let mut sound = SoundVolumes::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = path.index(i);
        let mut faults = Errors::default();
        validate_source(volume, &path, &mut faults);
        if volume.name.is_empty() {
            faults.required(&path.child("name"), "");
        } else {
            faults.invalid_each(&path.child("name"), &volume.name, names::dns_label(&volume.name));
        }
        if sound.contains_key(volume.name.as_str()) {
            faults.duplicate(&path.child("name"), &volume.name);
        }
        if faults.is_empty() {
            let block = volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
            sound.insert(&volume.name, block);
        }
        errors.extend(faults);
    }
    sound
}

fn validate_source(volume: &Volume, path: &Path, errors: &mut Errors) {
    let mut sources = sources(volume);
    // Of several sources only the first is looked into.
    let first = sources.next();
    if first.is_none() {
        errors.required(path, "must specify a volume type");
    }
    for second in sources {
        errors.forbidden(&path.child(second), ONE_SOURCE);
    }
    if let Some(empty_dir) = volume.empty_dir.as_ref().filter(|_| first == Some("emptyDir"))
        && api::quantity::of(empty_dir.size_limit.as_ref()).is_negative()
    {
        let path = path.child("emptyDir").child("sizeLimit");
        errors.forbidden(&path, "SizeLimit field must be a valid resource quantity");
    }
    if let Some(host_path) = volume.host_path.as_ref().filter(|_| first == Some("hostPath")) {
        validate_host_path(&host_path.path, host_path.type_.as_deref(), &path.child("hostPath"), errors);
    }
    if let Some(secret) = volume.secret.as_ref().filter(|_| first == Some("secret")) {
        let path = path.child("secret");
        if secret.secret_name.as_deref().unwrap_or("").is_empty() {
            errors.required(&path.child("secretName"), "");
        }
        mode(secret.default_mode, &path.child("defaultMode"), errors);
        items(secret.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(config_map) = volume.config_map.as_ref().filter(|_| first == Some("configMap")) {
        let path = path.child("configMap");
        if config_map.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        mode(config_map.default_mode, &path.child("defaultMode"), errors);
        items(config_map.items.as_deref(), &path.child("items"), errors);
    }
    if let Some(downward) = volume.downward_api.as_ref().filter(|_| first == Some("downwardAPI")) {
        let path = path.child("downwardAPI");
        mode(downward.default_mode, &path.child("defaultMode"), errors);
        for file in downward.items.iter().flatten() {
            downward_file(file, &path, errors);
        }
    }
    if let Some(claim) =
        volume.persistent_volume_claim.as_ref().filter(|_| first == Some("persistentVolumeClaim"))
        && claim.claim_name.is_empty()
    {
        errors.required(&path.child("persistentVolumeClaim").child("claimName"), "");
    }
    if let Some(projected) = volume.projected.as_ref().filter(|_| first == Some("projected")) {
        validate_projected(projected, &path.child("projected"), errors);
    }
    if let Some(ephemeral) = volume.ephemeral.as_ref().filter(|_| first == Some("ephemeral")) {
        let path = path.child("ephemeral").child("volumeClaimTemplate");
        match &ephemeral.volume_claim_template {
            None => errors.required(&path, ""),
            Some(template) => {
                template_metadata(template.metadata.as_ref(), &path.child("metadata"), errors);
                crate::kinds::persistent_volume_claim::validate_spec(
                    &template.spec,
                    &path.child("spec"),
                    errors,
                );
            }
        }
    }
    if let Some(nfs) = volume.nfs.as_ref().filter(|_| first == Some("nfs")) {
        let path = path.child("nfs");
        if nfs.server.is_empty() {
            errors.required(&path.child("server"), "");
        }
        if nfs.path.is_empty() {
            errors.required(&path.child("path"), "");
        } else if !nfs.path.starts_with('/') {
            errors.invalid(&path.child("path"), &nfs.path, "must be an absolute path");
        }
    }
    if let Some(csi) = volume.csi.as_ref().filter(|_| first == Some("csi"))
        && csi.driver.is_empty()
    {
        errors.required(&path.child("csi").child("driver"), "");
    }
    if let Some(image) = volume.image.as_ref().filter(|_| first == Some("image")) {
        let path = path.child("image");
        if image.reference.as_deref().unwrap_or("").is_empty() {
            errors.required(&path.child("reference"), "");
        }
        super::optionally(
            image.pull_policy.as_ref(),
            &["Always", "IfNotPresent", "Never"],
            &path.child("pullPolicy"),
            errors,
        );
    }
    if let Some(iscsi) = volume.iscsi.as_ref().filter(|_| first == Some("iscsi")) {
        disks::validate_iscsi(iscsi, &path.child("iscsi"), errors);
    }
    if let Some(fc) = volume.fc.as_ref().filter(|_| first == Some("fc")) {
        disks::validate_fc(fc, &path.child("fc"), errors);
    }
}

/// The claim that is made belongs to the pod: of its metadata only labels and annotations are for people.
fn template_metadata(meta: Option<&ObjectMeta>, path: &Path, errors: &mut Errors) {
    let Some(meta) = meta else { return };
    object_meta::annotations(meta.annotations.as_ref(), &path.child("annotations"), errors);
    object_meta::labels(meta.labels.as_ref(), &path.child("labels"), errors);
    for (field, set) in [
        ("creationTimestamp", meta.creation_timestamp.is_some()),
        ("deletionGracePeriodSeconds", meta.deletion_grace_period_seconds.is_some()),
        ("deletionTimestamp", meta.deletion_timestamp.is_some()),
        ("finalizers", meta.finalizers.is_some()),
        ("generateName", meta.generate_name.is_some()),
        ("generation", meta.generation.is_some()),
        ("managedFields", meta.managed_fields.is_some()),
        ("name", meta.name.is_some()),
        ("namespace", meta.namespace.is_some()),
        ("ownerReferences", meta.owner_references.is_some()),
        ("resourceVersion", meta.resource_version.is_some()),
        ("selfLink", meta.self_link.is_some()),
        ("uid", meta.uid.is_some()),
    ] {
        if set {
            errors.forbidden(&path.child(field), "cannot be set");
        }
    }
}

pub(in crate::kinds) fn validate_host_path(
    host: &str,
    type_: Option<&str>,
    path: &Path,
    errors: &mut Errors,
) {
    if host.is_empty() {
        errors.required(&path.child("path"), "");
        return;
    }
    errors.invalid_each(&path.child("path"), host, names::no_backsteps(host));
    if let Some(type_) = type_.filter(|t| !HOST_PATH_TYPES.contains(t)) {
        errors.not_supported(&path.child("type"), type_, &HOST_PATH_TYPES);
    }
}

fn mode(mode: Option<i32>, path: &Path, errors: &mut Errors) {
    if let Some(mode) = mode.filter(|m| !(0..=0o777).contains(m)) {
        errors.invalid(path, mode, MODE_TEXT);
    }
}

/// A file below the volume, not hiding among the atomic writer's own `..data`.
fn file_path(file: &str, path: &Path, errors: &mut Errors) {
    errors.invalid_each(path, file, names::local_descending_path(file));
    if file.starts_with("..") && !file.starts_with("../") {
        errors.invalid(path, file, "must not start with '..'");
    }
}

fn items(items: Option<&[KeyToPath]>, path: &Path, errors: &mut Errors) {
    for (i, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(i);
        if item.key.is_empty() {
            errors.required(&path.child("key"), "");
        }
        if item.path.is_empty() {
            errors.required(&path.child("path"), "");
        }
        file_path(&item.path, &path.child("path"), errors);
        mode(item.mode, &path.child("mode"), errors);
    }
}

fn downward_file(file: &DownwardAPIVolumeFile, path: &Path, errors: &mut Errors) {
    if file.path.is_empty() {
        errors.required(&path.child("path"), "");
    }
    file_path(&file.path, &path.child("path"), errors);
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), other) => {
            field_ref(field, &VOLUME_FIELDS, &path.child("fieldRef"), errors);
            if other.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.invalid(path, "resource", detail);
            }
        }
        (None, Some(resource)) => resource_ref(resource, true, &path.child("resourceFieldRef"), errors),
        (None, None) => errors.required(path, "one of fieldRef and resourceFieldRef is required"),
    }
    mode(file.mode, &path.child("mode"), errors);
}

/// A downward field: one of `allowed`, or one label or annotation by `metadata.labels['key']`.
pub(super) fn field_ref(field: &ObjectFieldSelector, allowed: &[&str], path: &Path, errors: &mut Errors) {
    if field.api_version.as_deref().unwrap_or("").is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    let name = field.field_path.as_str();
    let subscript = name.strip_suffix("']").and_then(|n| n.split_once("['"));
    match subscript {
        _ if name.is_empty() => errors.required(&path.child("fieldPath"), ""),
        Some(("metadata.annotations", key)) => {
            errors.invalid_each(path, key, names::qualified_name(&key.to_lowercase()));
        }
        Some(("metadata.labels", key)) => errors.invalid_each(path, key, names::qualified_name(key)),
        Some((other, _)) => errors.invalid(path, other, "does not support subscript"),
        None if allowed.contains(&name) => {}
        None => errors.not_supported(&path.child("fieldPath"), name, allowed),
    }
}

pub(super) fn resource_ref(
    resource: &ResourceFieldSelector,
    in_volume: bool,
    path: &Path,
    errors: &mut Errors,
) {
    const SIZES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let name = resource.resource.as_str();
    let huge = name.starts_with("limits.hugepages-") || name.starts_with("requests.hugepages-");
    if in_volume && resource.container_name.as_deref().unwrap_or("").is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if name.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&name) && !huge {
        errors.not_supported(&path.child("resource"), name, &RESOURCES);
    }
    let divisor = api::quantity::of(resource.divisor.as_ref());
    if divisor.is_zero() {
        return;
    }
    let divisor = divisor.to_string();
    if name.ends_with(".cpu") {
        if !["1", "1m"].contains(&divisor.as_str()) {
            let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
            errors.invalid(&path.child("divisor"), name, detail);
        }
    } else if !SIZES.contains(&divisor.as_str()) {
        let what = match name.rsplit('.').next() {
            Some("ephemeral-storage") => "local ephemeral storage",
            Some("memory") => "memory",
            _ => "hugepages",
        };
        let detail =
            format!("only divisor's values {} are supported with the {what} resource", SIZES.join(", "));
        errors.invalid(&path.child("divisor"), name, detail);
    }
}

fn validate_projected(projected: &ProjectedVolumeSource, path: &Path, errors: &mut Errors) {
    mode(projected.default_mode, &path.child("defaultMode"), errors);
    let mut paths = BTreeSet::new();
    let mut unique = |file: &str, shown: &str, errors: &mut Errors| {
        if !file.is_empty() && !paths.insert(file.to_owned()) {
            errors.invalid(path, shown, "conflicting duplicate paths");
        }
    };
    for (i, source) in projected.sources.iter().flatten().enumerate() {
        let here = path.child("sources").index(i);
        let count = [
            source.secret.is_some(),
            source.config_map.is_some(),
            source.downward_api.is_some(),
            source.service_account_token.is_some(),
            source.cluster_trust_bundle.is_some(),
            source.pod_certificate.is_some(),
        ];
        let secret = source.secret.as_ref().map(|s| ("secret", &s.name, &s.items));
        let config_map = source.config_map.as_ref().map(|c| ("configMap", &c.name, &c.items));
        for (field, name, all) in [secret, config_map].into_iter().flatten() {
            let here = here.child(field);
            if name.is_empty() {
                errors.required(&here.child("name"), "");
            }
            items(all.as_deref(), &here.child("items"), errors);
            for item in all.iter().flatten() {
                unique(&item.path, name, errors);
            }
        }
        for file in source.downward_api.iter().flat_map(|d| d.items.iter().flatten()) {
            downward_file(file, &here.child("downwardAPI"), errors);
            unique(&file.path, &file.path, errors);
        }
        if let Some(token) = &source.service_account_token {
            let seconds_path = here.child("serviceAccountToken").child("expirationSeconds");
            let seconds = token.expiration_seconds.unwrap_or(0);
            if seconds < 600 {
                errors.invalid(&seconds_path, seconds, "may not specify a duration less than 10 minutes");
            } else if seconds > 1 << 32 {
                errors.invalid(&seconds_path, seconds, "may not specify a duration larger than 2^32 seconds");
            }
            if token.path.is_empty() {
                errors.required(&path.child("path"), "");
            } else {
                file_path(&token.path, &path.child("path"), errors);
            }
        }
        if count.into_iter().filter(|present| *present).count() > 1 {
            errors.forbidden(&here, "may not specify more than 1 volume type per source");
        }
    }
}
