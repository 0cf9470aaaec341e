//! Tests that change the kernel's tables run in a network namespace of their own: the test starts itself again
//! under `unshare`.

use std::process::Command;

const MARK: &str = "MINIK8S_TEST_NAMESPACE";

/// Whether to go on. Outside it runs the named test in a new namespace, and says no. Skips, and says so, where
/// that is not possible.
pub(crate) fn inside(test: &str) -> bool {
    run(test, &[])
}

/// The same for a test that is usually ignored.
pub(crate) fn inside_ignored(test: &str) -> bool {
    run(test, &["--ignored"])
}

fn run(test: &str, arguments: &[&str]) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let possible = |program: &str, args: &[&str]| {
        Command::new(program).args(args).output().is_ok_and(|o| o.status.success())
    };
    if !possible("unshare", &["--net", "--mount", "nft", "list", "ruleset"]) || !possible("ip", &["-V"]) {
        eprintln!("skipped {test}: needs root, unshare, nft and ip");
        return false;
    }
    let exe = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(exe)
        .args(["--exact", test, "--nocapture"])
        .args(arguments)
        .env(MARK, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed in its namespace");
    false
}

/// Standard output of a command that must succeed.
#[track_caller]
pub(crate) fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Number of elements of a set or map of a table, as nft sees it.
pub(crate) fn set_size(table: &str, set: &str) -> usize {
    let json = output("nft", &["-j", "list", "table", "ip", table]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let objects = json["nftables"].as_array().unwrap();
    let found = objects.iter().find_map(|o| {
        let object = if o["map"].is_null() { &o["set"] } else { &o["map"] };
        (object["name"] == set).then(|| object["elem"].as_array().map_or(0, Vec::len))
    });
    found.unwrap_or_else(|| panic!("no set {set}"))
}
