//! Volumes on block devices of a network: iSCSI and Fibre Channel.

use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::core::v1::{FCVolumeSource, ISCSIVolumeSource};

const LUN_MAX: i64 = 255;
const QUALIFIED: &str = "must be valid format starting with iqn, eui, or naa";

fn lun(lun: Option<i32>, path: &Path, errors: &mut Errors) {
    if let Some(lun) = lun {
        errors.invalid_each(&path.child("lun"), lun, names::in_range(lun.into(), 0, LUN_MAX));
    }
}

/// An initiator or a target: `iqn.2001-04.com.example:disk`, `eui.` and 16 digits or letters, `naa.` and 32.
fn is_qualified(name: &str) -> bool {
    let plain = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let Some((sort, rest)) = name.split_at_checked(4) else { return false };
    match sort {
        "eui." => plain(rest, 16),
        "naa." => plain(rest, 32),
        "iqn." => {
            let Some((date, rest)) = rest.split_once('.') else { return false };
            let Some((year, month)) = date.split_once('-') else { return false };
            let digits = |text: &str, n| text.len() == n && text.bytes().all(|b| b.is_ascii_digit());
            let Some((authority, own)) = rest.split_once(':') else { return false };
            digits(year, 4)
                && digits(month, 2)
                && !authority.is_empty()
                && authority.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
                && !own.is_empty()
                && !own
                    .contains(|c: char| matches!(c, ',' | ';' | '*' | '&' | '$' | '|') || c.is_whitespace())
        }
        _ => false,
    }
}

pub(super) fn validate_iscsi(source: &ISCSIVolumeSource, path: &Path, errors: &mut Errors) {
    if source.target_portal.is_empty() {
        errors.required(&path.child("targetPortal"), "");
    }
    match source.iqn.as_str() {
        "" => errors.required(&path.child("iqn"), ""),
        name if !is_qualified(name) => errors.invalid(&path.child("iqn"), name, QUALIFIED),
        _ => {}
    }
    lun(Some(source.lun), path, errors);
    let chap = source.chap_auth_discovery == Some(true) || source.chap_auth_session == Some(true);
    if chap && source.secret_ref.is_none() {
        errors.required(&path.child("secretRef"), "");
    }
    if let Some(name) = source.initiator_name.as_deref().filter(|n| !is_qualified(n)) {
        // The name of the field is Kubernetes' own slip.
        errors.invalid(&path.child("initiatorname"), name, QUALIFIED);
    }
}

pub(super) fn validate_fc(source: &FCVolumeSource, path: &Path, errors: &mut Errors) {
    let given = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|l| !l.is_empty());
    let (targets, at) = (given(&source.target_wwns), path.child("targetWWNs"));
    match (targets, given(&source.wwids)) {
        (false, false) => errors.required(&at, "must specify either targetWWNs or wwids, but not both"),
        (true, true) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(&at, &source.target_wwns, detail);
        }
        _ => {}
    }
    if targets && source.lun.is_none() {
        errors.required(&path.child("lun"), "lun is required if targetWWNs is specified");
    } else if targets {
        lun(source.lun, path, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::{Value, json};

    #[test]
    fn names_of_targets() {
        for (name, good) in [
            ("iqn.2001-04.com.example:storage.kube", true),
            ("eui.0123456789ABCDEF", true),
            ("naa.60012345678901234567890123456789", true),
            ("iqn.2001-04.com.example", false),
            ("iqn.201-04.com.example:a", false),
            ("iqn.2001-04.com.example:a b", false),
            ("eui.0123", false),
            ("abc", false),
            ("ä", false),
        ] {
            assert_eq!(is_qualified(name), good, "{name}");
        }
    }

    #[test]
    fn what_a_disk_needs() {
        let iscsi = |source: Value| {
            let mut errors = Errors::default();
            validate_iscsi(&object(source), &Path::new("iscsi"), &mut errors);
            texts(errors)
        };
        assert_eq!(
            iscsi(
                json!({"targetPortal": "", "iqn": "x", "lun": 256, "chapAuthSession": true, "initiatorName": "y"})
            ),
            [
                "iscsi.targetPortal: Required value",
                "iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
                "iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                "iscsi.secretRef: Required value",
                "iscsi.initiatorname: Invalid value: \"y\": must be valid format starting with iqn, eui, or naa",
            ]
        );
        let fc = |source: Value| {
            let mut errors = Errors::default();
            validate_fc(&object(source), &Path::new("fc"), &mut errors);
            texts(errors)
        };
        assert!(fc(json!({"wwids": ["a"]})).is_empty());
        assert_eq!(
            fc(json!({})),
            ["fc.targetWWNs: Required value: must specify either targetWWNs or wwids, but not both"]
        );
        assert_eq!(
            fc(json!({"targetWWNs": ["a"]})),
            ["fc.lun: Required value: lun is required if targetWWNs is specified"]
        );
    }
}
