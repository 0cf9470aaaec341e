//! `/metrics`: what the server did and holds, in Prometheus' text form.

use crate::{
    metrics::{Page, SECONDS},
    state::App,
};
use axum::response::{IntoResponse, Response};
use http::header;

pub fn metrics(app: &App) -> Response {
    let mut page = Page::default();
    app.metrics.write(&mut page);
    lanes(app, &mut page);
    storage(app, &mut page);
    audit(app, &mut page);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.into_text()).into_response()
}

fn lanes(app: &App, page: &mut Page) {
    let states = app.lanes.states();
    let name = "apiserver_current_inflight_requests";
    page.family(name, "gauge", "Requests being served, by lane.");
    for state in &states {
        page.sample(name, &[("request_kind", state.lane.name())], state.served);
    }
    let name = "apiserver_current_inqueue_requests";
    page.family(name, "gauge", "Requests waiting for a place, by lane.");
    for state in &states {
        page.sample(name, &[("request_kind", state.lane.name())], state.waiting);
    }
    let name = "apiserver_dropped_requests_total";
    page.family(name, "counter", "Requests told to come back, by lane.");
    for state in &states {
        page.sample(name, &[("request_kind", state.lane.name())], state.refused);
    }
}

fn storage(app: &App, page: &mut Page) {
    let stats = app.registry.store().stats();
    let mut gauge = |name: &str, help: &str, value: u64| {
        page.figure(&format!("apiserver_storage_{name}"), "gauge", help, value);
    };
    gauge("revision", "The newest durable revision.", stats.revision.0);
    gauge("oldest_revision", "The oldest revision that a watch or list can start from.", stats.oldest.0);
    gauge("objects", "Objects stored.", stats.keys);
    gauge("object_bytes", "Bytes of the objects stored.", stats.value_bytes);
    gauge("history_events", "Events kept for watches and older lists.", stats.history_events);
    gauge("history_bytes", "Bytes of these events.", stats.history_bytes);
    if let Some(bytes) = stats.disk_bytes {
        gauge("size_bytes", "Bytes that the store uses on disk.", bytes);
    }
    page.figure("apiserver_storage_watchers", "gauge", "Watches that follow the store.", stats.watchers);
    page.figure(
        "apiserver_storage_slow_watchers_total",
        "counter",
        "Watches cut because they did not keep up.",
        stats.slow_watchers,
    );
    page.figure("apiserver_storage_writes_total", "counter", "Writes made durable.", stats.writes);
    for (name, help, timing) in [
        (
            "apiserver_storage_commit_duration_seconds",
            "From taking a group of writes to its acknowledgement.",
            stats.commits,
        ),
        (
            "apiserver_storage_flush_duration_seconds",
            "Appending a group of writes and flushing it to disk.",
            stats.flushes,
        ),
    ] {
        page.family(name, "histogram", help);
        let bounds = storage::Timing::BOUNDS.map(|bound| bound.as_secs_f64());
        page.histogram(name, &[], &bounds, &timing.counts, timing.count, timing.sum());
    }
    debug_assert!(SECONDS.is_sorted());
}

fn audit(app: &App, page: &mut Page) {
    let counts = app.audit.counts();
    page.figure("apiserver_audit_event_total", "counter", "Audit events written or queued.", counts.taken);
    page.figure(
        "apiserver_audit_error_total",
        "counter",
        "Audit events lost: the queue was full, or the file could not be written.",
        counts.lost,
    );
}
