//! Certificates: a user's own, asked for and signed as Kubernetes does it, and the server's, made anew in time.

use base64::{Engine, prelude::BASE64_STANDARD};
use std::{path::Path, process::Command};
use tests::{DEADLINE, TestCluster, Version, cluster::Options, kubectl};

fn openssl(args: &[&str]) -> String {
    let mut command = Command::new("openssl");
    command.args(args);
    kubectl::run(command, b"", DEADLINE).ok()
}

/// A key and a request for `subject`; where they are.
fn request(c: &TestCluster, name: &str, key: &[&str], subject: &str) -> (String, String) {
    let (key_file, csr_file) = (c.file(&format!("{name}.key"), ""), c.file(&format!("{name}.csr"), ""));
    openssl(&[&["genpkey", "-out", &key_file], key].concat());
    openssl(&["req", "-new", "-key", &key_file, "-subj", subject, "-out", &csr_file]);
    (key_file, csr_file)
}

fn ask(c: &TestCluster, name: &str, csr: &str, signer: &str, usages: &str) {
    let encoded = BASE64_STANDARD.encode(std::fs::read(csr).unwrap());
    c.apply(&format!(
        "{{apiVersion: certificates.k8s.io/v1, kind: CertificateSigningRequest, metadata: {{name: {name}}},
           spec: {{request: {encoded}, signerName: {signer}, expirationSeconds: 3600, usages: [{usages}]}}}}"
    ));
}

#[test]
fn a_user_gets_a_certificate_and_comes_in_with_it() {
    let c = TestCluster::with(Options::without_pods());
    let client = "kubernetes.io/kube-apiserver-client";
    for (name, key) in [
        ("ann", ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"].as_slice()),
        ("bob", ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"].as_slice()),
    ] {
        let (key, csr) = request(&c, name, key, &format!("/CN={name}/O=dev/O=ops"));
        ask(&c, name, &csr, client, "client auth, digital signature");
        assert!(c.kubectl(&["get", "csr", name]).contains("Pending"));
        c.kubectl(&["certificate", "approve", name]);
        let csr = format!("csr/{name}");
        let pem = c.wait_field(&csr, ".status.certificate", |pem| !pem.is_empty());
        assert!(c.kubectl(&["get", "csr", name]).contains("Approved,Issued"));
        let pem = String::from_utf8(BASE64_STANDARD.decode(pem).unwrap()).unwrap();
        let cert = c.file(&format!("{name}.crt"), &pem);
        let kubeconfig =
            c.file(&format!("{name}.kubeconfig"), &std::fs::read_to_string(c.kubeconfig()).unwrap());
        let as_user = |args: &[&str]| {
            let mut command = c.kubectl_command(Version::V1_33);
            command.env("KUBECONFIG", &kubeconfig).args(args);
            kubectl::run(command, b"", DEADLINE)
        };
        let (key, crt) = (format!("--client-key={key}"), format!("--client-certificate={cert}"));
        as_user(&["config", "set-credentials", name, &key, &crt, "--embed-certs"]).ok();
        as_user(&["config", "set-context", "--current", &format!("--user={name}")]).ok();
        let who = as_user(&["auth", "whoami", "-o", "json"]).ok();
        for part in [&format!("\"username\": \"{name}\""), "\"dev\"", "\"ops\"", "\"system:authenticated\""] {
            assert!(who.contains(part), "{part} is missing: {who}");
        }
        assert!(as_user(&["get", "pods"]).fails().contains("forbidden"));
    }
    c.kubectl(&["create", "rolebinding", "ops", "--clusterrole=view", "--group=ops"]);

    // What is not for its signer fails, for all to see.
    let (_, csr) = request(&c, "node", &["-algorithm", "ED25519"], "/CN=system:node:n1/O=system:nodes");
    ask(&c, "node", &csr, "kubernetes.io/kubelet-serving", "digital signature, server auth");
    c.kubectl(&["certificate", "approve", "node"]);
    let failed = ".status.conditions[?(@.type==\"Failed\")].message";
    let said = c.wait_field("csr/node", failed, |said| !said.is_empty());
    assert_eq!(said, "DNS or IP subjectAltName is required");
    // A signer that is not ours is left to whose it is.
    ask(&c, "other", &csr, "example.com/own", "digital signature");
    c.kubectl(&["certificate", "approve", "other"]);
    // What is denied stays so.
    ask(&c, "denied", &csr, client, "client auth");
    c.kubectl(&["certificate", "deny", "denied"]);
    let both = c.try_kubectl(&["certificate", "approve", "denied"]).fails();
    assert!(both.contains("already Denied"), "{both}");
    // The signer goes through requests in turn: with this one signed it has seen the others.
    let (_, csr) = request(&c, "last", &["-algorithm", "ED25519"], "/CN=last");
    ask(&c, "last", &csr, client, "client auth");
    c.kubectl(&["certificate", "approve", "last"]);
    c.wait_field("csr/last", ".status.certificate", |pem| !pem.is_empty());
    for unsigned in ["csr/other", "csr/denied"] {
        assert_eq!(c.field(unsigned, ".status.certificate"), "", "{unsigned}");
    }
}

/// The end of a certificate's life, as openssl tells it.
fn end(cert: &Path) -> String {
    openssl(&["x509", "-noout", "-enddate", "-in", &cert.display().to_string()])
}

#[test]
fn a_certificate_near_its_end_is_made_anew_at_the_start() {
    let mut c = TestCluster::with(Options::without_pods());
    let pki = c.data_dir().join("pki");
    let file = |name: &str| pki.join(name).display().to_string();
    let ca = std::fs::read(pki.join("ca.crt")).unwrap();
    let before = std::fs::read_to_string(c.kubeconfig()).unwrap();
    assert_eq!(c.stop(), Some(0));
    // The same administrator, for a day of which most is over: it began yesterday.
    let csr = c.file("admin.csr", "");
    openssl(&[
        "req",
        "-new",
        "-key",
        &file("admin.key"),
        "-subj",
        "/O=system:masters/CN=kubernetes-admin",
        "-out",
        &csr,
    ]);
    let (ca_crt, ca_key, admin) = (file("ca.crt"), file("ca.key"), file("admin.crt"));
    openssl(&[
        "x509",
        "-req",
        "-in",
        &csr,
        "-CA",
        &ca_crt,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "0",
        "-out",
        &admin,
    ]);
    let short = end(&pki.join("admin.crt"));
    c.launch();
    assert_ne!(end(&pki.join("admin.crt")), short);
    assert_ne!(std::fs::read_to_string(c.kubeconfig()).unwrap(), before);
    assert_eq!(std::fs::read(pki.join("ca.crt")).unwrap(), ca);
    assert!(c.kubectl(&["auth", "whoami"]).contains("kubernetes-admin"));
}
