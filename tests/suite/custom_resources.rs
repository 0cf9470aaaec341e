//! Custom resources as people use them: the CronTab of Kubernetes' documentation, by kubectl.

use std::time::Duration;
use tests::{
    cluster::{Options, TestCluster},
    wait::{ensure, wait_for},
};

/// For what happens at once; long, because the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: crontabs.stable.example.com}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, shortNames: [ct], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            description: What the table says.
            type: object
            required: [cronSpec]
            x-kubernetes-validations:
            - {rule: "self.replicas <= 5 || self.image != 'big'", message: "big ones are few", fieldPath: .replicas}
            properties:
              cronSpec: {type: string, pattern: '^(\d+|\*)(/\d+)?(\s+(\d+|\*)(/\d+)?){4}$', description: When it runs.}
              image: {type: string, default: busybox}
              replicas: {type: integer, minimum: 1, maximum: 10, default: 1}
          status:
            type: object
            properties:
              replicas: {type: integer}
              labelSelector: {type: string}
    subresources:
      status: {}
      scale:
        specReplicasPath: .spec.replicas
        statusReplicasPath: .status.replicas
        labelSelectorPath: .status.labelSelector
    additionalPrinterColumns:
    - {name: Spec, type: string, description: The cron spec, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    selectableFields: [{jsonPath: .spec.image}]
"#;

fn tab(name: &str, spec: &str) -> String {
    format!("{{apiVersion: stable.example.com/v1, kind: CronTab, metadata: {{name: {name}}}, spec: {spec}}}")
}

fn define(c: &TestCluster) {
    c.apply(DEFINITION);
    let name = "crd/crontabs.stable.example.com";
    c.kubectl(&["wait", "--for=condition=Established", "--timeout=30s", name]);
}

/// `kubectl apply` of a manifest that must be refused; what it said.
#[track_caller]
fn refused(c: &TestCluster, manifest: &str) -> String {
    let file = c.file("refused.yaml", manifest);
    c.try_kubectl(&["apply", "-f", &file]).fails()
}

#[test]
fn people_define_a_kind_and_use_it_as_any() {
    let mut c = TestCluster::with(Options::without_pods());
    define(&c);
    let names = c.kubectl(&["api-resources", "--api-group=stable.example.com"]);
    let row: Vec<&str> = names.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(row, ["crontabs", "ct", "stable.example.com/v1", "true", "CronTab"], "{names}");
    let explained = c.kubectl(&["explain", "crontab.spec"]);
    assert!(explained.contains("What the table says.") && explained.contains("cronSpec"), "{explained}");

    c.apply(&tab("mine", "{cronSpec: '* * * * */5'}"));
    let table = c.kubectl(&["get", "ct"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "SPEC", "REPLICAS", "AGE"]);
    assert_eq!(rows[1][..7], ["mine", "*", "*", "*", "*", "*/5", "1"], "{table}");
    assert!(c.kubectl(&["get", "all"]).contains("crontab.stable.example.com/mine"));
    assert_eq!(c.field("crontab/mine", ".spec.image"), "busybox");

    let wrong = refused(&c, &tab("bad", "{cronSpec: never, replicas: 15}"));
    assert!(wrong.contains("The CronTab \"bad\" is invalid"), "{wrong}");
    assert!(wrong.contains(
        "spec.replicas: Invalid value: 15: spec.replicas in body should be less than or equal to 10"
    ));
    let unknown = refused(&c, &tab("bad", "{cronSpec: '* * * * *', colour: red}"));
    assert!(unknown.contains("unknown field \"spec.colour\""), "{unknown}");
    let ruled = refused(&c, &tab("bad", "{cronSpec: '* * * * *', image: big, replicas: 6}"));
    assert!(ruled.contains("spec.replicas: Invalid value: big ones are few"), "{ruled}");

    c.kubectl(&["scale", "crontab/mine", "--replicas=3"]);
    assert_eq!(c.field("crontab/mine", ".spec.replicas"), "3");
    c.kubectl(&["patch", "ct", "mine", "--type=merge", "-p", r#"{"spec":{"image":"other"}}"#]);
    let by_image = ["get", "ct", "--field-selector=spec.image=other", "-o", "name"];
    assert_eq!(c.kubectl(&by_image).trim(), "crontab.stable.example.com/mine");
    let status = r#"{"status":{"replicas":2},"spec":{"replicas":9}}"#;
    c.kubectl(&["patch", "ct", "mine", "--subresource=status", "--type=merge", "-p", status]);
    assert_eq!(
        c.field("crontab/mine", ".spec.replicas"),
        "3",
        "the status is all that this endpoint changes"
    );
    assert_eq!(c.field("crontab/mine", ".status.replicas"), "2");

    let file = c.file("ours.yaml", &tab("mine", "{cronSpec: '* * * * */5', image: applied}"));
    let ours = ["apply", "--server-side", "--field-manager=us", "-f", &file];
    let conflict = c.try_kubectl(&ours).fails();
    assert!(
        conflict.contains("Apply failed with 1 conflict") && conflict.contains(".spec.image"),
        "{conflict}"
    );
    c.kubectl(&[&ours[..], &["--force-conflicts"]].concat());
    assert_eq!(c.field("crontab/mine", ".spec.image"), "applied");

    // All of it is there after a restart.
    c.kill();
    c.launch();
    assert_eq!(c.field("crontab/mine", ".spec.image"), "applied");
    c.kubectl(&["delete", "crd", "crontabs.stable.example.com", "--timeout=30s"]);
    let gone = c.try_kubectl(&["get", "crontabs"]).fails();
    // With its discovery in the cache kubectl asks, without it does not: either way it is told.
    assert!(
        gone.contains("the server doesn't have a resource type") || gone.contains("could not find"),
        "{gone}"
    );
    // Defined again it has no objects.
    define(&c);
    assert_eq!(c.kubectl(&["get", "crontabs", "-o", "name"]), "");
}

#[test]
fn owners_namespaces_and_roles_reach_custom_objects() {
    let c = TestCluster::with(Options::without_pods());
    define(&c);
    c.apply(&tab("owner", "{cronSpec: '* * * * *'}"));
    let uid = c.field("crontab/owner", ".metadata.uid");
    let owned = |kind: &str, name: &str| {
        format!(
            "{{{kind}, metadata: {{name: {name}, ownerReferences: [{{apiVersion: stable.example.com/v1, kind: CronTab, \
             name: owner, uid: {uid}}}]}}"
        )
    };
    c.apply(&format!("{}}}", owned("apiVersion: v1, kind: ConfigMap", "of-it")));
    let custom = owned("apiVersion: stable.example.com/v1, kind: CronTab", "also-of-it");
    c.apply(&format!("{custom}, spec: {{cronSpec: '* * * * *'}}}}"));
    c.kubectl(&["delete", "ct", "owner"]);
    for object in ["configmap/of-it", "crontab/also-of-it"] {
        wait_for(&format!("{object} goes with its owner"), SOON, || {
            let seen = c.kubectl(&["get", object, "--ignore-not-found", "-o", "name"]);
            ensure(seen.is_empty(), format!("{seen}\n{}", c.log()))
        });
    }
    c.kubectl(&["create", "namespace", "other"]);
    let file = c.file("there.yaml", &tab("there", "{cronSpec: '* * * * *'}"));
    c.kubectl(&["apply", "-n", "other", "-f", &file]);
    c.kubectl(&["delete", "namespace", "other", "--timeout=60s"]);
    assert_eq!(c.kubectl(&["get", "ct", "-A", "-o", "name"]), "");

    c.apply(
        "{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: tabs, labels: \
         {rbac.authorization.k8s.io/aggregate-to-edit: \"true\"}}, rules: [{apiGroups: [stable.example.com], resources: \
         [crontabs], verbs: [create, get]}]}",
    );
    c.kubectl(&["create", "rolebinding", "ann-edits", "--clusterrole=edit", "--user=ann"]);
    wait_for("ann may make tabs by the role edit", SOON, || {
        let seen = c.try_kubectl(&["auth", "can-i", "create", "crontabs.stable.example.com", "--as=ann"]);
        ensure(seen.stdout.trim() == "yes", seen.to_string())
    });
}
