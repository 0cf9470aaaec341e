//! `rollout status`: follows a StatefulSet until every replica runs the newest template.

use super::{
    Selection, resource,
    session::{Session, escape},
};
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::Value;
use std::{
    io::{Write, stdout},
    time::Duration,
};

#[derive(Debug, Args)]
pub(super) struct Rollout {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Wait until the roll-out is complete
    Status(Status),
}

#[derive(Debug, Args)]
struct Status {
    #[command(flatten)]
    selection: Selection,
    /// Give up after this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u64,
}

impl Rollout {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let Verb::Status(verb) = self.verb;
        let follow = verb.follow(session);
        if verb.timeout == 0 {
            return follow.await;
        }
        match tokio::time::timeout(Duration::from_secs(verb.timeout), follow).await {
            Ok(done) => done,
            Err(_) => bail!("timed out waiting for the roll-out"),
        }
    }
}

impl Status {
    async fn follow(&self, session: &Session) -> Result<()> {
        for target in resource::targets(session, &self.selection).await? {
            let Some(name) = &target.name else { bail!("resource name must be specified") };
            if target.resource.kind != "StatefulSet" {
                bail!("rollout status of {} is not built yet", target.resource.kind);
            }
            let only = escape(&format!("metadata.name={name}"));
            let path = format!(
                "{}?watch=true&fieldSelector={only}",
                target.resource.collection(Some(&target.namespace))
            );
            // A missing object is an error, not something to wait for.
            session.get(&target.path(false)).await?;
            let mut said = String::new();
            'watch: loop {
                let mut events = session.stream(&path, "application/json").await?;
                while let Some(event) = events.json().await? {
                    if event["type"] == "DELETED" {
                        bail!("{} was deleted", target.resource.named(name));
                    }
                    let (text, done) = progress(&event["object"])?;
                    if text != said {
                        writeln!(stdout(), "{text}")?;
                        said = text;
                    }
                    if done {
                        break 'watch;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What kubectl says of a StatefulSet's roll-out, and whether it is complete.
fn progress(set: &Value) -> Result<(String, bool)> {
    let number = |v: &Value| v.as_i64().unwrap_or(0);
    let (spec, status) = (&set["spec"], &set["status"]);
    if spec["updateStrategy"]["type"] == "OnDelete" {
        bail!("rollout status is only available for RollingUpdate strategy type");
    }
    if number(&status["observedGeneration"]) < number(&set["metadata"]["generation"]) {
        return Ok(("Waiting for statefulset spec update to be observed...".to_owned(), false));
    }
    let replicas = number(&spec["replicas"]);
    let ready = number(&status["readyReplicas"]);
    if ready < replicas {
        return Ok((format!("Waiting for {} pods to be ready...", replicas - ready), false));
    }
    let partition = number(&spec["updateStrategy"]["rollingUpdate"]["partition"]);
    let updated = number(&status["updatedReplicas"]);
    if partition > 0 {
        let wanted = (replicas - partition).max(0);
        let text = if updated < wanted {
            format!(
                "Waiting for partitioned roll out to finish: {updated} out of {wanted} new pods have been updated..."
            )
        } else {
            format!("partitioned roll out complete: {updated} new pods have been updated...")
        };
        return Ok((text, updated >= wanted));
    }
    if status["updateRevision"] != status["currentRevision"] {
        let text = format!(
            "waiting for statefulset rolling update to complete {updated} pods at revision {}...",
            status["updateRevision"].as_str().unwrap_or_default()
        );
        return Ok((text, false));
    }
    let text = format!(
        "statefulset rolling update complete {} pods at revision {}...",
        number(&status["currentReplicas"]),
        status["currentRevision"].as_str().unwrap_or_default()
    );
    Ok((text, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn complete_only_when_observed_ready_and_at_one_revision() {
        let set = |observed: i64, ready: i64, current: &str| {
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {"observedGeneration": observed,
                "readyReplicas": ready, "currentReplicas": 2, "currentRevision": current, "updateRevision": "b"}})
        };
        let done = |v| progress(&v).unwrap().1;
        assert!(!done(set(1, 2, "b")) && !done(set(2, 1, "b")) && !done(set(2, 2, "a")));
        assert!(done(set(2, 2, "b")));
    }
}
