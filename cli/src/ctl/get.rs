//! `get`: the server's table, or the objects themselves.

use super::{
    Selection,
    resource::{self, Resource, Target},
    session::{Lines, Session, escape},
};
use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use std::io::{Write, stdout};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

#[derive(Debug, Args)]
pub(super) struct Get {
    #[command(flatten)]
    selection: Selection,
    /// wide, yaml, json or name
    #[arg(short, long)]
    output: Option<String>,
    /// Go on printing changes
    #[arg(short, long)]
    watch: bool,
    /// Without the heading
    #[arg(long)]
    no_headers: bool,
    /// Show labels as the last column
    #[arg(long)]
    show_labels: bool,
    /// No error when a named object does not exist
    #[arg(long)]
    ignore_not_found: bool,
}

impl Get {
    /// As asked for without any flag.
    pub(super) fn of(selection: Selection) -> Self {
        Self {
            selection,
            output: None,
            watch: false,
            no_headers: false,
            show_labels: false,
            ignore_not_found: false,
        }
    }

    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let format = self.output.as_deref().unwrap_or("");
        if !["", "wide", "yaml", "json", "name"].contains(&format) {
            bail!("--output {format:?} is not built yet: use wide, yaml, json or name");
        }
        let targets = resource::targets(session, &self.selection).await?;
        if self.watch {
            let [target] = targets.as_slice() else { bail!("--watch follows one resource at a time") };
            return self.watch(session, target).await;
        }
        let mut found: Vec<Value> = Vec::new();
        let mut printed = 0;
        for target in &targets {
            let path = format!("{}{}", target.path(self.selection.all_namespaces), self.query());
            let answer = match self.fetch(session, &path, format).await {
                Ok(answer) => answer,
                Err(error) if self.ignore_not_found && is_not_found(&error) => continue,
                Err(error) => return Err(error),
            };
            if format.is_empty() || format == "wide" {
                let rows = answer["rows"].as_array().map_or(0, Vec::len);
                if rows > 0 {
                    if printed > 0 {
                        writeln!(stdout())?;
                    }
                    printed += rows;
                    let prefix = (targets.len() > 1).then_some(&target.resource);
                    self.print_table(&answer, &mut Widths::default(), prefix)?;
                }
            } else if answer["items"].is_array() {
                found.extend(items(answer, &target.resource));
            } else {
                found.push(answer);
            }
        }
        match format {
            "" | "wide" if printed == 0 => {
                eprintln!("{}", nothing(&targets, session, self.selection.all_namespaces))
            }
            "" | "wide" => {}
            "name" => {
                for (object, target) in found.iter().zip(targets.iter().cycle()) {
                    writeln!(
                        stdout(),
                        "{}",
                        target.resource.named(object["metadata"]["name"].as_str().unwrap_or(""))
                    )?;
                }
            }
            _ => {
                let single = targets.len() == 1 && targets[0].name.is_some();
                let object = match found.pop() {
                    Some(one) if single => one,
                    last => {
                        found.extend(last);
                        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": found})
                    }
                };
                print_object(&object, format)?;
            }
        }
        Ok(())
    }

    fn query(&self) -> String {
        let mut query = Vec::new();
        if let Some(selector) = &self.selection.selector {
            query.push(format!("labelSelector={}", escape(selector)));
        }
        if let Some(selector) = &self.selection.field_selector {
            query.push(format!("fieldSelector={}", escape(selector)));
        }
        if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) }
    }

    async fn fetch(&self, session: &Session, path: &str, format: &str) -> Result<Value> {
        let accept = if format.is_empty() || format == "wide" { TABLE } else { "application/json" };
        let request = http::Request::get(path).header(http::header::ACCEPT, accept).body(Vec::new())?;
        Ok(session.client.request(request).await?)
    }

    async fn watch(&self, session: &Session, target: &Target) -> Result<()> {
        let mut query = self.query();
        let everywhere = self.selection.all_namespaces;
        let path = match &target.name {
            Some(name) => {
                let only = format!("fieldSelector={}", escape(&format!("metadata.name={name}")));
                query = if query.is_empty() { format!("?{only}") } else { format!("{query}&{only}") };
                target.resource.collection((!everywhere).then_some(target.namespace.as_str()))
            }
            None => target.path(everywhere),
        };
        let joined = if query.is_empty() { "?watch=true".to_owned() } else { format!("{query}&watch=true") };
        let table = self.output.is_none() || self.output.as_deref() == Some("wide");
        let accept = if table { TABLE } else { "application/json" };
        let mut events: Lines = session.stream(&format!("{path}{joined}"), accept).await?;
        let mut widths = Widths::default();
        while let Some(event) = events.json().await? {
            let object = &event["object"];
            match event["type"].as_str() {
                Some("ERROR") => {
                    bail!("the watch ended: {}", object["message"].as_str().unwrap_or("unknown"))
                }
                Some("BOOKMARK") => {}
                _ if table => self.print_table(object, &mut widths, None)?,
                _ if self.output.as_deref() == Some("name") => {
                    writeln!(
                        stdout(),
                        "{}",
                        target.resource.named(object["metadata"]["name"].as_str().unwrap_or(""))
                    )?;
                }
                _ => print_object(object, self.output.as_deref().unwrap_or("yaml"))?,
            }
            stdout().flush()?;
        }
        Ok(())
    }

    fn print_table(&self, table: &Value, widths: &mut Widths, prefix: Option<&Resource>) -> Result<()> {
        let wide = self.output.as_deref() == Some("wide");
        let columns = table["columnDefinitions"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !columns.is_empty() {
            widths.shown = columns
                .iter()
                .enumerate()
                .filter(|(_, c)| wide || c["priority"].as_i64().unwrap_or(0) == 0)
                .map(|(i, _)| i)
                .collect();
        }
        let mut lines: Vec<Vec<String>> = Vec::new();
        let heading = !self.no_headers && !columns.is_empty() && !widths.headed;
        if heading {
            let mut line: Vec<String> = widths
                .shown
                .iter()
                .map(|&i| columns[i]["name"].as_str().unwrap_or("").to_uppercase())
                .collect();
            if self.selection.all_namespaces {
                line.insert(0, "NAMESPACE".to_owned());
            }
            if self.show_labels {
                line.push("LABELS".to_owned());
            }
            lines.push(line);
            widths.headed = true;
        }
        for row in table["rows"].as_array().into_iter().flatten() {
            let mut line: Vec<String> = widths.shown.iter().map(|&i| cell(&row["cells"][i])).collect();
            if let (Some(resource), Some(name)) = (prefix, line.first_mut()) {
                *name = resource.named(name);
            }
            let meta = &row["object"]["metadata"];
            if self.selection.all_namespaces {
                line.insert(0, meta["namespace"].as_str().unwrap_or("").to_owned());
            }
            if self.show_labels {
                line.push(labels(&meta["labels"]));
            }
            lines.push(line);
        }
        widths.print(&lines, &mut stdout().lock())
    }
}

/// Column widths; in a watch they only grow.
#[derive(Debug, Default)]
struct Widths {
    widths: Vec<usize>,
    shown: Vec<usize>,
    headed: bool,
}

impl Widths {
    fn print(&mut self, lines: &[Vec<String>], out: &mut impl Write) -> Result<()> {
        for line in lines {
            self.widths.resize(self.widths.len().max(line.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in lines {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(&self.widths) {
                text.push_str(&format!("{cell:<width$}   "));
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn labels(labels: &Value) -> String {
    let list: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if list.is_empty() { "<none>".to_owned() } else { list.join(",") }
}

/// Items of a list carry no kind of their own.
fn items(mut list: Value, resource: &Resource) -> Vec<Value> {
    let api_version = if resource.group.is_empty() {
        resource.version.clone()
    } else {
        format!("{}/{}", resource.group, resource.version)
    };
    let Value::Array(mut items) = list["items"].take() else { return Vec::new() };
    for item in &mut items {
        if item["kind"].is_null() {
            item["kind"] = resource.kind.clone().into();
            item["apiVersion"] = api_version.clone().into();
        }
    }
    items
}

fn nothing(targets: &[Target], session: &Session, everywhere: bool) -> String {
    if everywhere || targets.iter().all(|t| !t.resource.namespaced) {
        "No resources found".to_owned()
    } else {
        format!("No resources found in {} namespace.", session.namespace)
    }
}

/// Prints an object as `yaml` or `json`.
pub(super) fn print_object(object: &Value, format: &str) -> Result<()> {
    let mut shown = object.clone();
    if let Some(meta) = shown["metadata"].as_object_mut() {
        meta.remove("managedFields");
    }
    let text = match format {
        "json" => serde_json::to_string_pretty(&shown)? + "\n",
        _ => serde_saphyr::to_string(&shown)?,
    };
    stdout().write_all(text.as_bytes())?;
    Ok(())
}

pub(super) fn is_not_found(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<kube::Error>(), Some(kube::Error::Api(status)) if status.code == 404)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_only_grow() {
        let mut widths = Widths::default();
        let mut out = Vec::new();
        let line = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        widths.print(&[line(&["NAME", "AGE"]), line(&["kubia-0", "3s"])], &mut out).unwrap();
        widths.print(&[line(&["x", "4s"])], &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME      AGE\nkubia-0   3s\nx         4s\n");
    }
}
