//! Lifecycle hooks: postStart and preStop.

use crate::probe::{
    HttpGet, http_get,
    run::{self, Target},
};
use k8s_openapi::api::core::v1::LifecycleHandler;
use std::time::Duration;

/// Runs a hook to its end; the caller sets the time limit. `Err` is for the event.
pub(crate) async fn run(target: &Target<'_>, handler: &LifecycleHandler) -> Result<(), String> {
    if let Some(action) = &handler.exec {
        return run::exec(target, action).await;
    }
    if let Some(action) = &handler.http_get {
        let headers = action.http_headers.iter().flatten();
        let request = HttpGet {
            tls: action.scheme.as_deref() == Some("HTTPS"),
            host: action
                .host
                .clone()
                .filter(|host| !host.is_empty())
                .unwrap_or_else(|| target.address.clone()),
            port: run::port(target.spec, &action.port)?,
            path: action.path.clone().unwrap_or_default(),
            headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
        };
        // Any answer will do: the hook was heard.
        return http_get(&request).await.map(drop);
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(action.seconds.try_into().unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler: the hook has no action of a supported kind".to_owned())
}
