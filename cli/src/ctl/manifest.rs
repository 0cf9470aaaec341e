//! Objects from files, directories and standard input: YAML (several documents) or JSON, `List`s taken apart.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

const SUFFIXES: [&str; 3] = ["yaml", "yml", "json"];

pub(super) fn read(names: &[String]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for name in names {
        if name == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("cannot read standard input")?;
            objects.extend(parse(&text).context("standard input")?);
            continue;
        }
        for path in files(Path::new(name))? {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            objects.extend(parse(&text).with_context(|| path.display().to_string())?);
        }
    }
    if objects.is_empty() {
        bail!("no objects in {}", names.join(", "));
    }
    Ok(objects)
}

fn files(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found: Vec<PathBuf> = fs::read_dir(path)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|p| p.extension().and_then(|e| e.to_str()).is_some_and(|e| SUFFIXES.contains(&e)))
        .collect();
    found.sort();
    Ok(found)
}

fn parse(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut object) if object.get("kind").and_then(Value::as_str) == Some("List") => {
                if let Some(Value::Array(items)) = object.remove("items") {
                    objects.extend(items);
                }
            }
            Value::Object(object) => objects.push(Value::Object(object)),
            other => bail!("a document is not an object: {other}"),
        }
    }
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_json_are_read_alike() {
        let names = |text: &str| -> Vec<String> {
            parse(text).unwrap().iter().map(|o| o["metadata"]["name"].to_string()).collect()
        };
        assert_eq!(
            names("kind: A\nmetadata: {name: a}\n---\n---\nkind: B\nmetadata: {name: b}\n"),
            ["\"a\"", "\"b\""]
        );
        assert_eq!(names(r#"{"kind":"List","items":[{"metadata":{"name":"x"}}]}"#), ["\"x\""]);
        assert!(parse("just text").is_err());
        assert!(parse("a: [").is_err());
    }
}
