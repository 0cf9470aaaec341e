//! Security contexts of pods and containers.

use super::{enumerated, optionally};
use crate::kinds::shared::repeats;
use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::core::v1::{AppArmorProfile, PodSpec, SeccompProfile, SecurityContext};

/// Kubernetes' limit and form of a sysctl's name: `kernel.shm_rmid_forced`, `net/ipv4/x`.
const SYSCTL_MAX: usize = 253;
const SYSCTL_REGEX: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn id(id: Option<i64>, path: &Path, errors: &mut Errors) {
    if let Some(id) = id {
        errors.invalid_each(path, id, names::user_id(id));
    }
}

pub(super) fn validate_pod(spec: &PodSpec, path: &Path, errors: &mut Errors) {
    let Some(context) = &spec.security_context else { return };
    id(context.fs_group, &path.child("fsGroup"), errors);
    id(context.run_as_user, &path.child("runAsUser"), errors);
    id(context.run_as_group, &path.child("runAsGroup"), errors);
    for (i, group) in context.supplemental_groups.iter().flatten().enumerate() {
        id(Some(*group), &path.child("supplementalGroups").index(i), errors);
    }
    let known = ["MountOption", "Recursive"];
    if let Some(policy) = context.se_linux_change_policy.as_deref().filter(|p| !known.contains(p)) {
        errors.not_supported(&path.child("seLinuxChangePolicy"), policy, &["Recursive"]);
    }
    if spec.share_process_namespace == Some(true) && spec.host_pid == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    let sysctls = context.sysctls.as_deref().unwrap_or_default();
    let repeated = repeats(sysctls.iter().map(|s| &s.name));
    for (i, sysctl) in sysctls.iter().enumerate() {
        let path = path.child("sysctls").index(i).child("name");
        if sysctl.name.is_empty() {
            errors.required(&path, "");
        } else if !is_sysctl(&sysctl.name) {
            let detail = format!("must have at most {SYSCTL_MAX} characters and match regex {SYSCTL_REGEX}");
            errors.invalid(&path, &sysctl.name, detail);
        } else if repeated[i] {
            errors.duplicate(&path, &sysctl.name);
        }
    }
    let change = path.child("fsGroupChangePolicy");
    optionally(context.fs_group_change_policy.as_ref(), &["Always", "OnRootMismatch"], &change, errors);
    let groups = path.child("supplementalGroupsPolicy");
    optionally(context.supplemental_groups_policy.as_ref(), &["Merge", "Strict"], &groups, errors);
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

fn is_sysctl(name: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= SYSCTL_MAX
        && name.split(['.', '/']).all(|part| match part.as_bytes() {
            [] => false,
            all @ [first, .., last] | all @ [first @ last] => {
                alnum(first) && alnum(last) && all.iter().all(|b| alnum(b) || matches!(b, b'-' | b'_'))
            }
        })
}

pub(super) fn validate(context: Option<&SecurityContext>, path: &Path, errors: &mut Errors) {
    let Some(context) = context else { return };
    id(context.run_as_user, &path.child("runAsUser"), errors);
    id(context.run_as_group, &path.child("runAsGroup"), errors);
    let mounts = ["Default", "Unmasked"];
    optionally(context.proc_mount.as_ref(), &mounts, &path.child("procMount"), errors);
    if context.allow_privilege_escalation == Some(false) {
        if context.privileged == Some(true) {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context, detail);
        }
        let added = context.capabilities.as_ref().and_then(|c| c.add.as_deref()).unwrap_or_default();
        if added.iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context, detail);
        }
    }
    seccomp(context.seccomp_profile.as_ref(), &path.child("seccompProfile"), errors);
    app_armor(context.app_armor_profile.as_ref(), &path.child("appArmorProfile"), errors);
}

fn seccomp(profile: Option<&SeccompProfile>, path: &Path, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    enumerated(Some(&profile.type_), &types, &path.child("type"), errors);
    let file = path.child("localhostProfile");
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Localhost", None) => errors.required(&file, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(name)) => errors.invalid_each(&file, name, names::local_descending_path(name)),
        (_, Some(_)) => errors.invalid(&file, profile, "can only be set when seccomp type is Localhost"),
        (_, None) => {}
    }
}

fn app_armor(profile: Option<&AppArmorProfile>, path: &Path, errors: &mut Errors) {
    let Some(profile) = profile else { return };
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    enumerated(Some(&profile.type_), &types, &path.child("type"), errors);
    let file = path.child("localhostProfile");
    match (profile.type_.as_str(), profile.localhost_profile.as_deref()) {
        ("Localhost", None | Some("")) => {
            errors.required(&file, "must be set when AppArmor type is Localhost")
        }
        ("Localhost", Some(_)) | (_, None) => {}
        (_, Some(name)) => errors.invalid(&file, name, "can only be set when AppArmor type is Localhost"),
    }
}
