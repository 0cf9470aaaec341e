//! Paths of unknown fields, words of type errors, what counts as not given.

use super::*;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use serde_json::json;

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

#[test]
fn unknown_fields_have_paths() {
    let (_, unknown) = decode::<Pod>(json!({
        "kind": "Pod", "metadata": {"name": "p", "unknownMeta": 1, "labels": {"any.thing": "x"}},
        "spec": {"containers": [{"name": "a"}, {"name": "b", "imagePulPolicy": "Always"}], "replicaz": {"a": [1]}}
    }))
    .unwrap();
    let mut unknown = unknown;
    unknown.sort();
    assert_eq!(unknown, ["metadata.unknownMeta", "spec.containers[1].imagePulPolicy", "spec.replicaz"]);
}

#[test]
fn type_errors_are_worded_as_kubernetes_words_them() {
    let wrong = |value| decode::<Pod>(value).unwrap_err();
    for (spec, error) in [
        (
            json!({"containers": [{"name": 1}]}),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
        ),
        (
            json!({"containers": {}}),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            json!({"containers": [{"ports": [{"containerPort": "80"}]}]}),
            "json: cannot unmarshal string into Go struct field ContainerPort.spec.containers.ports.containerPort \
             of type int32",
        ),
        (
            json!({"securityContext": "x"}),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.securityContext of type \
             v1.PodSecurityContext",
        ),
        (
            json!({"hostNetwork": "true"}),
            "json: cannot unmarshal string into Go struct field PodSpec.spec.hostNetwork of type bool",
        ),
        (
            json!({"nodeSelector": {"a": true}}),
            "json: cannot unmarshal bool into Go struct field PodSpec.spec.nodeSelector of type string",
        ),
        (
            json!({"containers": [{"resources": {"limits": {"cpu": "1 core"}}}]}),
            "quantities must match the regular expression \
             '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            json!({"containers": [{"livenessProbe": {"httpGet": {"port": true}}}]}),
            "json: cannot unmarshal bool into Go struct field \
             HTTPGetAction.spec.containers.livenessProbe.httpGet.port of type string",
        ),
    ] {
        assert_eq!(wrong(pod(spec)), error);
    }
    let replicas = decode::<StatefulSet>(json!({"spec": {"replicas": "three"}})).unwrap_err();
    assert_eq!(
        replicas,
        "json: cannot unmarshal string into Go struct field StatefulSetSpec.spec.replicas of type int32"
    );
    let big = decode::<StatefulSet>(json!({"spec": {"replicas": 3_000_000_000u64}})).unwrap_err();
    assert!(big.contains("number 3000000000 into"), "{big}");
    let date = wrong(json!({"metadata": {"creationTimestamp": "yesterday"}}));
    assert!(date.starts_with("metadata.creationTimestamp: "), "{date}");
}

#[test]
fn nothing_is_not_given() {
    let (pod, _) = decode::<Pod>(pod(json!({
        "hostNetwork": false, "nodeSelector": {}, "tolerations": [], "hostname": "", "securityContext": {},
        "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "v", "hostPath": {"path": "/", "type": ""}, "emptyDir": {}}],
        "containers": [{"name": "a", "command": [], "tty": false, "env": [{"name": "E", "value": ""}],
                        "securityContext": {"privileged": false}}]
    })))
    .unwrap();
    let spec = serde_json::to_value(pod.spec).unwrap();
    assert_eq!(
        spec,
        json!({
            "securityContext": {}, "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "hostPath": {"path": "/", "type": ""}, "emptyDir": {}}],
            "containers": [{"name": "a", "env": [{"name": "E"}], "securityContext": {"privileged": false}}]
        })
    );
    let claim = json!({"spec": {"storageClassName": ""}});
    let (claim, _) = decode::<k8s_openapi::api::core::v1::PersistentVolumeClaim>(claim).unwrap();
    assert_eq!(claim.spec.and_then(|s| s.storage_class_name).as_deref(), Some(""));
}

#[test]
fn null_is_not_given_and_quantities_are_canonical() {
    let (pod, unknown) = decode::<Pod>(pod(json!({
        "containers": [{"name": "a", "command": null, "resources": {"limits": {"cpu": 1, "memory": "1024Mi"},
                                                                    "requests": {"cpu": 0.5}}}],
        "nodeSelector": null
    })))
    .unwrap();
    assert!(unknown.is_empty());
    let resources = pod.spec.unwrap().containers[0].resources.clone().unwrap();
    let (limits, requests) = (resources.limits.unwrap(), resources.requests.unwrap());
    assert_eq!([&limits["cpu"].0, &limits["memory"].0, &requests["cpu"].0], ["1", "1Gi", "500m"]);
    let (service, _) =
        decode::<Service>(json!({"spec": {"ports": [{"port": 80, "targetPort": "http"}]}})).unwrap();
    assert_eq!(serde_json::to_value(service).unwrap()["spec"]["ports"][0]["targetPort"], "http");
}

#[test]
fn the_template_of_a_claim_is_a_claim_whatever_it_says() {
    let set = |api_version: Value| json!({"spec": {"volumeClaimTemplates": [{"apiVersion": api_version, "kind": "x", "metadata": {"name": "d"}}]}});
    for given in [json!(null), json!(""), json!("v2")] {
        let (set, unknown) = decode::<StatefulSet>(set(given)).unwrap();
        assert_eq!(unknown, [""; 0]);
        let written = serde_json::to_value(set).unwrap();
        let claim = &written["spec"]["volumeClaimTemplates"][0];
        assert_eq!((&claim["apiVersion"], &claim["kind"]), (&json!("v1"), &json!("PersistentVolumeClaim")));
    }
    let fault = decode::<StatefulSet>(set(json!(5))).unwrap_err();
    assert!(fault.contains("cannot unmarshal number"), "{fault}");
}

#[test]
fn bytes_are_base64_or_told_as_kubernetes_tells_it() {
    let fault = |text: Value| decode::<Secret>(json!({"data": {"a": text}})).err().unwrap_or_default();
    for (text, error) in [
        (json!("%%"), "illegal base64 data at input byte 0"),
        (json!("YQ="), "illegal base64 data at input byte 3"),
        (json!("YWJ"), "illegal base64 data at input byte 0"),
        (json!("YWJjYQ"), "illegal base64 data at input byte 4"),
        (json!("YQ=="), ""),
        (json!("YWJj\nYQ==\n"), ""),
        (json!("YWJj\n*"), "illegal base64 data at input byte 5"),
        (json!("Y==="), "illegal base64 data at input byte 1"),
        (json!("YQ==YQ=="), "illegal base64 data at input byte 4"),
        (json!(5), "json: cannot unmarshal number into Go struct field Secret.data of type []uint8"),
    ] {
        assert_eq!(fault(text.clone()), error, "{text}");
    }
    let (kept, _) =
        decode::<Secret>(json!({"data": {"empty": "", "a": "YQ\n==\n", "stray": "YWJjYR=="}})).unwrap();
    let expected = json!({"empty": "", "a": "YQ==", "stray": "YWJjYQ=="});
    assert_eq!(serde_json::to_value(kept).unwrap()["data"], expected);
    let hook = json!({"webhooks": [{"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                                    "clientConfig": {"url": "https://a", "caBundle": ""}}]});
    let (hook, _) = decode::<MutatingWebhookConfiguration>(hook).unwrap();
    assert!(hook.webhooks.unwrap()[0].client_config.ca_bundle.is_none(), "empty is none");
}
