use super::*;
use crate::{
    downward::Addresses,
    objects::{Kind, Objects},
    runtime::MountSource,
    testing::{at, pod},
};
use k8s_openapi::api::core::v1::Container;
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt};

fn objects() -> Objects {
    let mut objects = Objects::default();
    let data = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), v.as_bytes().to_vec())).collect())
    };
    objects.insert(Kind::ConfigMap, "cm", data(&[("a", "1"), ("b", "2")]));
    objects.insert(Kind::Secret, "s", data(&[("key", "hidden")]));
    objects.insert(Kind::Secret, "gone", None);
    objects
}

fn plans(volume: Value) -> Result<Vec<Plan>, String> {
    let mut volume = volume;
    volume["name"] = json!("v");
    let pod = pod(json!({"containers": [{"name": "c"}], "volumes": [volume]}));
    let claim = json!({"metadata": {"name": "claim", "uid": "cu"}, "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
    let volume =
        json!({"metadata": {"name": "pv"}, "spec": {"hostPath": {"path": "/pv"}, "claimRef": {"uid": "cu"}}});
    let bound = (serde_json::from_value(claim).unwrap(), Some(serde_json::from_value(volume).unwrap()));
    let open = (
        serde_json::from_value(json!({"metadata": {"name": "open"}, "status": {"phase": "Pending"}}))
            .unwrap(),
        None,
    );
    resolve(&Sources {
        pod: &pod,
        objects: &objects(),
        claims: &Claims::from([("claim".to_owned(), bound), ("open".to_owned(), open)]),
        tokens: &Tokens::from([(("v".to_owned(), "token".to_owned()), "jwt".to_owned())]),
        addresses: &Addresses { pod_ip: Some("10.1.1.9".into()), host_ip: None },
        allocatable: &Default::default(),
    })
}

fn files(volume: Value) -> Vec<(String, String, u32)> {
    match plans(volume).unwrap().remove(0).kind {
        PlanKind::Files { files, .. } => {
            files.into_iter().map(|(path, f)| (path, String::from_utf8(f.content).unwrap(), f.mode)).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn files_of_every_kind() {
    let file = |path: &str, text: &str, mode: u32| (path.to_owned(), text.to_owned(), mode);
    assert_eq!(files(json!({"configMap": {"name": "cm"}})), [file("a", "1", 0o644), file("b", "2", 0o644)]);
    let items = json!([{"key": "b", "path": "x/y", "mode": 0o400}]);
    assert_eq!(files(json!({"configMap": {"name": "cm", "items": items}})), [file("x/y", "2", 0o400)]);
    assert_eq!(
        files(json!({"secret": {"secretName": "s", "defaultMode": 0o600}})),
        [file("key", "hidden", 0o600)]
    );
    assert_eq!(files(json!({"secret": {"secretName": "gone", "optional": true}})), []);
    let labels = json!([{"path": "ip", "fieldRef": {"fieldPath": "status.podIP"}}]);
    assert_eq!(files(json!({"downwardAPI": {"items": labels}})), [file("ip", "10.1.1.9", 0o644)]);
    let all = json!({"projected": {"sources": [{"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca"}]}},
        {"secret": {"name": "s"}}, {"serviceAccountToken": {"path": "token"}}]}});
    assert_eq!(
        files(all),
        [file("ca", "1", 0o644), file("key", "hidden", 0o644), file("token", "jwt", 0o644)]
    );
}

#[test]
fn what_cannot_be_mounted_is_said() {
    let check = |volume: Value, expected: &str| {
        let error = plans(volume).unwrap_err();
        assert_eq!(error, format!("MountVolume.SetUp failed for volume \"v\" : {expected}"));
    };
    check(json!({"secret": {"secretName": "gone"}}), "secret \"gone\" not found");
    check(
        json!({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}),
        "references non-existent configmap key: z",
    );
    check(
        json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "../z"}]}}),
        "path \"../z\" must be relative and must not contain '..'",
    );
    check(
        json!({"persistentVolumeClaim": {"claimName": "open"}}),
        "PersistentVolumeClaim \"open\" is not bound",
    );
    check(
        json!({"persistentVolumeClaim": {"claimName": "none"}}),
        "persistentvolumeclaim \"none\" not found",
    );
    check(json!({"nfs": {"server": "s", "path": "/"}}), "this type of volume is not supported by minik8s");
}

#[test]
fn a_claim_is_its_volumes_path() {
    let kind = plans(json!({"persistentVolumeClaim": {"claimName": "claim", "readOnly": true}}))
        .unwrap()
        .remove(0)
        .kind;
    assert_eq!(kind, PlanKind::Host { path: "/pv".into(), type_: HostType::Any, read_only: true });
}

#[test]
fn files_change_all_at_once_and_only_when_they_differ() {
    let dir = tempfile::tempdir().unwrap();
    let set = |pairs: &[(&str, &str)], second: i64| {
        let files = pairs.iter().map(|(path, text)| {
            ((*path).to_owned(), File { content: text.as_bytes().to_vec(), mode: 0o640, owner: None })
        });
        let kind = PlanKind::Files { plugin: "p", files: files.collect() };
        let plan = Plan { name: "v".to_owned(), kind, group: None };
        materialize(dir.path(), &[plan], at(second)).unwrap()
    };
    let volumes = set(&[("a", "1"), ("d/e", "2")], 0);
    let Ready::Path { path, read_only: true } = &volumes["v"] else { panic!("{volumes:?}") };
    let read = |name: &str| fs::read_to_string(path.join(name)).ok();
    assert_eq!((read("a"), read("d/e")), (Some("1".into()), Some("2".into())));
    assert_eq!(fs::metadata(path.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
    assert_eq!(fs::read_link(path.join("a")).unwrap().to_str(), Some("..data/a"));
    let first = fs::read_link(path.join("..data")).unwrap();
    set(&[("a", "1"), ("d/e", "2")], 1);
    assert_eq!(fs::read_link(path.join("..data")).unwrap(), first, "nothing was written");
    set(&[("a", "9"), ("f", "")], 2);
    assert_eq!((read("a"), read("d/e"), read("f")), (Some("9".into()), None, Some(String::new())));
    assert_eq!(fs::read_dir(path).unwrap().count(), 4, "a, f, ..data and one dated directory");
    tear_down(dir.path()).unwrap();
    assert!(!dir.path().exists());
}

#[test]
fn empty_dirs_are_open_to_all_and_left_alone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let plan = [Plan { name: "v".to_owned(), kind: PlanKind::EmptyDir, group: None }];
    let volumes = materialize(dir.path(), &plan, at(0)).unwrap();
    let Ready::Path { path, .. } = &volumes["v"] else { panic!() };
    let mode = || fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o777);
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    materialize(dir.path(), &plan, at(1)).unwrap();
    assert_eq!(mode(), 0o700);
}

#[test]
fn host_paths_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let check = |name: &str, type_: HostType, good: bool| {
        let kind = PlanKind::Host { path: dir.path().join(name), type_, read_only: false };
        let plan = Plan { name: "v".to_owned(), kind, group: None };
        assert_eq!(materialize(dir.path(), &[plan], at(0)).is_ok(), good, "{name} {type_:?}");
    };
    check("file", HostType::File, true);
    check("file", HostType::Directory, false);
    check("file", HostType::Any, true);
    check("none", HostType::Directory, false);
    check("none", HostType::File, false);
    check("made", HostType::DirectoryOrCreate, true);
    check("made", HostType::Directory, true);
    check("made2", HostType::FileOrCreate, true);
    check("made2", HostType::Socket, false);
}

#[test]
fn sub_paths_stay_inside_their_volume() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("vol");
    fs::create_dir_all(root.join("sub")).unwrap();
    std::os::unix::fs::symlink("/etc", root.join("out")).unwrap();
    let volumes = Volumes::from([("v".to_owned(), Ready::Path { path: root.clone(), read_only: false })]);
    let env = [("POD".to_owned(), "p0".to_owned()), ("EMPTY".to_owned(), String::new())];
    let mount = |mount: Value| {
        let mut mount = mount;
        mount["name"] = json!("v");
        mount["mountPath"] = json!("/m");
        let container: Container =
            serde_json::from_value(json!({"name": "c", "volumeMounts": [mount]})).unwrap();
        mounts(&container, &volumes, &env).map(|mut mounts| match mounts.remove(0).source {
            MountSource::Path(path) => {
                path.strip_prefix(root.canonicalize().unwrap()).map(PathBuf::from).unwrap_or(path)
            }
            MountSource::Tmpfs { .. } => panic!(),
        })
    };
    assert_eq!(mount(json!({})).unwrap(), PathBuf::from(""));
    assert_eq!(mount(json!({"subPath": "sub"})).unwrap(), PathBuf::from("sub"));
    assert_eq!(mount(json!({"subPath": "new/deep"})).unwrap(), PathBuf::from("new/deep"));
    assert_eq!(mount(json!({"subPathExpr": "$(POD)/x"})).unwrap(), PathBuf::from("p0/x"));
    for bad in [
        json!({"subPath": "../x"}),
        json!({"subPath": "/x"}),
        json!({"subPath": "out"}),
        json!({"subPath": "out/new"}),
        json!({"subPathExpr": "$(NONE)"}),
        json!({"subPathExpr": "$(EMPTY)"}),
    ] {
        let error = mount(bad.clone()).unwrap_err();
        assert_eq!(error.waiting_reason(), "CreateContainerConfigError", "{bad}");
    }
    assert!(!PathBuf::from("/etc/new").exists());
}
