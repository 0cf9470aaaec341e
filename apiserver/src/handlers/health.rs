//! `/livez`, `/readyz` and `/healthz`: alive from the first request, ready when every latch is open.

use crate::{
    error::{ApiError, Result},
    request::Incoming,
    state::App,
};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use std::fmt::Write;

pub fn health(app: &App, which: &str, one: &str, incoming: &Incoming) -> Result<Response> {
    let mut checks = vec![("ping".to_owned(), true)];
    if which != "livez" {
        checks.extend(app.latches.states());
        checks.push(("shutdown".to_owned(), !app.stop.is_cancelled()));
    }
    let excluded: Vec<&str> = incoming.query.all("exclude").collect();
    checks.retain(|(name, _)| !excluded.contains(&name.as_str()));
    if !one.is_empty() {
        checks.retain(|(name, _)| name == one);
        if checks.is_empty() {
            return Err(ApiError::NoSuchPath);
        }
    }
    Ok(report(which, &checks, incoming.query.has("verbose")))
}

fn report(which: &str, checks: &[(String, bool)], verbose: bool) -> Response {
    let healthy = checks.iter().all(|(_, ok)| *ok);
    let mut text = String::new();
    for (name, ok) in checks {
        // Writing to a String cannot fail.
        let _ = match ok {
            true => writeln!(text, "[+]{name} ok"),
            false => writeln!(text, "[-]{name} failed: reason withheld"),
        };
    }
    let code = match healthy {
        true if verbose => {
            let _ = writeln!(text, "{which} check passed");
            StatusCode::OK
        }
        true => {
            "ok".clone_into(&mut text);
            StatusCode::OK
        }
        false => {
            let _ = writeln!(text, "{which} check failed");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let headers =
        [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    (code, headers, text).into_response()
}
