//! `patch` and `scale`: small changes to one object.

use super::{Selection, resource, session::Session};
use anyhow::{Context, Result, bail};
use clap::Args;
use http::Method;
use serde_json::json;
use std::{
    fs,
    io::{Write, stdout},
};

#[derive(Debug, Args)]
pub(super) struct Patch {
    #[command(flatten)]
    selection: Selection,
    /// The patch, JSON or YAML
    #[arg(short, long)]
    patch: Option<String>,
    /// A file with the patch
    #[arg(long, value_name = "FILE")]
    patch_file: Option<String>,
    /// json, merge or strategic
    #[arg(long, default_value = "strategic")]
    r#type: String,
    /// status or scale instead of the object itself
    #[arg(long, value_name = "NAME")]
    subresource: Option<String>,
}

impl Patch {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let content_type = match self.r#type.as_str() {
            "json" => "application/json-patch+json",
            "merge" => "application/merge-patch+json",
            "strategic" => "application/strategic-merge-patch+json",
            other => bail!("--type must be one of json, merge, strategic, not {other:?}"),
        };
        let text = match (&self.patch, &self.patch_file) {
            (Some(text), None) => text.clone(),
            (None, Some(path)) => fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?,
            _ => bail!("must specify --patch or --patch-file containing the contents of the patch"),
        };
        let patch: serde_json::Value =
            serde_saphyr::from_str(&text).context("the patch is neither JSON nor YAML")?;
        for target in resource::targets(session, &self.selection).await? {
            let Some(name) = &target.name else { bail!("resource name must be specified") };
            let sub = self.subresource.as_ref().map(|s| format!("/{s}")).unwrap_or_default();
            let path = format!("{}{sub}?fieldManager=minik8s-ctl", target.path(false));
            let before = session.get(&target.path(false)).await?;
            let after =
                session.request(Method::PATCH, &path, content_type, serde_json::to_vec(&patch)?).await?;
            let same = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"];
            let note = if same { "patched (no change)" } else { "patched" };
            writeln!(stdout(), "{} {note}", target.resource.named(name))?;
        }
        Ok(())
    }
}

#[derive(Debug, Args)]
pub(super) struct Scale {
    #[command(flatten)]
    selection: Selection,
    /// How many there shall be
    #[arg(long)]
    replicas: u32,
    /// Only if there are this many now
    #[arg(long)]
    current_replicas: Option<i64>,
}

impl Scale {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        for target in resource::targets(session, &self.selection).await? {
            let Some(name) = &target.name else { bail!("resource name must be specified") };
            let path = format!("{}/scale", target.path(false));
            let mut patch = json!({"spec": {"replicas": self.replicas}});
            if let Some(wanted) = self.current_replicas {
                let scale = session.get(&path).await?;
                let now = scale["spec"]["replicas"].as_i64().unwrap_or(0);
                if now != wanted {
                    bail!("expected replicas to be {wanted}, was {now}");
                }
                patch["metadata"] = json!({"resourceVersion": scale["metadata"]["resourceVersion"]});
            }
            let body = serde_json::to_vec(&patch)?;
            session.request(Method::PATCH, &path, "application/merge-patch+json", body).await?;
            writeln!(stdout(), "{} scaled", target.resource.named(name))?;
        }
        Ok(())
    }
}
