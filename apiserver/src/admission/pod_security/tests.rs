use super::{checks::Subject, *};
use crate::admission::testing::{Case, object};
use policy::Version;
use serde_json::{Value, json};

fn standard(level: Level, version: Version) -> Standard {
    Standard { level, version }
}

fn found(standard: Standard, metadata: Value, spec: Value) -> String {
    let pod: Pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
    details(&evaluate(standard, &Subject::of_pod(&pod)))
}

/// A pod of one container `a` with this security context.
fn secured(context: Value) -> Value {
    json!({"containers": [{"name": "a", "securityContext": context}]})
}

#[test]
fn the_rules_of_baseline() {
    let baseline =
        |metadata: Value, spec: Value| found(standard(Level::Baseline, Version::Latest), metadata, spec);
    let two = json!({"initContainers": [{"name": "i", "securityContext": {"privileged": true}}],
                     "containers": [{"name": "a", "securityContext": {"privileged": true}}]});
    let ports = json!({"containers": [
        {"name": "a", "ports": [{"containerPort": 1, "hostPort": 80}, {"containerPort": 2, "hostPort": 443}]},
        {"name": "b", "ports": [{"containerPort": 3}]}]});
    let probes =
        json!({"containers": [{"name": "a", "livenessProbe": {"httpGet": {"host": "evil", "port": 1}}}]});
    let annotated =
        json!({"annotations": {"container.apparmor.security.beta.kubernetes.io/a": "unconfined"}});
    for (metadata, spec, expected) in [
        (json!({}), json!({"containers": [{"name": "a"}]}), ""),
        (
            json!({}),
            secured(json!({"capabilities": {"add": ["NET_RAW", "CHOWN", "BPF"]}})),
            r#"non-default capabilities (container "a" must not include "BPF", "NET_RAW" in securityContext.capabilities.add)"#,
        ),
        (
            json!({}),
            json!({"hostNetwork": true, "hostIPC": true, "containers": []}),
            "host namespaces (hostNetwork=true, hostIPC=true)",
        ),
        (
            json!({}),
            json!({"containers": [], "volumes": [{"name": "h", "hostPath": {"path": "/"}}]}),
            r#"hostPath volumes (volume "h")"#,
        ),
        (json!({}), ports, r#"hostPort (container "a" uses hostPorts 443, 80)"#),
        (json!({}), probes, r#"probe or lifecycle host (container "a" uses probe or lifecycle host "evil")"#),
        (json!({}), two, r#"privileged (containers "i", "a" must not set securityContext.privileged=true)"#),
        (
            json!({}),
            secured(json!({"procMount": "Unmasked"})),
            r#"procMount (container "a" must not set securityContext.procMount to "Unmasked")"#,
        ),
        (
            json!({}),
            json!({"containers": [], "securityContext": {"seLinuxOptions": {"type": "x", "role": "r"}}}),
            r#"seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "x"; role may not be set)"#,
        ),
        (
            json!({}),
            json!({"containers": [{"name": "a", "securityContext": {"seccompProfile": {"type": "Unconfined"}}}],
                   "securityContext": {"seccompProfile": {"type": "Unconfined"}}}),
            r#"seccompProfile (pod and container "a" must not set securityContext.seccompProfile.type to "Unconfined")"#,
        ),
        (
            json!({}),
            json!({"containers": [], "securityContext": {"sysctls": [
                {"name": "kernel.shm_rmid_forced", "value": "1"}, {"name": "kernel.msgmax", "value": "1"}]}}),
            "forbidden sysctls (kernel.msgmax)",
        ),
        (
            json!({}),
            secured(json!({"windowsOptions": {"hostProcess": true}})),
            r#"hostProcess (container "a" must not set securityContext.windowsOptions.hostProcess=true)"#,
        ),
        (
            annotated,
            json!({"containers": [{"name": "a"}]}),
            r#"forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/a="unconfined"")"#,
        ),
    ] {
        assert_eq!(baseline(metadata, spec.clone()), expected, "{spec}");
    }
}

#[test]
fn the_rules_of_restricted() {
    let restricted = standard(Level::Restricted, Version::Latest);
    assert_eq!(
        found(restricted, json!({}), json!({"containers": [{"name": "a"}]})),
        "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    let good = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let pod = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let spec = |context: Value, pod: Value| json!({"containers": [{"name": "a", "securityContext": context}], "securityContext": pod});
    let with = |mut value: Value, key: &str, new: Value| {
        value[key] = new;
        value
    };
    let nfs = json!([{"name": "n", "nfs": {"server": "s", "path": "/"}}, {"name": "e", "emptyDir": {}}]);
    for (spec, expected) in [
        (spec(good.clone(), pod.clone()), ""),
        (
            with(spec(good.clone(), pod.clone()), "volumes", nfs),
            r#"restricted volume types (volume "n" uses restricted volume type "nfs")"#,
        ),
        (
            spec(with(good.clone(), "runAsUser", json!(0)), pod.clone()),
            r#"runAsUser=0 (container "a" must not set runAsUser=0)"#,
        ),
        (
            spec(with(good.clone(), "runAsNonRoot", json!(false)), pod.clone()),
            r#"runAsNonRoot != true (container "a" must not set securityContext.runAsNonRoot=false)"#,
        ),
        (
            spec(with(good.clone(), "capabilities", json!({"drop": ["ALL"], "add": ["CHOWN"]})), pod.clone()),
            r#"unrestricted capabilities (container "a" must not include "CHOWN" in securityContext.capabilities.add)"#,
        ),
        // Root of its own user namespace.
        (with(spec(good.clone(), with(pod.clone(), "runAsUser", json!(0))), "hostUsers", json!(false)), ""),
    ] {
        assert_eq!(found(restricted, json!({}), spec.clone()), expected, "{spec}");
    }
}

#[test]
fn a_version_means_its_own_rules() {
    let at = |level, minor, spec: Value| found(standard(level, Version::Minor(minor)), json!({}), spec);
    let capable = secured(json!({"capabilities": {"add": ["NET_RAW"]}}));
    // Before 1.22 restricted knew nothing of dropping; before 1.8 nothing of escalation.
    assert_eq!(
        at(Level::Restricted, 7, capable.clone()),
        "non-default capabilities (container \"a\" must not include \"NET_RAW\" in securityContext.capabilities.add), \
         runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)"
    );
    assert!(!at(Level::Restricted, 21, capable.clone()).contains("drop"));
    assert!(at(Level::Restricted, 22, capable).contains("unrestricted capabilities"));
    let sysctl = json!({"containers": [], "securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1"}]}});
    assert_eq!(at(Level::Baseline, 31, sysctl.clone()), "forbidden sysctls (net.ipv4.tcp_rmem)");
    assert_eq!(at(Level::Baseline, 32, sysctl), "");
    let windows = json!({"os": {"name": "windows"}, "containers": [{"name": "a"}]});
    assert!(at(Level::Restricted, 24, windows.clone()).contains("allowPrivilegeEscalation"));
    assert!(!at(Level::Restricted, 25, windows).contains("allowPrivilegeEscalation"));
    let old = json!({"annotations": {"seccomp.security.alpha.kubernetes.io/pod": "unconfined"}});
    assert_eq!(
        found(standard(Level::Baseline, Version::Minor(18)), old, json!({"containers": []})),
        r#"seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod="unconfined")"#
    );
}

fn namespace(labels: Value) -> Value {
    let mut namespace = object("v1", "Namespace", "", "default", json!({}));
    namespace["metadata"]["labels"] = labels;
    namespace
}

fn labelled(level: &str) -> Value {
    namespace(json!({"pod-security.kubernetes.io/enforce": level}))
}

#[tokio::test]
async fn pods_are_refused_and_workloads_warned_of() {
    let bad = secured(json!({"privileged": true}));
    let pod = object("v1", "Pod", "default", "web", json!({"spec": bad}));
    let case = || Case::new("pods", Operation::Create).lookup([labelled("baseline")]);
    let said = r#"privileged (container "a" must not set securityContext.privileged=true)"#;
    assert_eq!(
        case().validate(&PodSecurity, Some(&pod), None).await.unwrap_err().to_string(),
        format!("pods \"web\" is forbidden: violates PodSecurity \"baseline:latest\": {said}")
    );
    let deployment =
        object("apps/v1", "Deployment", "default", "web", json!({"spec": {"template": {"spec": bad}}}));
    let case = Case::new("deployments", Operation::Create).lookup([labelled("baseline")]);
    case.validate(&PodSecurity, Some(&deployment), None).await.unwrap();
    assert_eq!(
        case.remark(&PodSecurity, &deployment, None).await.unwrap(),
        [format!("would violate PodSecurity \"baseline:latest\": {said}")]
    );
    // Where nothing is said, nothing is asked.
    let open = Case::new("pods", Operation::Create).lookup([namespace(json!({}))]);
    open.validate(&PodSecurity, Some(&pod), None).await.unwrap();
    assert!(open.remark(&PodSecurity, &pod, None).await.unwrap().is_empty());
    // A pod that is there stays; only another image has it looked at again.
    let update = Case::new("pods", Operation::Update).lookup([labelled("baseline")]);
    update.validate(&PodSecurity, Some(&pod), Some(&pod)).await.unwrap();
    let mut other = pod.clone();
    other["spec"]["containers"][0]["image"] = json!("other");
    update.validate(&PodSecurity, Some(&other), Some(&pod)).await.unwrap_err();
}

#[tokio::test]
async fn labels_of_namespaces() {
    let case = Case::new("namespaces", Operation::Update);
    let (typo, open) = (labelled("strict"), namespace(json!({})));
    let refused = case.validate(&PodSecurity, Some(&typo), Some(&open)).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    case.validate(&PodSecurity, Some(&typo), Some(&typo)).await.unwrap();

    let pod = |name: &str, spec: Value| object("v1", "Pod", "default", name, json!({"spec": spec}));
    let bad = secured(json!({"privileged": true}));
    let host = json!({"containers": [{"name": "a"}], "hostNetwork": true});
    let pods = [pod("z", bad.clone()), pod("b", bad.clone()), pod("c", bad), pod("d", host)];
    let case = Case::new("namespaces", Operation::Update).lookup(pods);
    let warned = |new: Value, old: Value| {
        let case = &case;
        async move { case.remark(&PodSecurity, &new, Some(&old)).await.unwrap() }
    };
    assert_eq!(
        warned(labelled("baseline"), namespace(json!({}))).await,
        [
            "existing pods in namespace \"default\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "b (and 2 other pods): privileged",
            "d: host namespaces",
        ]
    );
    assert!(warned(labelled("baseline"), labelled("baseline")).await.is_empty());
    assert!(warned(labelled("baseline"), labelled("restricted")).await.is_empty());
}
