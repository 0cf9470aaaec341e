//! Who may do what, as people meet it: by kubectl, with ServiceAccounts' tokens and with `--as`.

use std::time::Duration;
use tests::{
    cluster::{Options, TestCluster},
    kubectl::Output,
    wait::{ensure, wait_for},
};

/// Roles take effect at once, but the machine may be busy.
const SOON: Duration = Duration::from_secs(30);

fn can(c: &TestCluster, who: &[&str], question: &[&str]) -> String {
    let args = [&["auth", "can-i"], question, who].concat();
    // `no` is exit code 1.
    c.try_kubectl(&args).stdout.trim().to_owned()
}

#[track_caller]
fn comes_to(c: &TestCluster, who: &[&str], question: &[&str], answer: &str) {
    wait_for(&format!("{question:?} by {who:?}: {answer}"), SOON, || {
        let seen = can(c, who, question);
        ensure(seen == answer, seen)
    });
}

/// kubectl with nothing but a token.
fn with_token(c: &TestCluster, token: &str, args: &[&str]) -> Output {
    let server = c.kubectl(&["config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"]);
    let empty = c.file("empty.kubeconfig", "{apiVersion: v1, kind: Config}");
    let login = ["--kubeconfig", &empty, "--server", &server, "--insecure-skip-tls-verify", "--token", token];
    c.try_kubectl(&[&login, args].concat())
}

#[test]
fn a_service_account_may_what_it_was_given() {
    let c = TestCluster::with(Options::without_pods());
    c.kubectl(&["create", "serviceaccount", "bot"]);
    c.kubectl(&["create", "role", "reader", "--verb=get,list,watch", "--resource=pods,pods/log"]);
    c.kubectl(&["create", "rolebinding", "bot-reads", "--role=reader", "--serviceaccount=default:bot"]);
    let bot = ["--as=system:serviceaccount:default:bot"];
    comes_to(&c, &bot, &["list", "pods"], "yes");
    for (question, answer) in [
        (&["get", "pods", "--subresource=log"][..], "yes"),
        (&["list", "secrets"], "no"),
        (&["create", "pods"], "no"),
        (&["list", "pods", "-n", "kube-system"], "no"),
        (&["list", "pods", "-A"], "no"),
        (&["get", "/version"], "yes"),
        (&["get", "/metrics"], "no"),
    ] {
        assert_eq!(can(&c, &bot, question), answer, "{question:?}");
    }
    let token = c.kubectl(&["create", "token", "bot"]);
    let token = token.trim();
    with_token(&c, token, &["get", "pods"]).ok();
    let refused = with_token(&c, token, &["get", "secrets"]).fails();
    assert!(
        refused.contains(
            "Error from server (Forbidden): secrets is forbidden: User \"system:serviceaccount:default:bot\" cannot \
             list resource \"secrets\" in API group \"\" in the namespace \"default\""
        ),
        "{refused}"
    );
    let table = c.kubectl(&["get", "rolebinding", "bot-reads", "-o", "wide"]);
    assert!(table.contains("Role/reader") && table.contains("default/bot"), "{table}");
    c.kubectl(&["delete", "rolebinding", "bot-reads"]);
    comes_to(&c, &bot, &["list", "pods"], "no");
}

#[test]
fn the_roles_every_cluster_has() {
    let mut c = TestCluster::with(Options::without_pods());
    // `admin` is `edit`, which is `view`, and more: the controller puts them together.
    c.kubectl(&["create", "rolebinding", "jane", "--clusterrole=admin", "--user=jane"]);
    c.kubectl(&["create", "clusterrolebinding", "all-view", "--clusterrole=view", "--group=readers"]);
    let (jane, reader) = (["--as=jane"], ["--as=joe", "--as-group=readers"]);
    comes_to(&c, &jane, &["create", "statefulsets.apps"], "yes");
    comes_to(&c, &jane, &["create", "roles.rbac.authorization.k8s.io"], "yes");
    comes_to(&c, &reader, &["list", "services", "-A"], "yes");
    for (who, question, answer) in [
        (&jane[..], &["delete", "nodes"][..], "no"),
        (&jane, &["list", "pods", "-n", "kube-system"], "no"),
        (&reader, &["get", "secrets"], "no"),
        (&reader, &["delete", "pods"], "no"),
        (&[], &["*", "*", "-A"], "yes"),
    ] {
        assert_eq!(can(&c, who, question), answer, "{who:?} {question:?}");
    }
    let list = c.kubectl(&["auth", "can-i", "--list", "--as=jane"]);
    assert!(list.contains("statefulsets.apps") && list.contains("selfsubjectreviews"), "{list}");
    let nobody = ["--as=system:anonymous", "--as-group=system:unauthenticated"];
    let ask = |path: &str| c.try_kubectl(&[&["get", "--raw", path][..], &nobody].concat());
    assert_eq!(ask("/livez").ok(), "ok");
    assert!(ask("/api").fails().contains("cannot get path \"/api\""), "anonymous");

    // Whoever may not do a thing may not grant it either.
    let asked = ["create", "role", "grab", "--verb=get", "--resource=nodes", "--as=jane"];
    let refused = c.try_kubectl(&asked).fails();
    assert!(
        refused.contains(
            "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], \
             Verbs:[\"get\"]}"
        ),
        "{refused}"
    );
    let root = ["create", "rolebinding", "root", "--clusterrole=cluster-admin", "--user=jane", "--as=jane"];
    assert!(c.try_kubectl(&root).fails().contains("permissions not currently held"), "bound");
    c.kubectl(&["create", "rolebinding", "joe", "--clusterrole=edit", "--user=joe", "--as=jane"]);
    let changed = r#"{"roleRef": {"name": "view"}}"#;
    let refused = c.try_kubectl(&["patch", "rolebinding", "joe", "--type=merge", "-p", changed]).fails();
    assert!(refused.contains("cannot change roleRef"), "{refused}");
    let nobody = c.try_kubectl(&["get", "pods", "--as=jane", "-n", "kube-system"]).fails();
    assert!(nobody.contains("User \"jane\" cannot list resource \"pods\""), "{nobody}");

    // A start puts right what was taken away, and keeps what was given.
    c.kubectl(&["delete", "clusterrolebinding", "system:discovery"]);
    comes_to(&c, &jane, &["get", "/api"], "no");
    c.stop();
    c.launch();
    comes_to(&c, &jane, &["get", "/api"], "yes");
    comes_to(&c, &jane, &["create", "statefulsets.apps"], "yes");
}
