//! `describe`: an object as an indented outline, with its events.

use super::{
    Selection,
    resource::{self, Target},
    session::{Session, escape},
};
use anyhow::Result;
use clap::Args;
use serde_json::Value;
use std::{
    fmt::Write as _,
    io::{Write as _, stdout},
};

#[derive(Debug, Args)]
pub(super) struct Describe {
    #[command(flatten)]
    selection: Selection,
}

/// Said elsewhere or of use to machines only.
const HIDDEN: [&str; 5] = ["managedFields", "resourceVersion", "selfLink", "generateName", "uid"];

/// Maps whose keys are people's own words, not fields.
const PEOPLES_KEYS: [&str; 6] = ["labels", "annotations", "selector", "matchLabels", "nodeSelector", "data"];

impl Describe {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let mut first = true;
        for target in resource::targets(session, &self.selection).await? {
            let mut path = target.path(self.selection.all_namespaces);
            if let (None, Some(selector)) = (&target.name, &self.selection.selector) {
                path.push_str(&format!("?labelSelector={}", escape(selector)));
            }
            let answer = session.get(&path).await?;
            let objects = match answer["items"].as_array() {
                Some(items) => items.clone(),
                None => vec![answer],
            };
            for object in objects {
                let mut text = if first { String::new() } else { "\n\n".to_owned() };
                first = false;
                text.push_str(&outline(&object));
                text.push_str(&events(session, &target, &object).await?);
                stdout().write_all(text.as_bytes())?;
            }
        }
        Ok(())
    }
}

fn outline(object: &Value) -> String {
    let mut text = String::new();
    let meta = &object["metadata"];
    for (label, key) in [("Name", "name"), ("Namespace", "namespace")] {
        if let Some(value) = meta[key].as_str() {
            let _ = writeln!(text, "{:<18}{value}", format!("{label}:"));
        }
    }
    for (label, key) in [("Labels", "labels"), ("Annotations", "annotations")] {
        let entries: Vec<String> = meta[key]
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(k, _)| *k != "kubectl.kubernetes.io/last-applied-configuration")
            .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
            .collect();
        let joined =
            if entries.is_empty() { "<none>".to_owned() } else { entries.join(&format!("\n{:18}", "")) };
        let _ = writeln!(text, "{:<18}{joined}", format!("{label}:"));
    }
    for (key, value) in object.as_object().into_iter().flatten() {
        match key.as_str() {
            "apiVersion" | "kind" => {}
            "metadata" => {
                let mut rest = value.clone();
                if let Some(map) = rest.as_object_mut() {
                    for said in ["name", "namespace", "labels", "annotations"].into_iter().chain(HIDDEN) {
                        map.remove(said);
                    }
                }
                node(&mut text, key, &rest, 0, false);
            }
            _ => node(&mut text, key, value, 0, false),
        }
    }
    text
}

/// One field, its children below it.
fn node(text: &mut String, key: &str, value: &Value, depth: usize, verbatim: bool) {
    if HIDDEN.contains(&key) {
        return;
    }
    let pad = "  ".repeat(depth);
    let title = if verbatim { key.to_owned() } else { title(key) };
    match value {
        Value::Null => {}
        Value::Object(map) if map.is_empty() => {}
        Value::Array(list) if list.is_empty() => {}
        Value::Object(map) => {
            let _ = writeln!(text, "{pad}{title}:");
            let verbatim = PEOPLES_KEYS.contains(&key);
            map.iter().for_each(|(k, v)| node(text, k, v, depth + 1, verbatim));
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            let _ = writeln!(text, "{pad}{title}:");
            for (i, item) in list.iter().enumerate() {
                let name = item["name"]
                    .as_str()
                    .or(item["type"].as_str())
                    .map_or_else(|| i.to_string(), str::to_owned);
                let _ = writeln!(text, "{pad}  {name}:");
                item.as_object().into_iter().flatten().for_each(|(k, v)| node(text, k, v, depth + 2, false));
            }
        }
        Value::Array(list) => {
            let words: Vec<String> = list.iter().map(scalar).collect();
            let _ = writeln!(text, "{pad}{title}: {}", words.join(" "));
        }
        other => {
            let lines = scalar(other).replace('\n', &format!("\n{pad}  "));
            let _ = writeln!(text, "{pad}{title}: {lines}");
        }
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// `restartPolicy` → `Restart Policy`; map keys such as labels stay as they are.
fn title(key: &str) -> String {
    if key.contains(['/', '.', '-', '_']) {
        return key.to_owned();
    }
    let mut words = String::new();
    for (i, letter) in key.char_indices() {
        match letter {
            _ if i == 0 => words.extend(letter.to_uppercase()),
            c if c.is_uppercase() && key[..i].ends_with(char::is_lowercase) => {
                words.push(' ');
                words.push(c);
            }
            c => words.push(c),
        }
    }
    words
}

async fn events(session: &Session, target: &Target, object: &Value) -> Result<String> {
    let meta = &object["metadata"];
    let namespace = meta["namespace"].as_str().unwrap_or("default");
    let selector = format!(
        "involvedObject.kind={},involvedObject.name={},involvedObject.uid={}",
        target.resource.kind,
        meta["name"].as_str().unwrap_or_default(),
        meta["uid"].as_str().unwrap_or_default()
    );
    let list = session
        .get(&format!("/api/v1/namespaces/{namespace}/events?fieldSelector={}", escape(&selector)))
        .await?;
    let mut events = list["items"].as_array().cloned().unwrap_or_default();
    events.sort_by_key(|e| {
        e["lastTimestamp"].as_str().or(e["eventTime"].as_str()).unwrap_or_default().to_owned()
    });
    if events.is_empty() {
        return Ok("Events: <none>\n".to_owned());
    }
    let mut text = "Events:\n".to_owned();
    for event in events {
        let count = event["count"].as_i64().unwrap_or(1);
        let times = if count > 1 { format!(" (x{count})") } else { String::new() };
        let _ = writeln!(
            text,
            "  {:<8} {:<20} {}{times}  {}",
            event["type"].as_str().unwrap_or_default(),
            event["reason"].as_str().unwrap_or_default(),
            event["source"]["component"].as_str().unwrap_or_default(),
            event["message"].as_str().unwrap_or_default().trim_end()
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_outline_names_lists_by_name_and_leaves_out_what_is_empty() {
        let text = outline(&json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "a", "namespace": "ns", "uid": "u", "labels": {"app": "x"}},
            "spec": {"containers": [{"name": "c", "image": "i", "args": ["1", "2"]}], "volumes": []},
        }));
        let want = "Name:             a\nNamespace:        ns\nLabels:           app=x\nAnnotations:      <none>\n\
                    Spec:\n  Containers:\n    c:\n      Args: 1 2\n      Image: i\n      Name: c\n";
        assert_eq!(text, want);
    }
}
