//! `/containerLogs`: what a container wrote, as a plain body or as messages of a WebSocket.

use super::{
    Failure, State,
    query::Pairs,
    upgrade::{self, Agreed, Wanted},
};
use crate::runtime::{LogOptions, Output};
use api::guard::contained;
use axum::{
    body::Body,
    extract::{Path, Query, Request, State as Extract},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{Bytes, BytesMut};
use futures::{SinkExt, Stream, StreamExt};
use http::{HeaderValue, header};
use jiff::{SignedDuration, Timestamp};
use std::{future::ready, time::Duration};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// Lines that are ready go out together, up to this many: a busy log is not a system call a line.
const BATCH: usize = 128;
/// How long a WebSocket client may take to answer our Close.
const LINGER: Duration = Duration::from_secs(2);

/// What of the log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Wish {
    engine: LogOptions,
    timestamps: bool,
    previous: bool,
    limit: Option<u64>,
    streams: Which,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Which {
    #[default]
    All,
    Stdout,
    Stderr,
}

impl Wish {
    /// `PodLogOptions` as a query.
    fn parse(query: &Pairs, now: Timestamp) -> Result<Self, Failure> {
        let seconds: Option<i64> = query.parse("sinceSeconds")?;
        let time: Option<Timestamp> = query.parse("sinceTime")?;
        let since = match (seconds, time) {
            (Some(_), Some(_)) => {
                return Err(Failure::bad_request(
                    "at most one of `sinceTime` or `sinceSeconds` may be specified",
                ));
            }
            (Some(seconds), None) if seconds < 1 => {
                return Err(Failure::bad_request("`sinceSeconds` must be greater than 0"));
            }
            // Before time began is everything.
            (Some(seconds), None) => {
                Some(now.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN))
            }
            (None, time) => time,
        };
        let limit: Option<u64> = query.parse("limitBytes")?;
        if limit == Some(0) {
            return Err(Failure::bad_request("`limitBytes` must be greater than 0"));
        }
        let streams = match query.get("stream") {
            None | Some("All") => Which::All,
            Some("Stdout") => Which::Stdout,
            Some("Stderr") => Which::Stderr,
            Some(other) => return Err(Failure::bad_request(format!("invalid stream type {other:?}"))),
        };
        let engine = LogOptions { follow: query.flag("follow"), tail: query.parse("tailLines")?, since };
        let (timestamps, previous) = (query.flag("timestamps"), query.flag("previous"));
        Ok(Self { engine, timestamps, previous, limit, streams })
    }
}

/// Turns the engine's chunks into what the client sees.
#[derive(Debug)]
struct Cutter {
    timestamps: bool,
    which: Which,
    left: Option<u64>,
    /// The last chunk of stdout and of stderr did not end its line: the next goes on with it.
    open: [bool; 2],
}

impl Cutter {
    fn new(wish: &Wish) -> Self {
        Self { timestamps: wish.timestamps, which: wish.streams, left: wish.limit, open: [false; 2] }
    }

    fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    fn cut(&mut self, chunk: Output) -> Bytes {
        let (at, wanted) = match chunk {
            Output::Stdout(_) => (0, self.which != Which::Stderr),
            Output::Stderr(_) => (1, self.which != Which::Stdout),
        };
        let mut bytes = chunk.bytes().clone();
        let goes_on = std::mem::replace(&mut self.open[at], bytes.last() != Some(&b'\n'));
        if !wanted {
            return Bytes::new();
        }
        if !self.timestamps || goes_on {
            let start = text_start(&bytes);
            bytes = bytes.slice(start..);
        }
        if let Some(left) = &mut self.left {
            bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= bytes.len() as u64;
        }
        bytes
    }
}

/// Where the text begins after the engine's time stamp; 0 if there is none.
fn text_start(chunk: &[u8]) -> usize {
    // `2006-01-02T15:04:05.000000000Z ` and with an offset for the zone a few more.
    let space = chunk.iter().take(40).position(|byte| *byte == b' ');
    match space {
        Some(at) if is_time(&chunk[..at]) => at + 1,
        // An empty line may come without the space.
        None if chunk.strip_suffix(b"\n").is_some_and(is_time) => chunk.len() - 1,
        _ => 0,
    }
}

fn is_time(text: &[u8]) -> bool {
    text.len() >= 20 && std::str::from_utf8(text).is_ok_and(|text| text.parse::<Timestamp>().is_ok())
}

pub(super) async fn logs(
    Extract(state): Extract<State>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Failure> {
    let wish = Wish::parse(&Pairs(query), Timestamp::now())?;
    let found = state.lookup.for_logs(&namespace, &pod, &container, wish.previous)?;
    let chunks = state.runtime.logs(&found.id, wish.engine.clone()).await?;
    let token = state.token.clone();
    let lines = cut(chunks, &wish).take_until(async move { token.cancelled().await });
    if upgrade::wanted(request.headers()) == Some(Wanted::WebSocket) {
        return over_websocket(state, request, lines);
    }
    let mut response = Body::from_stream(lines).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

type Chunk = Result<Bytes, crate::runtime::Error>;

fn cut<S>(chunks: S, wish: &Wish) -> impl Stream<Item = Chunk> + Send + use<S>
where
    S: Stream<Item = crate::runtime::Result<Output>> + Send,
{
    let mut cutter = Cutter::new(wish);
    let mut over = false;
    chunks
        .ready_chunks(BATCH)
        .map(move |chunks| {
            let (mut out, mut failed) = (BytesMut::new(), None);
            for chunk in chunks {
                match chunk {
                    Ok(chunk) => out.extend_from_slice(&cutter.cut(chunk)),
                    Err(error) => {
                        failed = Some(Err(error));
                        break;
                    }
                }
            }
            let last = failed.is_some() || cutter.is_done();
            let out = (!out.is_empty()).then(|| Ok(out.freeze()));
            (out.into_iter().chain(failed), last)
        })
        .take_while(move |(_, last)| ready(!std::mem::replace(&mut over, *last)))
        .flat_map(|(chunks, _)| futures::stream::iter(chunks))
}

/// Whether the messages are base64 text.
const WEBSOCKET_PROTOCOLS: &[(&str, bool)] =
    &[("binary.k8s.io", false), ("base64.binary.k8s.io", true), ("", false)];

fn over_websocket(
    state: State,
    mut request: Request,
    lines: impl Stream<Item = Chunk> + Send + 'static,
) -> Result<Response, Failure> {
    let Agreed { response, choice: base64, upgrade } = upgrade::websocket(&mut request, WEBSOCKET_PROTOCOLS)?;
    state.tracker.spawn(contained(async move {
        let Some(socket) = upgrade::socket(upgrade).await else { return };
        let (mut writing, reading) = socket.split();
        // What the client says is of no interest, but its Close is, and its pings are answered by reading.
        let mut gone = reading.for_each(|_| ready(()));
        let mut lines = std::pin::pin!(lines);
        let send = async {
            while let Some(Ok(bytes)) = lines.next().await {
                let message =
                    if base64 { Message::text(STANDARD.encode(&bytes)) } else { Message::Binary(bytes) };
                writing.send(message).await?;
            }
            let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
            writing.send(Message::Close(Some(close))).await
        };
        let sent = tokio::select! {
            () = &mut gone => return,
            sent = send => sent,
        };
        match sent {
            Ok(()) => drop(timeout(LINGER, gone).await),
            Err(error) => tracing::debug!(%error, "a client of a log broke off"),
        }
    }));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Error;

    const NOW: &str = "2026-11-22T15:00:00Z";

    fn parse(query: &[(&str, &str)]) -> Result<Wish, Failure> {
        let pairs = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Wish::parse(&Pairs(pairs), NOW.parse().unwrap())
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parse(&[]), Ok(Wish::default()));
        let wish = parse(&[
            ("follow", "true"),
            ("tailLines", "5"),
            ("sinceSeconds", "60"),
            ("timestamps", "true"),
            ("previous", "1"),
            ("limitBytes", "100"),
            ("stream", "Stderr"),
        ]);
        let since = Some("2026-11-22T14:59:00Z".parse().unwrap());
        let engine = LogOptions { follow: true, tail: Some(5), since };
        let (limit, streams) = (Some(100), Which::Stderr);
        assert_eq!(wish, Ok(Wish { engine, timestamps: true, previous: true, limit, streams }));
        let wish = parse(&[("sinceTime", "2026-11-22T10:00:00+01:00")]).unwrap();
        assert_eq!(wish.engine.since, Some("2026-11-22T09:00:00Z".parse().unwrap()));
    }

    #[test]
    fn bad_options_are_refused() {
        for (name, value) in [
            ("tailLines", "-1"),
            ("tailLines", "x"),
            ("limitBytes", "0"),
            ("sinceSeconds", "0"),
            ("sinceTime", "yesterday"),
            ("stream", "Both"),
        ] {
            assert!(parse(&[(name, value)]).is_err(), "{name}={value}");
        }
        assert!(parse(&[("sinceSeconds", "1"), ("sinceTime", NOW)]).is_err());
        assert_eq!(
            parse(&[("sinceSeconds", "9223372036854775807")]).unwrap().engine.since,
            Some(Timestamp::MIN)
        );
    }

    fn out(text: &'static str) -> crate::runtime::Result<Output> {
        Ok(Output::Stdout(Bytes::from_static(text.as_bytes())))
    }
    fn err(text: &'static str) -> crate::runtime::Result<Output> {
        Ok(Output::Stderr(Bytes::from_static(text.as_bytes())))
    }

    async fn shown(chunks: Vec<crate::runtime::Result<Output>>, wish: Wish) -> (String, Option<Error>) {
        let (mut text, mut error) = (String::new(), None);
        let mut lines = std::pin::pin!(cut(futures::stream::iter(chunks), &wish));
        while let Some(chunk) = lines.next().await {
            match chunk {
                Ok(bytes) => text.push_str(std::str::from_utf8(&bytes).unwrap()),
                Err(e) => error = Some(e),
            }
        }
        (text, error)
    }

    fn sample() -> Vec<crate::runtime::Result<Output>> {
        vec![
            out("2026-11-22T15:00:00.000000001Z one\n"),
            out("2026-11-22T15:00:01.000000000Z long"),
            err("2026-11-22T15:00:02.000000000Z oops\n"),
            out("2026-11-22T15:00:01.000000000Z er\n"),
            out("2026-11-22T15:00:03.000000000Z \n"),
            out("no stamp\n"),
        ]
    }

    #[tokio::test]
    async fn time_stamps_are_taken_off_or_kept_once_a_line() {
        let (text, _) = shown(sample(), Wish::default()).await;
        assert_eq!(text, "one\nlongoops\ner\n\nno stamp\n");
        let (text, _) = shown(sample(), Wish { timestamps: true, ..Wish::default() }).await;
        assert_eq!(
            text,
            "2026-11-22T15:00:00.000000001Z one\n2026-11-22T15:00:01.000000000Z long\
             2026-11-22T15:00:02.000000000Z oops\ner\n2026-11-22T15:00:03.000000000Z \nno stamp\n"
        );
    }

    #[tokio::test]
    async fn one_stream_alone_is_whole() {
        let (text, _) = shown(sample(), Wish { streams: Which::Stdout, ..Wish::default() }).await;
        assert_eq!(text, "one\nlonger\n\nno stamp\n");
        let (text, _) = shown(sample(), Wish { streams: Which::Stderr, ..Wish::default() }).await;
        assert_eq!(text, "oops\n");
    }

    #[tokio::test]
    async fn the_limit_cuts_in_the_middle() {
        for limit in 1..12 {
            let (text, _) = shown(sample(), Wish { limit: Some(limit), ..Wish::default() }).await;
            assert_eq!(text, "one\nlongoops\ner\n"[..limit as usize]);
        }
        // And ends a log that is being followed.
        let endless = futures::stream::repeat_with(|| out("2026-11-22T15:00:00.000000001Z y\n"));
        let wish = Wish { limit: Some(1001), ..Wish::default() };
        let total: usize =
            cut(endless, &wish).map(|chunk| chunk.unwrap().len()).fold(0, async |a, b| a + b).await;
        assert_eq!(total, 1001);
    }

    #[tokio::test]
    async fn an_error_ends_the_log() {
        let gone = || Err(Error::NotFound("x".into()));
        let (text, error) = shown(vec![out("a\n"), gone(), out("b\n")], Wish::default()).await;
        assert_eq!((text.as_str(), error), ("a\n", Some(Error::NotFound("x".into()))));
        let (text, error) = shown(vec![gone()], Wish::default()).await;
        assert_eq!((text.as_str(), error), ("", Some(Error::NotFound("x".into()))));
    }
}
