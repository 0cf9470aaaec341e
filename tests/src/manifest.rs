//! Manifests that many tests begin with.

/// A pod of one busybox container, `main`, that runs this line of shell and goes at once when told to.
pub fn busybox(name: &str, script: &str) -> String {
    // A string of JSON is one of YAML.
    let script = serde_json::Value::from(script);
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: minik8s-test/busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, {script}]
"
    )
}
