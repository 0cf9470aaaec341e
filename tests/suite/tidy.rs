//! Rules of the repository that the compiler does not keep.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Package → what of ours it may import. ARCHITECTURE.md has the drawing.
const MAY_IMPORT: [(&str, &str, &[&str]); 8] = [
    ("storage", "storage", &[]),
    ("apiserver/api", "api", &[]),
    ("apiserver/client", "client", &["api"]),
    ("apiserver", "apiserver", &["storage", "api"]),
    ("controllers", "controllers", &["api", "client"]),
    ("kubelet", "kubelet", &["api", "client"]),
    ("dns", "dns", &["api", "client"]),
    ("cli", "cli", &["storage", "api", "client", "apiserver", "controllers", "kubelet", "dns"]),
];

#[test]
fn packages_import_only_what_the_drawing_shows() {
    let ours: Vec<&str> = MAY_IMPORT.iter().map(|(_, name, _)| *name).collect();
    for (dir, name, allowed) in MAY_IMPORT {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
        for line in dependencies.lines() {
            let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
            assert!(
                !ours.contains(&dependency) || allowed.contains(&dependency),
                "{name} may not import {dependency}"
            );
        }
    }
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut todo: Vec<PathBuf> = MAY_IMPORT.iter().map(|(dir, ..)| root().join(dir).join("src")).collect();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !is_test(&path) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

/// Files that hold nothing but tests and what they need.
fn is_test(path: &Path) -> bool {
    matches!(path.file_stem().and_then(|s| s.to_str()), Some("tests" | "testing" | "fake"))
        || path.components().any(|c| matches!(c.as_os_str().to_str(), Some("tests" | "testing")))
}

/// The part of a file before its tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or_default()
}

#[test]
fn every_module_says_what_it_is_for() {
    let silent: Vec<_> =
        sources().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(p, _)| p).collect();
    assert!(silent.is_empty(), "without a module comment: {silent:#?}");
}

#[test]
fn tasks_have_owners() {
    let bare: BTreeMap<_, _> = sources()
        .into_iter()
        .filter_map(|(path, text)| {
            let line = code(&text)
                .lines()
                .position(|l| l.contains("tokio::spawn(") && !l.trim_start().starts_with("//"))?;
            Some((path, line + 1))
        })
        .collect();
    assert!(bare.is_empty(), "tasks without an owner (use a TaskTracker): {bare:#?}");
}

#[test]
fn only_the_composition_root_reads_the_environment() {
    // Only tests are built with the fuzzers' driver: how long it runs is said to them.
    let may =
        |path: &Path| path.starts_with(root().join("cli")) || path.ends_with("apiserver/api/src/fuzz.rs");
    let readers: Vec<_> = sources()
        .into_iter()
        .filter(|(path, text)| !may(path) && code(text).contains("std::env::var"))
        .map(|(p, _)| p)
        .collect();
    assert!(readers.is_empty(), "read the environment outside cli: {readers:#?}");
}

/// Of a test that does not run nobody knows whether it would pass.
#[test]
fn no_test_is_ignored() {
    // Written apart, so that this file has it not.
    let ignore = format!("#[{}", "ignore");
    let mut todo: Vec<PathBuf> = MAY_IMPORT.iter().map(|(dir, ..)| root().join(dir)).collect();
    todo.push(root().join("tests"));
    let mut found = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let ignored = text.lines().filter(|l| l.contains(&ignore) && !l.contains("prints figures"));
                found.extend(ignored.map(|line| format!("{}: {line}", path.display())));
            }
        }
    }
    found.sort();
    found.dedup();
    assert!(found.is_empty(), "{found:#?}");
}

/// The names of rules that tests can take away are asked for where the rules are kept.
#[test]
fn every_guard_guards_something() {
    let sources = sources();
    for guard in client::Guard::ALL {
        let asked = format!("Guard::{guard:?}.holds()");
        assert!(sources.iter().any(|(_, text)| text.contains(&asked)), "nobody asks {asked}");
    }
}
