//! Faults of pod specs, each with its path and Kubernetes' words.

use super::*;
use crate::kinds::shared::testing::{object, texts};
use serde_json::{Value, json};

fn spec(value: Value) -> PodSpec {
    let mut spec: PodSpec = object(value);
    default_spec(&mut spec);
    default_pod(&mut spec);
    spec
}

fn faults(value: Value) -> Vec<String> {
    let mut errors = Errors::default();
    validate(&spec(value), Holder::Pod, &Path::new("spec"), &mut errors);
    // The examples of long texts are names.rs's own business.
    texts(errors).into_iter().map(|t| t.split(" (e.g.").next().unwrap_or("").to_owned()).collect()
}

fn container(more: Value) -> Value {
    let mut container = json!({"name": "c", "image": "i"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"containers": [container], "volumes": [{"name": "v"}]})
}

fn pod(more: Value) -> Value {
    let mut spec = container(json!({}));
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

#[track_caller]
fn check(value: Value, expected: &[&str]) {
    assert_eq!(faults(value.clone()), expected, "{value}");
}

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start \
                     and end with an alphanumeric character";

#[test]
fn a_rich_pod_is_fine() {
    check(
        json!({
            "containers": [{
                "name": "c", "image": "i", "ports": [{"name": "http", "containerPort": 8080}],
                "env": [{"name": "A", "value": "$(B)"}, {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                        {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "P_"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "conf", "mountPath": "/c", "subPath": "a/b"}],
                "resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": "http"}}, "readinessProbe": {"exec": {"command": ["true"]}, "successThreshold": 2},
                "startupProbe": {"tcpSocket": {"port": 80}}, "lifecycle": {"preStop": {"sleep": {"seconds": 5}}},
                "securityContext": {"runAsUser": 1000, "capabilities": {"drop": ["ALL"]}}
            }],
            "initContainers": [{"name": "i", "image": "i"}, {"name": "s", "image": "i", "restartPolicy": "Always", "readinessProbe": {"grpc": {"port": 1}}}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data-0"}},
                        {"name": "conf", "configMap": {"name": "m", "items": [{"key": "a", "path": "x/a"}]}},
                        {"name": "host", "hostPath": {"path": "/tmp", "type": "DirectoryOrCreate"}},
                        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "kube-root-ca.crt"}},
                            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}},
                        {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
            "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "kubia"}}}]}},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["a.b."], "options": [{"name": "ndots", "value": "2"}]},
            "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a.b"]}], "nodeSelector": {"a": "b"},
            "securityContext": {"fsGroup": 0, "sysctls": [{"name": "kernel.shm_rmid_forced", "value": "1"}]},
            "hostname": "h", "subdomain": "s", "serviceAccountName": "default", "activeDeadlineSeconds": 5
        }),
        &[],
    );
}

#[test]
fn containers() {
    check(json!({"containers": []}), &["spec.containers: Required value"]);
    check(
        json!({"containers": [{}, {"name": "A", "image": "i"}, {"name": "x", "image": " i"}],
               "initContainers": [{"name": "x", "image": "i", "livenessProbe": {"exec": {"command": ["a"]}}}]}),
        &[
            "spec.containers[0].name: Required value",
            "spec.containers[0].image: Required value",
            &format!("spec.containers[1].name: Invalid value: \"A\": {LABEL}"),
            "spec.containers[2].image: Invalid value: \" i\": must not have leading or trailing whitespace",
            "spec.initContainers[0].name: Duplicate value: \"x\"",
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without \
             restartPolicy=Always",
        ],
    );
    check(
        container(
            json!({"imagePullPolicy": "Sometimes", "terminationMessagePolicy": "x", "restartPolicy": "Maybe"}),
        ),
        &[
            "spec.containers[0].terminationMessagePolicy: Unsupported value: \"x\": supported values: \"File\", \
             \"FallbackToLogsOnError\"",
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
            "spec.containers[0].restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \
             \"OnFailure\"",
        ],
    );
}

#[test]
fn ports() {
    check(
        container(json!({"ports": [{"name": "UP", "containerPort": 80}, {"name": "a", "containerPort": 0},
                                   {"name": "a", "containerPort": 70000, "hostPort": 1, "protocol": "ICMP"}, {"containerPort": 1, "hostPort": 1, "protocol": "ICMP"}]})),
        &[
            "spec.containers[0].ports[0].name: Invalid value: \"UP\": must contain only alpha-numeric characters (a-z, \
             0-9), and hyphens (-)",
            "spec.containers[0].ports[0].name: Invalid value: \"UP\": must contain at least one letter (a-z)",
            "spec.containers[0].ports[1].containerPort: Required value",
            "spec.containers[0].ports[2].name: Duplicate value: \"a\"",
            "spec.containers[0].ports[2].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            "spec.containers[0].ports[2].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \
             \"UDP\"",
            "spec.containers[0].ports[3].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \
             \"UDP\"",
            "spec.containers[0].ports[3].hostPort: Duplicate value: \"ICMP//1\"",
        ],
    );
    let mut host = container(json!({"ports": [{"containerPort": 80, "hostPort": 81}]}));
    host["hostNetwork"] = true.into();
    let text = "spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true";
    check(host, &[text]);
}

#[test]
fn env() {
    check(
        container(json!({"env": [{"name": ""}, {"name": "a=b"}, {"name": "a", "valueFrom": {}},
            {"name": "b", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "c", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}, "secretKeyRef": {"name": "s", "key": "k"}}},
            {"name": "d", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}},
            {"name": "e", "valueFrom": {"configMapKeyRef": {"name": "", "key": ""}}}],
            "envFrom": [{}, {"secretRef": {"name": ""}}]})),
        &[
            "spec.containers[0].env[0].name: Required value",
            "spec.containers[0].env[1].name: Invalid value: \"a=b\": a valid environment variable name must consist only of \
             printable ASCII characters other than '='",
            "spec.containers[0].env[2].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, \
             `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            "spec.containers[0].env[3].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            "spec.containers[0].env[4].valueFrom.fieldRef.fieldPath: Unsupported value: \"spec.hostname\": supported values: \
             \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \
             \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
            "spec.containers[0].env[4].valueFrom: Invalid value: \"\": may not have more than one field specified at a time",
            "spec.containers[0].env[5].valueFrom.resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported \
             values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \
             \"requests.ephemeral-storage\", \"requests.memory\"",
            "spec.containers[0].env[6].valueFrom.configMapKeyRef.name: Invalid value: \"\": a lowercase RFC 1123 subdomain \
             must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
             character",
            "spec.containers[0].env[6].valueFrom.configMapKeyRef.key: Required value",
            "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
            "spec.containers[0].envFrom[1].secretRef.name: Required value",
        ],
    );
}

#[test]
fn volumes_and_mounts() {
    check(
        container(
            json!({"volumeMounts": [{"name": "w", "mountPath": "/a"}, {"name": "v", "mountPath": "/a", "subPath": "../b"}, {"name": "v", "mountPath": ""}]}),
        ),
        &[
            "spec.containers[0].volumeMounts[0].name: Not found: \"w\"",
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique",
            "spec.containers[0].volumeMounts.subPath: Invalid value: \"../b\": must not contain '..'",
            "spec.containers[0].volumeMounts[2].mountPath: Required value",
        ],
    );
    check(
        pod(
            json!({"volumes": [{"name": "A"}, {"name": "b", "emptyDir": {}, "secret": {"secretName": "s"}}, {"name": "c", "configMap": {}},
            {"name": "d", "hostPath": {"path": "/x/..", "type": "Dir"}}, {"name": "e", "secret": {"secretName": "s", "defaultMode": 1000,
             "items": [{"key": "", "path": "/abs"}, {"key": "k", "path": "..x"}]}}, {"name": "f"}, {"name": "f"},
            {"name": "g", "persistentVolumeClaim": {"claimName": ""}}]}),
        ),
        &[
            &format!("spec.volumes[0].name: Invalid value: \"A\": {LABEL}"),
            "spec.volumes[1].secret: Forbidden: may not specify more than 1 volume type",
            "spec.volumes[2].configMap.name: Required value",
            "spec.volumes[3].hostPath.path: Invalid value: \"/x/..\": must not contain '..'",
            "spec.volumes[3].hostPath.type: Unsupported value: \"Dir\": supported values: \"\", \"BlockDevice\", \
             \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            "spec.volumes[4].secret.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both \
             inclusive",
            "spec.volumes[4].secret.items[0].key: Required value",
            "spec.volumes[4].secret.items[0].path: Invalid value: \"/abs\": must be a relative path",
            "spec.volumes[4].secret.items[1].path: Invalid value: \"..x\": must not start with '..'",
            "spec.volumes[6].name: Duplicate value: \"f\"",
            "spec.volumes[7].persistentVolumeClaim.claimName: Required value",
        ],
    );
    check(
        pod(json!({"volumes": [{"name": "p", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t", "expirationSeconds": 5}, "secret": {"name": "s", "items": [{"key": "a", "path": "x"}]}},
            {"downwardAPI": {"items": [{"path": "x"}]}}]}}]})),
        &[
            "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a \
             duration less than 10 minutes",
            "spec.volumes[0].projected.sources[0]: Forbidden: may not specify more than 1 volume type per source",
            "spec.volumes[0].projected.sources[1].downwardAPI: Required value: one of fieldRef and resourceFieldRef is \
             required",
            "spec.volumes[0].projected: Invalid value: \"x\": conflicting duplicate paths",
        ],
    );
}

#[test]
fn probes_and_handlers() {
    check(
        container(json!({
            "livenessProbe": {"successThreshold": 2, "periodSeconds": -1},
            "readinessProbe": {"exec": {}, "httpGet": {"port": 80}, "terminationGracePeriodSeconds": 5},
            "startupProbe": {"httpGet": {"port": "NO", "scheme": "ftp", "httpHeaders": [{"name": "a b", "value": ""}]}},
            "lifecycle": {"postStart": {}, "preStop": {"sleep": {"seconds": 31}}}
        })),
        &[
            "spec.containers[0].lifecycle.postStart: Required value: must specify a handler type",
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than \
             terminationGracePeriodSeconds (30)",
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            "spec.containers[0].readinessProbe.httpGet: Forbidden: may not specify more than 1 handler type",
            "spec.containers[0].readinessProbe.exec.command: Required value",
            "spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 5: must not be set for \
             readinessProbes",
            "spec.containers[0].startupProbe.httpGet.port: Invalid value: \"NO\": must contain only alpha-numeric characters \
             (a-z, 0-9), and hyphens (-)",
            "spec.containers[0].startupProbe.httpGet.port: Invalid value: \"NO\": must contain at least one letter (a-z)",
            "spec.containers[0].startupProbe.httpGet.scheme: Unsupported value: \"ftp\": supported values: \"HTTP\", \
             \"HTTPS\"",
            "spec.containers[0].startupProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist of \
             alphanumeric characters or '-'",
        ],
    );
}

#[test]
fn resources() {
    check(
        container(
            json!({"resources": {"limits": {"cpu": "1", "storage": "1"}, "requests": {"cpu": "2", "memory": "-1", "a.io/gpu": "500m"}}}),
        ),
        &[
            "spec.containers[0].resources.limits[storage]: Invalid value: \"storage\": must be a standard resource for \
             containers",
            "spec.containers[0].resources.requests[a.io/gpu]: Invalid value: \"500m\": must be an integer",
            "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            "spec.containers[0].resources.requests[storage]: Invalid value: \"storage\": must be a standard resource for \
             containers",
        ],
    );
}

#[test]
fn the_pod_as_a_whole() {
    check(
        pod(json!({"restartPolicy": "Sometimes", "dnsPolicy": "None", "hostname": "A", "activeDeadlineSeconds": 0,
            "hostAliases": [{"ip": "x", "hostnames": []}], "preemptionPolicy": "Always",
            "securityContext": {"runAsUser": -1, "sysctls": [{"name": "foo-", "value": ""}, {"name": "kernel.shm", "value": ""}, {"name": "bar..", "value": ""}]},
            "nodeSelector": {"a": "b c"}})),
        &[
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
            "spec.nodeSelector: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric \
             characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
            "spec.securityContext.sysctls[0].name: Invalid value: \"foo-\": must have at most 253 characters and match regex \
             ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            "spec.securityContext.sysctls[2].name: Invalid value: \"bar..\": must have at most 253 characters and match regex \
             ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
            &format!("spec.hostname: Invalid value: \"A\": {LABEL}"),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
            "spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
                .split(" (e.g.")
                .next()
                .unwrap(),
            "spec.preemptionPolicy: Unsupported value: \"Always\": supported values: \"PreemptLowerPriority\", \"Never\"",
        ],
    );
}

#[test]
fn scheduling() {
    check(
        pod(json!({
            "tolerations": [{"key": "a", "operator": "Exists", "value": "x"}, {"operator": "Equal"}, {"key": "a", "tolerationSeconds": 1, "effect": "No"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}},
                         "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "podAffinityTerm": {"topologyKey": "z"}}]}},
            "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "Never", "minDomains": 1}],
            "schedulingGates": [{"name": "a"}, {"name": "a"}]
        })),
        &[
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must \
             have at least one node selector term",
            "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be \
             in the range 1-100",
            "spec.tolerations[0].operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'",
            "spec.tolerations[1].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \
             \"match all values and all keys\"",
            "spec.tolerations[2].effect: Invalid value: \"No\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            "spec.tolerations[2].effect: Unsupported value: \"No\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \
             \"NoExecute\"",
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
            "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
            "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Never\": supported values: \
             \"DoNotSchedule\", \"ScheduleAnyway\"",
            "spec.topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if \
             whenUnsatisfiable=DoNotSchedule, not Never",
            "spec.schedulingGates[1]: Duplicate value: \"a\"",
        ],
    );
}

#[test]
fn defaults_of_the_parts() {
    let spec = spec(json!({
        "serviceAccount": "old", "hostNetwork": true,
        "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}],
            "livenessProbe": {"httpGet": {"port": 80}}, "readinessProbe": {"grpc": {"port": 1}, "periodSeconds": 1},
            "env": [{"name": "a", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
        "volumes": [{"name": "a"}, {"name": "b", "hostPath": {"path": "/"}}, {"name": "c", "secret": {"secretName": "s"}},
                    {"name": "d", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]
    }));
    let value = serde_json::to_value(&spec).unwrap();
    assert_eq!((&value["serviceAccountName"], &value["serviceAccount"]), (&json!("old"), &json!("old")));
    let container = &value["containers"][0];
    assert_eq!(container["ports"], json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]));
    assert_eq!(
        container["livenessProbe"],
        json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
               "successThreshold": 1, "failureThreshold": 3})
    );
    assert_eq!(
        container["readinessProbe"],
        json!({"grpc": {"port": 1, "service": ""}, "timeoutSeconds": 1, "periodSeconds": 1, "successThreshold": 1,
               "failureThreshold": 3})
    );
    assert_eq!(
        container["env"][0]["valueFrom"]["fieldRef"],
        json!({"apiVersion": "v1", "fieldPath": "metadata.name"})
    );
    assert_eq!(
        value["volumes"],
        json!([
            {"name": "a", "emptyDir": {}},
            {"name": "b", "hostPath": {"path": "/", "type": ""}},
            {"name": "c", "secret": {"secretName": "s", "defaultMode": 420}},
            {"name": "d", "projected": {"defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}}
        ])
    );
    let mut again = spec.clone();
    default_spec(&mut again);
    default_pod(&mut again);
    assert_eq!(again, spec, "idempotent");
}
