//! The rules that level `restricted` adds: no privileges beyond what a program needs to run.

use super::checks::{
    Check, Finding, Run, Subject, finding, forbidden_capabilities, named, plural, proc_mount, quoted,
    seccomp, setters,
};
use k8s_openapi::api::core::v1::Volume;
use std::collections::BTreeSet;

const fn check(id: &'static str, since: u32, instead_of: &'static str, run: Run) -> Check {
    Check { id, since, instead_of, run }
}

/// In the order in which findings are told, after those of `baseline`.
pub(super) static CHECKS: [Check; 7] = [
    check("allowPrivilegeEscalation", 8, "", escalation),
    check("capabilities_restricted", 22, "capabilities_baseline", capabilities),
    check("procMount_restricted", 35, "procMount", proc_mount),
    check("restrictedVolumes", 0, "hostPathVolumes", volumes),
    check("runAsNonRoot", 0, "", non_root),
    check("runAsUser", 23, "", user),
    check("seccompProfile_restricted", 19, "seccompProfile_baseline", seccomp_set),
];

/// From this version, what means nothing on Windows is not asked of its pods.
const WINDOWS: u32 = 25;

fn escalation(subject: &Subject<'_>, minor: u32) -> Option<Finding> {
    if minor >= WINDOWS && subject.is_windows() {
        return None;
    }
    let containers = subject.which(|c| c.security.and_then(|s| s.allow_privilege_escalation) != Some(false));
    if containers.is_empty() {
        return None;
    }
    let containers = named("container", &containers);
    finding(
        "allowPrivilegeEscalation != false",
        format!("{containers} must set securityContext.allowPrivilegeEscalation=false"),
    )
}

fn capabilities(subject: &Subject<'_>, minor: u32) -> Option<Finding> {
    if minor >= WINDOWS && subject.is_windows() {
        return None;
    }
    let kept = subject.which(|c| {
        let dropped = c.security.and_then(|s| s.capabilities.as_ref()).and_then(|c| c.drop.as_ref());
        !dropped.is_some_and(|d| d.iter().any(|name| name == "ALL"))
    });
    let kept = (!kept.is_empty()).then(|| {
        format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named("container", &kept))
    });
    let added = forbidden_capabilities(subject, &["NET_BIND_SERVICE"]);
    let details: Vec<String> = kept.into_iter().chain(added).collect();
    if details.is_empty() { None } else { finding("unrestricted capabilities", details.join("; ")) }
}

/// The source of a volume, where it is not one of those allowed.
fn restricted_source(volume: &Volume) -> Option<&'static str> {
    let allowed = volume.config_map.is_some()
        || volume.csi.is_some()
        || volume.downward_api.is_some()
        || volume.empty_dir.is_some()
        || volume.ephemeral.is_some()
        || volume.image.is_some()
        || volume.persistent_volume_claim.is_some()
        || volume.projected.is_some()
        || volume.secret.is_some();
    if allowed {
        return None;
    }
    let sources = [
        (volume.host_path.is_some(), "hostPath"),
        (volume.gce_persistent_disk.is_some(), "gcePersistentDisk"),
        (volume.aws_elastic_block_store.is_some(), "awsElasticBlockStore"),
        (volume.git_repo.is_some(), "gitRepo"),
        (volume.nfs.is_some(), "nfs"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.glusterfs.is_some(), "glusterfs"),
        (volume.rbd.is_some(), "rbd"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.cinder.is_some(), "cinder"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.flocker.is_some(), "flocker"),
        (volume.fc.is_some(), "fc"),
        (volume.azure_file.is_some(), "azureFile"),
        (volume.vsphere_volume.is_some(), "vsphereVolume"),
        (volume.quobyte.is_some(), "quobyte"),
        (volume.azure_disk.is_some(), "azureDisk"),
        (volume.photon_persistent_disk.is_some(), "photonPersistentDisk"),
        (volume.portworx_volume.is_some(), "portworxVolume"),
        (volume.scale_io.is_some(), "scaleIO"),
        (volume.storageos.is_some(), "storageos"),
    ];
    Some(sources.into_iter().find_map(|(is, name)| is.then_some(name)).unwrap_or("unknown"))
}

fn volumes(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in subject.spec?.volumes.iter().flatten() {
        if let Some(kind) = restricted_source(volume) {
            names.push(volume.name.as_str());
            kinds.insert(kind);
        }
    }
    if names.is_empty() {
        return None;
    }
    let uses = if names.len() == 1 { "uses" } else { "use" };
    let noun = plural("restricted volume type", kinds.len());
    finding("restricted volume types", format!("{} {uses} {noun} {}", named("volume", &names), quoted(kinds)))
}

/// From this version root in a user namespace of the pod's own is nobody in particular.
const OWN_USERS: u32 = 35;

fn non_root(subject: &Subject<'_>, minor: u32) -> Option<Finding> {
    if minor >= OWN_USERS && subject.has_own_users() {
        return None;
    }
    let reason = "runAsNonRoot != true";
    let of_pod = subject.security.and_then(|s| s.run_as_non_root);
    let own = |c: &super::checks::Look<'_>| c.security.and_then(|s| s.run_as_non_root);
    let by = setters(of_pod == Some(false), &subject.which(|c| own(c) == Some(false)));
    if !by.is_empty() {
        return finding(
            reason,
            format!("{} must not set securityContext.runAsNonRoot=false", by.join(" and ")),
        );
    }
    let silent = subject.which(|c| of_pod != Some(true) && own(c).is_none());
    if silent.is_empty() {
        return None;
    }
    let silent = named("container", &silent);
    finding(reason, format!("pod or {silent} must set securityContext.runAsNonRoot=true"))
}

fn user(subject: &Subject<'_>, minor: u32) -> Option<Finding> {
    if minor >= OWN_USERS && subject.has_own_users() {
        return None;
    }
    let of_pod = subject.security.and_then(|s| s.run_as_user) == Some(0);
    let by = setters(of_pod, &subject.which(|c| c.security.and_then(|s| s.run_as_user) == Some(0)));
    if by.is_empty() {
        None
    } else {
        finding("runAsUser=0", format!("{} must not set runAsUser=0", by.join(" and ")))
    }
}

fn seccomp_set(subject: &Subject<'_>, minor: u32) -> Option<Finding> {
    if minor >= WINDOWS && subject.is_windows() {
        return None;
    }
    if let Some(bad) = seccomp(subject, minor) {
        return Some(bad);
    }
    let of_pod = subject.security.is_some_and(|s| s.seccomp_profile.is_some());
    let silent = subject.which(|c| !of_pod && c.security.is_none_or(|s| s.seccomp_profile.is_none()));
    if silent.is_empty() {
        return None;
    }
    let silent = named("container", &silent);
    let wanted = "\"RuntimeDefault\" or \"Localhost\"";
    finding(
        "seccompProfile",
        format!("pod or {silent} must set securityContext.seccompProfile.type to {wanted}"),
    )
}
