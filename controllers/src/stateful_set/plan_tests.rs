//! Tables: a set, its pods, and what is done about them.
//!
//! A pod is written `ORDINAL REVISION STATE`, as in `0a+`: revision `a` is the current one, `b` the update. States:
//! `+` Ready, `-` running but not Ready, `?` Pending, `x` Failed, `o` Succeeded; a `~` after it says terminating.
//! Steps print as `+2b` (create), `-1` (delete), `claim data-kubia-0`, and so on.

use super::{
    identity,
    plan::{Ownership, Plan, Step, View, plan},
    revisions, status,
};
use crate::context::name;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{PersistentVolumeClaim, Pod},
};
use serde_json::{Value, json};
use std::sync::Arc;

pub(super) const SET_UID: &str = "set-uid";

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

/// A set whose template runs image `image`, with `spec` merged over the defaults.
pub(super) fn set(image: &str, spec: Value) -> StatefulSet {
    let mut whole = json!({
        "replicas": 3, "serviceName": "kubia", "selector": {"matchLabels": {"app": "kubia"}},
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}, "revisionHistoryLimit": 10,
        "template": {"metadata": {"labels": {"app": "kubia"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "kubia", "namespace": "ns", "uid": SET_UID, "generation": 3},
        "spec": whole
    }))
    .unwrap()
}

/// The revision of image `image` as the controller would make it.
pub(super) fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
    let revisions::Step::Create(mut made) = revisions::resolve(&set(image, json!({})), &[]).unwrap().step
    else {
        panic!("nothing to create")
    };
    made.revision = number;
    Arc::new(*made)
}

/// Revision `a` is the current, `b` the update one; where the set's template runs `a`, both are `a`.
fn history() -> Vec<Arc<ControllerRevision>> {
    vec![revision("a", 1), revision("b", 2)]
}

fn revision_name(letter: char) -> String {
    name(&revision(&letter.to_string(), 1).metadata).to_owned()
}

fn letter(revision: &str) -> char {
    "abc".chars().find(|c| revision_name(*c) == revision).unwrap_or('!')
}

pub(super) fn pod(set: &StatefulSet, text: &str) -> Arc<Pod> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap();
    let ordinal: i32 = text[..digits].parse().unwrap();
    let mut rest = text[digits..].chars();
    let (revision, state) = (rest.next().unwrap(), rest.next().unwrap());
    let template = set.spec.as_ref().unwrap().template.clone();
    let mut pod = identity::new_pod(set, &template, &revision_name(revision), ordinal);
    pod.metadata.uid = Some(format!("uid-{ordinal}"));
    pod.metadata.resource_version = Some("7".to_owned());
    let phase = match state {
        '+' | '-' => "Running",
        '?' => "Pending",
        'x' => "Failed",
        'o' => "Succeeded",
        other => panic!("state {other}"),
    };
    let ready = if state == '+' { "True" } else { "False" };
    let since = now() - SignedDuration::from_secs(100);
    let status = json!({"phase": phase, "conditions": [
        {"type": "Ready", "status": ready, "lastTransitionTime": since.to_string()}]});
    pod.status = Some(serde_json::from_value(status).unwrap());
    if rest.next() == Some('~') {
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    }
    Arc::new(pod)
}

pub(super) fn print(plan: &Plan) -> String {
    let steps = plan.pods.iter().flatten().map(|step| match step {
        Step::CreateClaim { claim, .. } => format!("claim {}", name(&claim.metadata)),
        Step::CreatePod(pod) => {
            let ordinal = name(&pod.metadata).rsplit('-').next().unwrap().to_owned();
            format!("+{ordinal}{}", letter(identity::revision_of(pod)))
        }
        Step::DeletePod { pod, .. } => format!("-{}", name(&pod.metadata).rsplit('-').next().unwrap()),
        Step::Label { ordinal, .. } => format!("label {ordinal}"),
        Step::SetClaimOwners { claim, owners } => {
            let owners: Vec<&str> = owners.iter().map(|o| o.kind.as_str()).collect();
            format!("own {} {}", name(&claim.metadata), owners.join("+"))
        }
        Step::Refuse { pod, why, .. } => format!("refuse {pod}: {why}"),
    });
    steps.collect::<Vec<_>>().join(", ")
}

fn run(set: &StatefulSet, pods: &str, claims: &[PersistentVolumeClaim]) -> Plan {
    let pods: Vec<Arc<Pod>> = pods.split_whitespace().map(|text| pod(set, text)).collect();
    let claims: Vec<_> = claims.iter().cloned().map(Arc::new).collect();
    let history = history();
    plan(&View { set, pods: &pods, claims: &claims, revisions: &history }, now()).unwrap()
}

/// Rolling from `a` to `b`: the template is `b`, the status says that `a` is current.
fn rolling(spec: Value) -> StatefulSet {
    let mut set = set("b", spec);
    set.status =
        Some(serde_json::from_value(json!({"replicas": 3, "currentRevision": revision_name('a')})).unwrap());
    set
}

#[track_caller]
fn check(set: &StatefulSet, pods: &str, expected: &str) {
    assert_eq!(print(&run(set, pods, &[])), expected, "pods: {pods}");
}

#[test]
fn ordered_creation() {
    let set = set("b", json!({}));
    check(&set, "", "+0b");
    for waiting in ["0b?", "0b-", "0b+~", "0b?~"] {
        check(&set, waiting, "");
    }
    check(&set, "0b+", "+1b");
    check(&set, "0b+ 1b-", "");
    check(&set, "0b+ 1b+", "+2b");
    check(&set, "0b+ 1b+ 2b+", "");
    // A hole is filled before anything else happens, and only once the one below is Ready.
    check(&set, "0b+ 2b+", "+1b");
    check(&set, "0b- 2b+", "");
    check(&set, "1b+ 2b+", "+0b");
}

#[test]
fn ended_pods_are_deleted_and_recreated() {
    let set = set("b", json!({}));
    check(&set, "0b+ 1bx 2b+", "-1");
    check(&set, "0b+ 1bo 2b+", "-1");
    check(&set, "0b+ 1bx~ 2b+", "");
    check(&set, "0b- 1bx 2b+", "");
    check(&set, "0b+ 2b+", "+1b");
}

#[test]
fn parallel_creates_all_at_once() {
    let set = set("b", json!({"podManagementPolicy": "Parallel"}));
    check(&set, "", "+0b, +1b, +2b");
    check(&set, "0b- 2b?", "+1b");
    check(&set, "0b- 1b+~ 2bx", "-2");
}

#[test]
fn scale_down_is_ordered_and_waits_for_health() {
    let set = set("b", json!({"replicas": 1}));
    check(&set, "0b+ 1b+ 2b+", "-2");
    check(&set, "0b+ 1b+ 2b+~", "");
    check(&set, "0b+ 1b+", "-1");
    check(&set, "0b+", "");
    for unhealthy_below in ["0b- 1b+ 2b+", "0b+~ 1b+ 2b+", "0b+ 1b- 2b+", "0b+ 1b+~ 2b+", "0b? 1b+"] {
        check(&set, unhealthy_below, "");
    }
    // The unhealthy one itself may go, when it is its turn.
    check(&set, "0b+ 1b+ 2b-", "-2");
    check(&set, "0b+ 1b-", "-1");
    // Wanted replicas come first.
    check(&set, "1b+ 2b+", "+0b");
    // One that has ended does not hold the others up.
    check(&set, "0b+ 1bx 2b+", "-1");
}

#[test]
fn a_surplus_pod_whose_claim_was_deleted_gets_a_new_one_where_others_wait_for_it() {
    let template = json!([{"metadata": {"name": "data"}, "spec": {}}]);
    let set = set("b", json!({"replicas": 1, "volumeClaimTemplates": template}));
    let claims = |ordinals: &[i32]| -> Vec<PersistentVolumeClaim> {
        let mut claims = Vec::new();
        ordinals.iter().for_each(|ordinal| claims.extend(identity::claims(&set, *ordinal)));
        claims
    };
    let check = |pods: &str, have: &[i32], expected: &str| {
        assert_eq!(print(&run(&set, pods, &claims(have))), expected, "pods: {pods}, claims: {have:?}");
    };
    check("0b+ 1b? 2b+", &[0, 2], "claim data-kubia-1");
    check("0b+ 1b? 2b+", &[0, 1, 2], "");
    // It is the next to go itself, or will be: no claim is made that nobody needs.
    check("0b+ 1b?", &[0], "-1");
    check("0b+ 1b? 2b+~", &[0, 2], "");
    check("0b+ 1b?~ 2b+", &[0, 2], "");
}

#[test]
fn scale_to_zero_takes_the_highest_first() {
    let set = set("b", json!({"replicas": 0}));
    check(&set, "0b+ 1b+", "-1");
    check(&set, "0b- 1b+", "");
    check(&set, "0b- 1b-", "");
    check(&set, "0b-", "-0");
    check(&set, "", "");
}

#[test]
fn parallel_scales_down_at_once() {
    let set = set("b", json!({"replicas": 1, "podManagementPolicy": "Parallel"}));
    check(&set, "0b- 1b- 2b+ 3b+~", "-2, -1");
}

#[test]
fn rolling_update_from_the_highest() {
    let set = rolling(json!({}));
    check(&set, "0a+ 1a+ 2a+", "-2");
    check(&set, "0a+ 1a+ 2a+~", "");
    check(&set, "0a+ 1a+", "+2b");
    check(&set, "0a+ 1a+ 2b?", "");
    check(&set, "0a+ 1a+ 2b-", "");
    check(&set, "0a+ 1a+ 2b+", "-1");
    check(&set, "0a+ 1b+ 2b+", "-0");
    check(&set, "0b+ 1b+ 2b+", "");
}

#[test]
fn a_broken_old_pod_is_replaced_without_waiting() {
    let set = rolling(json!({}));
    // The template was wrong from the start: nothing after 0 was ever made.
    check(&set, "0a?", "-0");
    check(&set, "0a-", "-0");
    // It went wrong at the first step of a roll-out, and was taken back.
    check(&set, "0b+ 1b+ 2a-", "-2");
    check(&set, "0a+ 1a- 2a+", "-1");
    check(&set, "0a- 1a- 2a+", "-1");
    // But not while a new pod is not Ready, or one is still going.
    check(&set, "0a+ 1a- 2b-", "");
    check(&set, "0a+ 1a- 2b+~", "");
    check(&set, "0a+ 1a-~ 2a+", "");
}

#[test]
fn a_broken_old_pod_below_the_partition_stays() {
    let set =
        rolling(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    check(&set, "0a+ 1a- 2a+", "");
    check(&set, "0a+ 1a+ 2a-", "-2");
}

#[test]
fn partition_keeps_the_old_revision_below() {
    let set =
        rolling(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 2}}}));
    check(&set, "0a+ 1a+ 2a+", "-2");
    check(&set, "0a+ 1a+", "+2b");
    check(&set, "0a+ 1a+ 2b+", "");
    check(&set, "0a+ 2b+", "+1a");
    let beyond =
        rolling(json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 9}}}));
    check(&beyond, "0a+ 1a+", "+2a");
    check(&beyond, "0a+ 1a+ 2a+", "");
}

#[test]
fn on_delete_only_uses_the_new_template() {
    let set = rolling(json!({"updateStrategy": {"type": "OnDelete"}}));
    check(&set, "0a+ 1a+ 2a+", "");
    check(&set, "0a+ 1a+", "+2b");
    check(&set, "0a- 1a+ 2a+", "");
}

#[test]
fn parallel_still_rolls_one_by_one() {
    let set = rolling(json!({"podManagementPolicy": "Parallel"}));
    check(&set, "0a+ 1a+ 2a+", "-2");
    check(&set, "0a+ 1a+ 2b-", "");
    check(&set, "0a+ 1a+ 2b+", "-1");
    check(&set, "0a- 1a+ 2a+", "-0");
    check(&set, "0a+ 1a- 2a-", "-2");
}

#[test]
fn max_unavailable_rolls_several() {
    let strategy = |max: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": max}});
    let parallel = |max: Value| {
        rolling(json!({"podManagementPolicy": "Parallel", "replicas": 4, "updateStrategy": strategy(max)}))
    };
    check(&parallel(json!(2)), "0a+ 1a+ 2a+ 3a+", "-3, -2");
    check(&parallel(json!(2)), "0a+ 1a+ 2a+ 3b-", "-2");
    check(&parallel(json!(2)), "0a+ 1a+ 2b- 3b-", "");
    check(&parallel(json!("50%")), "0a+ 1a+ 2a+ 3a+", "-3, -2");
    check(&parallel(json!("10%")), "0a+ 1a+ 2a+ 3a+", "-3");
}

#[test]
fn min_ready_seconds_counts_from_the_ready_transition() {
    // The pods of these tests have been Ready for 100 s.
    let just = set("b", json!({"minReadySeconds": 100}));
    check(&just, "0b+", "+1b");
    let not_yet = set("b", json!({"minReadySeconds": 130}));
    check(&not_yet, "0b+", "");
    let plan = run(&not_yet, "0b+", &[]);
    assert_eq!(plan.check_after, Some(SignedDuration::from_secs(30)));
    assert_eq!((plan.status.ready_replicas, plan.status.available_replicas), (Some(1), Some(0)));
    assert_eq!(run(&just, "0b+", &[]).check_after, None);
}

#[test]
fn ordinals_start_where_told() {
    let set = set("b", json!({"replicas": 2, "ordinals": {"start": 5}}));
    check(&set, "", "+5b");
    check(&set, "5b+", "+6b");
    check(&set, "4b+ 5b+ 6b+", "-4");
    check(&set, "5b+ 6b+ 7b+", "-7");
}

#[test]
fn huge_sets_are_worked_on_in_pieces() {
    let set = set("b", json!({"replicas": i32::MAX, "podManagementPolicy": "Parallel"}));
    assert_eq!(run(&set, "", &[]).pods.len(), super::plan::MAX_PODS_PER_RUN);
}

#[test]
fn a_set_that_goes_touches_no_pod() {
    let mut set = set("b", json!({}));
    set.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    let plan = run(&set, "0b+ 1bx", &[]);
    assert_eq!(print(&plan), "");
    assert_eq!(plan.status.replicas, 2);
}

fn with_claims(spec: Value) -> StatefulSet {
    let mut whole = json!({"volumeClaimTemplates": [
        {"metadata": {"name": "data", "labels": {"x": "y"}}, "spec": {"accessModes": ["ReadWriteOnce"]}}]});
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    set("b", whole)
}

fn claim(ordinal: i32, more: Value) -> PersistentVolumeClaim {
    let mut meta =
        json!({"name": format!("data-kubia-{ordinal}"), "namespace": "ns", "uid": format!("c{ordinal}")});
    for (key, value) in more.as_object().unwrap() {
        meta[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": meta})).unwrap()
}

#[test]
fn claims_come_before_the_pod_and_stay() {
    let set = with_claims(json!({}));
    let steps = |pods: &str, claims: &[PersistentVolumeClaim]| print(&run(&set, pods, claims));
    assert_eq!(steps("", &[]), "claim data-kubia-0, +0b");
    assert_eq!(steps("", &[claim(0, json!({}))]), "+0b");
    assert_eq!(steps("0b?", &[]), "claim data-kubia-0");
    assert_eq!(steps("0b?~", &[]), "");
    assert_eq!(
        steps("", &[claim(0, json!({"deletionTimestamp": now().to_string()}))]),
        "refuse kubia-0: pvc data-kubia-0 is being deleted"
    );
    let all: Vec<_> = (0..4).map(|o| claim(o, json!({}))).collect();
    assert_eq!(steps("0b+ 1b+ 2b+ 3b+", &all), "-3", "scaling down leaves the claim alone");
    let made = identity::claims(&set, 1).remove(0);
    let labels = made.metadata.labels.unwrap();
    assert_eq!((labels["app"].as_str(), labels["x"].as_str()), ("kubia", "y"));
    assert_eq!(made.metadata.name.as_deref(), Some("data-kubia-1"));
}

#[test]
fn claim_retention() {
    let policy = |deleted: &str, scaled: &str| {
        with_claims(
            json!({"replicas": 1, "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}),
        )
    };
    let two = [claim(0, json!({})), claim(1, json!({}))];
    let steps =
        |set: &StatefulSet, pods: &str, claims: &[PersistentVolumeClaim]| print(&run(set, pods, claims));
    assert_eq!(steps(&policy("Retain", "Retain"), "0b+ 1b+", &two), "-1");
    assert_eq!(
        steps(&policy("Delete", "Retain"), "0b+ 1b+", &two),
        "own data-kubia-0 StatefulSet, own data-kubia-1 StatefulSet, -1"
    );
    assert_eq!(steps(&policy("Retain", "Delete"), "0b+ 1b+", &two), "own data-kubia-1 Pod, -1");
    assert_eq!(
        steps(&policy("Delete", "Delete"), "0b+ 1b+", &two),
        "own data-kubia-0 StatefulSet, own data-kubia-1 Pod, -1"
    );
    let owner = |kind: &str, name: &str, uid: &str| {
        json!({"ownerReferences": [
        {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true}]})
    };
    // The policy was taken back.
    let owned = [claim(0, owner("StatefulSet", "kubia", SET_UID))];
    assert_eq!(steps(&policy("Retain", "Retain"), "0b+", &owned), "own data-kubia-0 ");
    // Scaled up again before the claim of the earlier pod is gone: the new pod must not take it.
    let stale = [claim(0, owner("Pod", "kubia-0", "earlier"))];
    assert_eq!(steps(&policy("Retain", "Delete"), "", &stale), "");
    // Somebody else's claim is left alone.
    let foreign = [claim(0, owner("Database", "db", "d"))];
    assert_eq!(steps(&policy("Delete", "Delete"), "0b+", &foreign), "");
}

#[test]
fn the_pod_has_its_identity() {
    let set = with_claims(json!({}));
    let template = set.spec.as_ref().unwrap().template.clone();
    let pod = identity::new_pod(&set, &template, "kubia-hash", 2);
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref().unwrap());
    let labels = meta.labels.as_ref().unwrap();
    assert_eq!(meta.name.as_deref(), Some("kubia-2"));
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("kubia-2"), Some("kubia")));
    for (key, value) in [
        ("app", "kubia"),
        (identity::POD_NAME_LABEL, "kubia-2"),
        (identity::POD_INDEX_LABEL, "2"),
        (identity::REVISION_LABEL, "kubia-hash"),
    ] {
        assert_eq!(labels[key], value);
    }
    assert!(api::owner::is_controlled_by(meta, &set.metadata));
    let volumes = spec.volumes.as_ref().unwrap();
    assert_eq!(volumes[0].persistent_volume_claim.as_ref().unwrap().claim_name, "data-kubia-2");
    assert!(identity::storage_matches(&set, &pod, 2) && !identity::storage_matches(&set, &pod, 1));
}

#[test]
fn a_lost_identity_label_is_put_back() {
    let set = set("b", json!({"replicas": 1}));
    let mut lost = Pod::clone(&pod(&set, "0b+"));
    lost.metadata.labels.as_mut().unwrap().remove(identity::POD_NAME_LABEL);
    let pods = [Arc::new(lost)];
    let plan = plan(&View { set: &set, pods: &pods, claims: &[], revisions: &history() }, now()).unwrap();
    assert_eq!(print(&plan), "label 0");
}

#[test]
fn ownership_comes_first_and_alone() {
    let set = set("b", json!({"replicas": 1}));
    let view = |pods: &[Arc<Pod>], revisions: &[Arc<ControllerRevision>]| {
        let plan = plan(&View { set: &set, pods, claims: &[], revisions }, now()).unwrap();
        assert!(plan.ownership.is_empty() || plan.pods.is_empty());
        plan.ownership
    };
    let change = |text: &str, f: &dyn Fn(&mut Pod)| {
        let mut pod = Pod::clone(&pod(&set, text));
        f(&mut pod);
        Arc::new(pod)
    };
    let orphan = change("0b+", &|p| p.metadata.owner_references = None);
    assert_eq!(view(std::slice::from_ref(&orphan), &history()), [Ownership::AdoptPod(orphan)]);
    let foreign = change("0b+", &|p| p.metadata.owner_references.as_mut().unwrap()[0].uid = "other".into());
    assert_eq!(view(&[foreign], &history()), []);
    let relabelled = change("0b+", &|p| drop(p.metadata.labels.as_mut().unwrap().remove("app")));
    assert_eq!(view(std::slice::from_ref(&relabelled), &history()), [Ownership::ReleasePod(relabelled)]);
    for not_ours in ["kubia-00", "kubia-x", "other-0"] {
        let orphan = change("0b+", &|p| {
            p.metadata.owner_references = None;
            p.metadata.name = Some(not_ours.to_owned());
        });
        assert_eq!(view(&[orphan], &history()), [], "{not_ours}");
    }
    let going = change("0b+~", &|p| p.metadata.owner_references = None);
    assert_eq!(view(&[going], &history()), []);
    let mut revision = ControllerRevision::clone(&revision("b", 2));
    revision.metadata.owner_references = None;
    let revision = Arc::new(revision);
    assert_eq!(view(&[], std::slice::from_ref(&revision)), [Ownership::AdoptRevision(revision)]);
}

#[test]
fn revisions_are_made_kept_and_found_again() {
    let step = |image: &str, history: &[Arc<ControllerRevision>]| {
        revisions::resolve(&set(image, json!({})), history).unwrap().step
    };
    let revisions::Step::Create(first) = step("a", &[]) else { panic!() };
    assert_eq!(first.revision, 1);
    assert_eq!(first.data.as_ref().unwrap().0["spec"]["template"]["$patch"], "replace");
    assert!(name(&first.metadata).starts_with("kubia-"));
    assert_eq!(step("b", &history()), revisions::Step::Keep);
    let revisions::Step::Create(third) = step("c", &history()) else { panic!() };
    assert_eq!(third.revision, 3);
    assert_eq!(
        step("a", &history()),
        revisions::Step::Renumber { revision: revision("a", 1), number: 3 },
        "a rollback takes the old revision up again"
    );
    let mut collided = set("a", json!({}));
    collided.status = Some(serde_json::from_value(json!({"replicas": 0, "collisionCount": 1})).unwrap());
    let revisions::Step::Create(other) = revisions::resolve(&collided, &[]).unwrap().step else { panic!() };
    assert_ne!(other.metadata.name, first.metadata.name);
}

#[test]
fn old_revisions_expire_but_not_those_in_use() {
    let mut history: Vec<_> = (1..=5).map(|n| revision(&format!("old{n}"), n)).collect();
    history.push(revision("b", 6));
    let set = set("b", json!({"revisionHistoryLimit": 2}));
    let mut used = Pod::clone(&pod(&set, "0b+"));
    used.metadata
        .labels
        .as_mut()
        .unwrap()
        .insert(identity::REVISION_LABEL.into(), name(&history[0].metadata).to_owned());
    let pods = [Arc::new(used)];
    let plan = plan(&View { set: &set, pods: &pods, claims: &[], revisions: &history }, now()).unwrap();
    let expired: Vec<i64> = plan.expired.iter().map(|r| r.revision).collect();
    assert_eq!(expired, [2, 3]);
}

#[test]
fn status_counts() {
    let status = run(&rolling(json!({})), "0a+ 1a- 2b+ 3b+~", &[]).status;
    assert_eq!(status.replicas, 4);
    assert_eq!((status.ready_replicas, status.available_replicas), (Some(3), Some(3)));
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(2), Some(1)));
    assert_eq!(status.current_revision, Some(revision_name('a')));
    assert_eq!(status.update_revision, Some(revision_name('b')));
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn the_roll_out_is_complete_only_when_all_are_new_and_ready() {
    let current = |pods: &str| letter(&run(&rolling(json!({})), pods, &[]).status.current_revision.unwrap());
    assert_eq!(current("0b+ 1b+ 2b-"), 'a');
    assert_eq!(current("0a+ 1b+ 2b+"), 'a');
    assert_eq!(current("0b+ 1b+ 2b+ 3b+"), 'a');
    assert_eq!(current("0b+ 1b+ 2b+"), 'b');
    let done = run(&rolling(json!({})), "0b+ 1b+ 2b+", &[]).status;
    assert_eq!(done.current_replicas, Some(3));
}

#[test]
fn status_is_written_only_when_it_says_something_new() {
    let new = run(&rolling(json!({})), "0a+", &[]).status;
    assert!(status::differs(None, &new));
    assert!(!status::differs(Some(&new), &new));
    let mut zero = new.clone();
    zero.updated_replicas = Some(0);
    zero.collision_count = None;
    assert!(!status::differs(Some(&zero), &new), "zero and absent are the same");
    let mut newer = new.clone();
    newer.observed_generation = Some(4);
    assert!(!status::differs(Some(&newer), &new), "an old cache does not take it back");
}
