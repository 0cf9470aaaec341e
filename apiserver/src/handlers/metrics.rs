//! `/metrics`: what the server did, in Prometheus' text form.

use crate::state::App;
use axum::response::{IntoResponse, Response};
use http::header;
use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Counted per verb, resource and code: all three come from fixed sets, so the table cannot grow without bound.
type Label = (&'static str, &'static str, u16);

#[derive(Debug, Default)]
pub struct Metrics {
    requests: Mutex<BTreeMap<Label, Total>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Total {
    count: u64,
    time: Duration,
}

impl Metrics {
    pub fn observe(&self, verb: &'static str, resource: &'static str, code: u16, time: Duration) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let total = requests.entry((verb, resource, code)).or_default();
        total.count += 1;
        total.time += time;
    }

    fn text(&self) -> String {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ =
            writeln!(out, "# HELP apiserver_request_total Requests answered, by verb, resource and code.");
        let _ = writeln!(out, "# TYPE apiserver_request_total counter");
        for ((verb, resource, code), total) in &requests {
            let labels =
                format!(r#"verb="{}",resource="{resource}",code="{code}""#, verb.to_ascii_uppercase());
            let _ = writeln!(out, "apiserver_request_total{{{labels}}} {}", total.count);
        }
        let _ = writeln!(
            out,
            "# HELP apiserver_request_duration_seconds_sum Time until the answer's head was ready."
        );
        let _ = writeln!(out, "# TYPE apiserver_request_duration_seconds_sum counter");
        for ((verb, resource, code), total) in &requests {
            let labels =
                format!(r#"verb="{}",resource="{resource}",code="{code}""#, verb.to_ascii_uppercase());
            let _ = writeln!(
                out,
                "apiserver_request_duration_seconds_sum{{{labels}}} {}",
                total.time.as_secs_f64()
            );
        }
        out
    }
}

pub fn metrics(app: &App) -> Response {
    let mut text = app.metrics.text();
    let in_flight = app.limits.in_flight.saturating_sub(app.in_flight.available_permits());
    let _ = writeln!(text, "# TYPE apiserver_current_inflight_requests gauge");
    let _ = writeln!(text, "apiserver_current_inflight_requests {in_flight}");
    let _ = writeln!(text, "# TYPE apiserver_storage_revision gauge");
    let _ = writeln!(text, "apiserver_storage_revision {}", app.registry.store().revision());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
