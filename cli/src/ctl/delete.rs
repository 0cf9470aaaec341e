//! `delete`: by name, selector or file; waits until the objects are gone.

use super::{
    Selection,
    get::is_not_found,
    resource::{self, Target},
    session::{Session, escape},
};
use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use std::{
    io::{Write, stdout},
    time::Duration,
};

#[derive(Debug, Args)]
pub(super) struct Delete {
    #[command(flatten)]
    selection: Selection,
    /// Every object of the type
    #[arg(long)]
    all: bool,
    /// Remove without waiting for the node (with --grace-period 0): the containers may live on
    #[arg(long)]
    force: bool,
    /// Seconds to end in
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<i64>,
    /// background, foreground or orphan
    #[arg(long, default_value = "background")]
    cascade: String,
    /// Wait until the objects are gone
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    wait: bool,
    /// Give up waiting after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u64,
    /// No error when a named object does not exist
    #[arg(long)]
    ignore_not_found: bool,
}

impl Delete {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let propagation = match self.cascade.as_str() {
            "background" | "true" => "Background",
            "foreground" => "Foreground",
            "orphan" | "false" => "Orphan",
            other => bail!("--cascade {other:?}: use background, foreground or orphan"),
        };
        if self.force && self.grace_period.is_some_and(|g| g > 0) {
            bail!("--force and --grace-period greater than 0 cannot be specified together");
        }
        let grace = if self.force { Some(0) } else { self.grace_period };
        if grace == Some(0) {
            eprintln!(
                "Warning: Immediate deletion does not wait for confirmation that the running resource has been \
                 terminated. The resource may continue to run on the cluster indefinitely."
            );
        }
        let mut options =
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation});
        if let Some(grace) = grace {
            options["gracePeriodSeconds"] = grace.into();
        }
        let mut gone = Vec::new();
        for target in self.named(session).await? {
            let path = target.path(false);
            match session
                .request(Method::DELETE, &path, "application/json", serde_json::to_vec(&options)?)
                .await
            {
                Ok(answer) => {
                    let verb = if self.force { "force deleted" } else { "deleted" };
                    let name = target.name.as_deref().unwrap_or_default();
                    writeln!(stdout(), "{} {verb}", target.resource.named(name))?;
                    let uid = answer["metadata"]["uid"].as_str().or(answer["details"]["uid"].as_str());
                    gone.push((target, uid.map(str::to_owned)));
                }
                Err(error) if self.ignore_not_found && is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if self.wait && !self.force {
            let wait = async {
                for (target, uid) in &gone {
                    until_gone(session, target, uid.as_deref()).await?;
                }
                Ok(())
            };
            if self.timeout == 0 {
                return wait.await;
            }
            return match tokio::time::timeout(Duration::from_secs(self.timeout), wait).await {
                Ok(done) => done,
                Err(_) => bail!("timed out waiting for the objects to go"),
            };
        }
        Ok(())
    }

    /// Every object to delete, by name.
    async fn named(&self, session: &Session) -> Result<Vec<Target>> {
        let mut named = Vec::new();
        for target in resource::targets(session, &self.selection).await? {
            if target.name.is_some() {
                named.push(target);
                continue;
            }
            if !self.all && self.selection.selector.is_none() && self.selection.field_selector.is_none() {
                bail!("resource(s) were provided, but no name was specified");
            }
            let mut query = Vec::new();
            for (key, value) in [
                ("labelSelector", &self.selection.selector),
                ("fieldSelector", &self.selection.field_selector),
            ] {
                if let Some(value) = value {
                    query.push(format!("{key}={}", escape(value)));
                }
            }
            let path = format!("{}?{}", target.path(self.selection.all_namespaces), query.join("&"));
            let list = session.get(&path).await?;
            for object in list["items"].as_array().into_iter().flatten() {
                let text = |v: &Value| v.as_str().map(str::to_owned);
                named.push(Target {
                    resource: target.resource.clone(),
                    namespace: text(&object["metadata"]["namespace"]).unwrap_or_default(),
                    name: text(&object["metadata"]["name"]),
                });
            }
        }
        Ok(named)
    }
}

/// Follows the object until it, or the object of that UID, is no more.
pub(super) async fn until_gone(session: &Session, target: &Target, uid: Option<&str>) -> Result<()> {
    let Some(name) = &target.name else { return Ok(()) };
    loop {
        let object = match session.get(&target.path(false)).await {
            Ok(object) => object,
            Err(error) if is_not_found(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        if uid.is_some() && object["metadata"]["uid"].as_str() != uid {
            return Ok(());
        }
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let only = escape(&format!("metadata.name={name}"));
        let path = format!(
            "{}?watch=true&fieldSelector={only}&resourceVersion={version}",
            target.resource.collection(Some(&target.namespace))
        );
        let mut events = session.stream(&path, "application/json").await?;
        while let Some(event) = events.json().await? {
            match event["type"].as_str() {
                Some("DELETED") => return Ok(()),
                Some("ERROR") => break,
                _ => {}
            }
        }
    }
}
