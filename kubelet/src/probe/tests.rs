use super::*;
use crate::testing::at;
use serde_json::json;

fn spec(probes: serde_json::Value) -> Spec {
    let mut value = probes;
    value["name"] = json!("c");
    serde_json::from_value(value).unwrap()
}

fn running<'a>(id: &'a str, spec: &'a Spec, second: i64) -> Running<'a> {
    Running { id, spec, since: at(second), told: None }
}

fn due(probes: &mut Probes, second: i64) -> Vec<Kind> {
    probes.due(at(second), false).into_iter().map(|(_, _, kind, _)| kind).collect()
}

#[test]
fn thresholds_and_periods() {
    let spec = spec(json!({"readinessProbe": {"exec": {}, "periodSeconds": 5, "initialDelaySeconds": 3,
        "successThreshold": 2, "failureThreshold": 2}}));
    let mut probes = Probes::default();
    probes.sync([running("id", &spec, 0)].into_iter());
    assert_eq!(due(&mut probes, 2), []);
    assert_eq!(probes.next(), Some(at(3)));
    assert_eq!(due(&mut probes, 3), [Kind::Readiness]);
    assert_eq!((due(&mut probes, 4), probes.next()), (vec![], None), "one at a time");
    assert!(!probes.result("id", Kind::Readiness, true, at(4)));
    assert_eq!(probes.next(), Some(at(8)), "counted from when it was due");
    due(&mut probes, 8);
    assert!(probes.result("id", Kind::Readiness, true, at(8)));
    assert!(probes.health()["id"].ready);
    assert!(!probes.result("id", Kind::Readiness, false, at(13)), "one failure is none");
    assert!(probes.health()["id"].ready);
    assert!(probes.result("id", Kind::Readiness, false, at(18)));
    assert!(!probes.health()["id"].ready);
    // A slow answer does not make the next ones come at once, one after another.
    assert!(!probes.result("id", Kind::Readiness, false, at(100)));
    assert_eq!(probes.next(), Some(at(100)));
}

#[test]
fn startup_holds_the_others_and_failure_is_for_good() {
    let spec = spec(
        json!({"startupProbe": {"exec": {}, "failureThreshold": 2}, "livenessProbe": {"exec": {}, "failureThreshold": 1},
        "readinessProbe": {"exec": {}}}),
    );
    let mut probes = Probes::default();
    probes.sync([running("id", &spec, 0)].into_iter());
    assert_eq!(due(&mut probes, 0), [Kind::Startup]);
    assert_eq!(probes.health()["id"], Health { started: false, ready: false, failed: None });
    probes.result("id", Kind::Startup, true, at(1));
    assert_eq!(due(&mut probes, 1), [Kind::Liveness, Kind::Readiness]);
    probes.result("id", Kind::Readiness, true, at(1));
    assert_eq!(probes.health()["id"], Health { started: true, ready: true, failed: None });
    probes.result("id", Kind::Liveness, false, at(1));
    assert_eq!(probes.health()["id"].failed.as_deref(), Some("liveness"));
    assert_eq!(due(&mut probes, 1000), [], "it is being killed");
    // Another instance starts afresh.
    probes.sync([running("id2", &spec, 50)].into_iter());
    assert_eq!(due(&mut probes, 50), [Kind::Startup]);
    probes.result("id2", Kind::Startup, false, at(50));
    assert_eq!(probes.health()["id2"].failed, None);
    probes.result("id2", Kind::Startup, false, at(60));
    assert_eq!(probes.health()["id2"].failed.as_deref(), Some("startup"));
    assert!(!probes.result("id", Kind::Startup, true, at(60)), "results of the dead are ignored");
}

#[test]
fn a_stopping_pod_is_asked_for_readiness_only() {
    let spec = spec(json!({"livenessProbe": {"exec": {}}, "readinessProbe": {"exec": {}}}));
    let mut probes = Probes::default();
    probes.sync([running("id", &spec, 0)].into_iter());
    let kinds: Vec<Kind> = probes.due(at(0), true).into_iter().map(|(_, _, kind, _)| kind).collect();
    assert_eq!(kinds, [Kind::Readiness]);
}

#[test]
fn a_restarted_kubelet_goes_on_from_what_was_told() {
    let spec =
        spec(json!({"startupProbe": {"exec": {}}, "readinessProbe": {"exec": {}, "failureThreshold": 1}}));
    let mut probes = Probes::default();
    probes.sync([Running { told: Some((true, true)), ..running("id", &spec, 0) }].into_iter());
    assert_eq!(probes.health()["id"], Health { started: true, ready: true, failed: None });
    assert_eq!(due(&mut probes, 9), [Kind::Readiness]);
    assert!(probes.result("id", Kind::Readiness, false, at(9)));
    assert!(!probes.health()["id"].ready);
}
