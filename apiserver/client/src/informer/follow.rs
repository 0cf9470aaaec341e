//! Follows one collection of the API server for ever: list, watch, resume, list again when told to.
//! Knows HTTP and events, not kinds: objects go on as JSON to a `Sink`.

use super::lines::{Lines, TooLong};
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::HashMap, time::Duration};
use tokio::time::{Instant, timeout, timeout_at};

/// Until the head of an answer: the API server answers at once or is not there.
const ANSWER: Duration = Duration::from_secs(30);
/// One page of a list with its body.
const PAGE: Duration = Duration::from_secs(60);
/// The first objects of a watch-list, all together.
const INITIAL: Duration = Duration::from_secs(60);
/// Silence on a watch: the server sends a bookmark each minute, so after this long the connection is dead.
const SILENCE: Duration = Duration::from_secs(150);
/// How long the server shall keep a watch, in seconds, with a random share on top so that a process's watches
/// do not end together (client-go: 5 to 10 minutes).
const WATCH_SECONDS: u64 = 300;
/// Objects per page of a list.
const PAGE_SIZE: u32 = 500;
/// Largest page: `PAGE_SIZE` objects of the largest size would be more, but no cluster has that.
const MAX_PAGE: usize = 256 << 20;
/// Largest `Status` read from a refusal.
const MAX_STATUS: usize = 64 << 10;
/// Back-off after failures: short at first, for a server that is just starting in this process.
const FIRST_DELAY: Duration = Duration::from_millis(20);
const LAST_DELAY: Duration = Duration::from_secs(10);
/// Attempts to resume at a revision, each refused by the server, before listing afresh; and watch-lists that
/// ended before their end mark, before falling back to plain lists.
const RESUMES: u32 = 3;

/// Where the objects go. `list_*` builds a complete state that becomes visible at `list_end`; `event`s become
/// visible at `flush`.
pub(super) trait Sink: Send + Sync {
    fn list_item(&self, json: &str);
    fn list_abort(&self);
    /// `revision` is the list's own, as the server gave it.
    fn list_end(&self, revision: Option<&str>);
    /// Returns the object's resourceVersion, or `None` if the object cannot be read.
    fn event(&self, deleted: bool, json: &str) -> Option<String>;
    fn flush(&self);
}

pub(super) struct Follower<'a> {
    pub(super) client: kube::Client,
    /// `/api/v1/pods`
    pub(super) path: String,
    pub(super) sink: &'a dyn Sink,
}

/// How an attempt ended.
#[derive(Debug)]
enum End {
    /// The server closed the watch, as it does after its time.
    Closed,
    /// The revision is too old (410), or not one of this server's.
    Expired,
    /// The server answered with an error.
    Refused(StatusCode, String),
    /// No usable answer.
    Broken(String),
}

impl From<TooLong> for End {
    fn from(error: TooLong) -> Self {
        End::Broken(error.to_string())
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Light<'a> {
    #[serde(borrow)]
    metadata: LightMeta<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LightMeta<'a> {
    #[serde(borrow)]
    resource_version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "continue")]
    continue_: Option<Cow<'a, str>>,
    annotations: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    metadata: LightMeta<'a>,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
    code: u16,
    reason: String,
    message: String,
}

impl Status {
    fn end(self, answered: StatusCode) -> End {
        let code = StatusCode::from_u16(self.code).unwrap_or(answered);
        if code == StatusCode::GONE || matches!(self.reason.as_str(), "Expired" | "Gone") {
            End::Expired
        } else {
            End::Refused(code, self.message)
        }
    }
}

/// Annotation of the bookmark that ends the initial objects (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

impl Follower<'_> {
    /// Never returns; drop it to stop.
    pub(super) async fn run(self) {
        // Everything up to this revision is in the sink.
        let mut position: Option<String> = None;
        let mut watch_list = true;
        let mut delay = FIRST_DELAY;
        let mut refusals = 0;
        loop {
            let (started, started_at) = (position.clone(), Instant::now());
            let end = match (&mut position, watch_list) {
                (None, false) => match self.list().await {
                    Ok(version) => {
                        position = Some(version);
                        delay = FIRST_DELAY;
                        continue;
                    }
                    Err(end) => end,
                },
                (position, _) => self.watch(position).await,
            };
            // Something came, or the watch lasted: the server is well. One that closes at once, again and again,
            // must not be hammered.
            let good = position != started || started_at.elapsed() > LAST_DELAY;
            if good {
                delay = FIRST_DELAY;
                refusals = 0;
            }
            match end {
                End::Closed if position.is_some() => {
                    if good {
                        continue;
                    }
                }
                End::Expired => {
                    tracing::debug!(path = self.path, "revision expired, listing again");
                    if position.take().is_some() {
                        continue;
                    }
                }
                End::Refused(code, message) if position.is_none() && watch_list && code.is_client_error() => {
                    tracing::debug!(path = self.path, %code, message, "no watch-list here, listing instead");
                    watch_list = ![StatusCode::BAD_REQUEST, StatusCode::UNPROCESSABLE_ENTITY].contains(&code);
                    if !watch_list {
                        continue;
                    }
                }
                End::Refused(code, message) => {
                    tracing::warn!(path = self.path, %code, message, "the API server refuses the watch");
                    refusals += 1;
                    if refusals >= RESUMES
                        || (code.is_client_error() && code != StatusCode::TOO_MANY_REQUESTS)
                    {
                        position = None;
                    }
                }
                End::Closed => refusals += 1,
                End::Broken(error) => tracing::debug!(path = self.path, error, "the watch broke"),
            }
            if position.is_none() && refusals >= RESUMES {
                watch_list = false;
            }
            // Jitter: half to all of the delay.
            tokio::time::sleep(delay.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            delay = (delay * 2).min(LAST_DELAY);
        }
    }

    async fn get(&self, query: &str) -> Result<http::Response<Body>, End> {
        let request = Request::get(format!("{}?{query}", self.path))
            .header(header::ACCEPT, "application/json")
            .body(Body::empty())
            .map_err(|e| End::Broken(e.to_string()))?;
        let response = timeout(ANSWER, self.client.send(request))
            .await
            .map_err(|_| End::Broken("no answer in time".to_owned()))?
            .map_err(|e| End::Broken(e.to_string()))?;
        let code = response.status();
        if code.is_success() {
            return Ok(response);
        }
        let body = timeout(ANSWER, Limited::new(response.into_body(), MAX_STATUS).collect()).await;
        let status = match body {
            Ok(Ok(body)) => serde_json::from_slice::<Status>(&body.to_bytes()).unwrap_or_default(),
            _ => Status::default(),
        };
        Err(Status { code: code.as_u16(), ..status }.end(code))
    }

    /// Reads everything in pages; returns the revision of the list.
    async fn list(&self) -> Result<String, End> {
        self.sink.list_abort();
        let mut next = String::new();
        loop {
            let mut query = format!("limit={PAGE_SIZE}");
            if !next.is_empty() {
                query.push_str("&continue=");
                push_escaped(&mut query, &next);
            }
            let response = self.get(&query).await?;
            let body = timeout(PAGE, Limited::new(response.into_body(), MAX_PAGE).collect())
                .await
                .map_err(|_| End::Broken("the list did not end in time".to_owned()))?
                .map_err(|e| End::Broken(e.to_string()))?
                .to_bytes();
            let list: List<'_> = serde_json::from_slice(&body).map_err(|e| End::Broken(e.to_string()))?;
            for item in list.items.unwrap_or_default() {
                self.sink.list_item(item.get());
            }
            match list.metadata.continue_ {
                Some(token) if !token.is_empty() => next = token.into_owned(),
                _ => {
                    let version = list.metadata.resource_version.unwrap_or_default().into_owned();
                    self.sink.list_end(Some(&version));
                    return Ok(version);
                }
            }
        }
    }

    /// Follows until the watch ends. Without a position it asks for the initial objects first (watch-list).
    async fn watch(&self, position: &mut Option<String>) -> End {
        let seconds = WATCH_SECONDS + fastrand::u64(0..WATCH_SECONDS);
        let mut query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}");
        match position {
            Some(version) => {
                query.push_str("&resourceVersion=");
                push_escaped(&mut query, version);
            }
            None => query.push_str("&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"),
        }
        let body = match self.get(&query).await {
            Ok(response) => response.into_body(),
            Err(end) => return end,
        };
        self.sink.list_abort();
        let end = self.read(body, position).await.unwrap_or_else(|end| end);
        // What came before the break is whole and counts.
        self.sink.flush();
        end
    }

    async fn read(&self, mut body: Body, position: &mut Option<String>) -> Result<End, End> {
        let mut lines = Lines::default();
        let initial_deadline = Instant::now() + INITIAL;
        loop {
            let frame = match position {
                Some(_) => timeout(SILENCE, body.frame()).await,
                None => timeout_at(initial_deadline, body.frame()).await,
            };
            let chunk: Bytes = match frame {
                // The initial objects without their end mark: a server that does not know watch-lists.
                Err(_) if position.is_none() => return Ok(End::Closed),
                Err(_) => return Err(End::Broken("the watch fell silent".to_owned())),
                Ok(None) => return Ok(End::Closed),
                Ok(Some(Err(error))) => return Err(End::Broken(error.to_string())),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    Err(_trailers) => continue,
                },
            };
            lines.push(chunk);
            while let Some(line) = lines.next()? {
                self.line(&line, position)?;
            }
            self.sink.flush();
        }
    }

    fn line(&self, line: &[u8], position: &mut Option<String>) -> Result<(), End> {
        let event: Event<'_> = serde_json::from_slice(line).map_err(|e| End::Broken(e.to_string()))?;
        let json = event.object.get();
        match &*event.kind {
            "ADDED" | "MODIFIED" if position.is_none() => self.sink.list_item(json),
            "DELETED" if position.is_none() => {
                return Err(End::Broken("a delete among the initial objects".to_owned()));
            }
            "ADDED" | "MODIFIED" | "DELETED" => {
                let version = self.sink.event(event.kind == "DELETED", json).or_else(|| light(json).0);
                if let Some(version) = version {
                    *position = Some(version);
                }
            }
            "BOOKMARK" => {
                let (version, initial_end) = light(json);
                if position.is_none() && !initial_end {
                    return Ok(());
                }
                if position.is_none() {
                    self.sink.list_end(version.as_deref());
                }
                if let Some(version) = version {
                    *position = Some(version);
                }
            }
            "ERROR" => {
                let status: Status = serde_json::from_str(json).unwrap_or_default();
                return Err(status.end(StatusCode::INTERNAL_SERVER_ERROR));
            }
            other => tracing::debug!(path = self.path, kind = other, "unknown watch event"),
        }
        Ok(())
    }
}

/// An object's revision, and whether it is the bookmark that ends the initial objects.
fn light(json: &str) -> (Option<String>, bool) {
    let Ok(light) = serde_json::from_str::<Light<'_>>(json) else { return (None, false) };
    let end =
        light.metadata.annotations.is_some_and(|a| a.get(INITIAL_EVENTS_END).is_some_and(|v| v == "true"));
    (light.metadata.resource_version.map(Cow::into_owned), end)
}

/// Percent-encodes a query value.
fn push_escaped(out: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
}
