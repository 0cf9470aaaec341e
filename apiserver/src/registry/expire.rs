//! Events are kept for an hour after they last happened, as in Kubernetes; nothing else expires.

use super::{Call, Registry, managed_fields::Writer, prefix, selection::names, storage_error};
use crate::{
    auth::User,
    error::{ApiError, Result},
    request::options::DeleteOptions,
    state::App,
};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// kube-apiserver's `--event-ttl`.
const TTL: SignedDuration = SignedDuration::from_hours(1);
/// How long an expired event may linger: short against the hour, long against the cost of a look.
const EVERY: Duration = Duration::from_secs(5 * 60);

/// Removes expired events until the server stops.
pub async fn run(app: App) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match app.registry.expire_events(Timestamp::now()).await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "expired events removed"),
            Err(e) => tracing::warn!(error = %e, "expired events could not be removed"),
        }
    }
}

impl Registry {
    /// Removes the events that last happened more than an hour before `now`; returns how many.
    pub async fn expire_events(&self, now: Timestamp) -> Result<usize> {
        let Some(kind) = self.kind_named("events") else { return Ok(0) };
        let list = self.store().list(&prefix(kind, "")?, storage::ListOptions::default()).await;
        let user = User::component("system:apiserver");
        let mut count = 0;
        for kv in list.map_err(storage_error)?.items {
            let Ok(event) = serde_json::from_slice::<Event>(&kv.value) else { continue };
            if last_happened(&event).is_none_or(|t| now.duration_since(t) < TTL) {
                continue;
            }
            let (namespace, name) = names(kind, &kv.key);
            let writer = Writer::default();
            let call = Call { kind, subresource: None, namespace, name, user: &user, writer, dry_run: false };
            // If it happens again right now, it stays.
            let options =
                DeleteOptions { resource_version: Some(kv.modified.to_string()), ..DeleteOptions::default() };
            match self.delete(&call, &options).await {
                Ok(_) => count += 1,
                Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(count)
    }
}

fn last_happened(event: &Event) -> Option<Timestamp> {
    let series = event.series.as_ref().and_then(|s| s.last_observed_time.as_ref()).map(|t| t.0);
    let last = event.last_timestamp.as_ref().map(|t| t.0);
    let first = event.event_time.as_ref().map(|t| t.0);
    let created = event.metadata.creation_timestamp.as_ref().map(|t| t.0);
    [series, last, first, created].into_iter().flatten().max()
}
