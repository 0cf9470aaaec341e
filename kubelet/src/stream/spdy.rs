//! A SPDY/3.1 server connection: streams that the client opens, over any byte stream.
//!
//! Flow control. The Kubernetes clients' library (moby/spdystream) neither obeys nor sends WINDOW_UPDATE, so a window
//! can bound neither direction. What bounds them is the queue of each stream: while one is full, no further
//! frame is read, and TCP holds the client back (as the real kubelet does). Clients that do obey windows get
//! their WINDOW_UPDATE as data is consumed.

mod dictionary;
mod frame;
mod headers;

use super::Gone;
use bytes::{Bytes, BytesMut};
use frame::{BadFrame, Control, GoAwayCode, Head, ResetCode};
use headers::{Deflater, Inflater};
use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter},
    sync::mpsc::{self, error::SendTimeoutError},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) use headers::Headers;

/// Streams open at a time: 128 forwarded connections.
const MAX_STREAMS: usize = 256;
/// A DATA frame may have 16 MiB; it is handed on in pieces of this size.
const CHUNK: usize = 16 << 10;
/// Pieces a stream holds for a reader that is behind: 256 KiB at most.
const STREAM_QUEUE: usize = 16;
/// Pieces that wait to be written to the connection.
const OUT_QUEUE: usize = 16;
/// Replies, pings and updates that wait; they overtake data.
const CONTROL_QUEUE: usize = 64;
/// Half of SPDY's initial window: when this much is consumed, the client is told.
const CREDIT: u32 = 32 << 10;
/// How long whoever reads a stream may leave its queue full. While it does, nothing else of the connection is read, not
/// even its end; so this is also how long a dead connection can stay unnoticed.
const STALL: Duration = Duration::from_secs(15 * 60);
/// How long the client may take to close after our GOAWAY.
const LINGER: Duration = Duration::from_secs(2);

#[derive(Debug)]
enum Out {
    Data { stream: u32, bytes: Bytes },
    Finish { stream: u32 },
    Reset { stream: u32, code: ResetCode },
    GoAway { code: GoAwayCode },
}

#[derive(Debug)]
enum ControlOut {
    Reply { stream: u32 },
    Refuse { stream: u32 },
    Ping { id: u32 },
    WindowUpdate { stream: u32, delta: u32 },
}

/// What the read loop knows of an open stream.
struct Open {
    /// Gone once the client closed its half.
    incoming: Option<mpsc::Sender<Bytes>>,
    /// We have closed ours.
    finished: bool,
    token: CancellationToken,
}

#[derive(Clone)]
struct Shared {
    streams: Arc<Mutex<HashMap<u32, Open>>>,
    out: mpsc::Sender<Out>,
    control: mpsc::Sender<ControlOut>,
    /// Cancelled when the connection ends.
    token: CancellationToken,
}

impl Shared {
    fn streams(&self) -> MutexGuard<'_, HashMap<u32, Open>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's end of an open stream.
pub(crate) struct Stream {
    pub(crate) id: u32,
    pub(crate) headers: Headers,
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
}

impl Stream {
    /// For a stream on which the client has nothing to say: what it says is dropped.
    pub(crate) fn into_outgoing(self) -> super::Outgoing {
        super::Outgoing::Spdy(self.writer)
    }
}

pub(crate) struct Reader {
    stream: u32,
    queue: mpsc::Receiver<Bytes>,
    credit: u32,
    control: mpsc::Sender<ControlOut>,
}

impl Reader {
    /// `None` when the client closed its half, or is gone.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        let bytes = self.queue.recv().await?;
        self.credit = self.credit.saturating_add(bytes.len() as u32);
        if self.credit >= CREDIT {
            let update = ControlOut::WindowUpdate { stream: self.stream, delta: self.credit };
            // A full queue is no loss: the credit goes with the next piece.
            if self.control.try_send(update).is_ok() {
                self.credit = 0;
            }
        }
        Some(bytes)
    }

    pub(crate) fn into_incoming(self) -> super::Incoming {
        Box::pin(futures::stream::unfold(self, async |mut reader| Some((reader.next().await?, reader))))
    }
}

pub(crate) struct Writer {
    stream: u32,
    out: mpsc::Sender<Out>,
    token: CancellationToken,
}

impl Writer {
    async fn put(&self, out: Out) -> Result<(), Gone> {
        tokio::select! {
            biased;
            () = self.token.cancelled() => Err(Gone),
            sent = self.out.send(out) => sent.map_err(|_| Gone),
        }
    }

    pub(crate) async fn send(&mut self, mut bytes: Bytes) -> Result<(), Gone> {
        while bytes.len() > CHUNK {
            let chunk = bytes.split_to(CHUNK);
            self.put(Out::Data { stream: self.stream, bytes: chunk }).await?;
        }
        if bytes.is_empty() { Ok(()) } else { self.put(Out::Data { stream: self.stream, bytes }).await }
    }

    /// Closes our half.
    pub(crate) async fn finish(self) {
        let _ = self.put(Out::Finish { stream: self.stream }).await;
    }

    /// Ends both halves at once.
    pub(crate) async fn reset(self) {
        let _ = self.put(Out::Reset { stream: self.stream, code: ResetCode::Cancel }).await;
    }

    /// Resolves when the client has reset the stream, or is gone.
    pub(crate) async fn given_up(&self) {
        self.token.cancelled().await;
    }
}

/// The streams as they are opened. `close` it at the end.
pub(crate) struct Connection {
    accepted: mpsc::Receiver<Stream>,
    out: mpsc::Sender<Out>,
    token: CancellationToken,
}

impl Connection {
    /// The next stream; `None` when the client is gone.
    pub(crate) async fn accept(&mut self) -> Option<Stream> {
        self.accepted.recv().await
    }

    /// Cancelled when the connection ends.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Says goodbye after what was sent; the driver returns when that is written.
    pub(crate) async fn close(self) {
        let _ = self.out.send(Out::GoAway { code: GoAwayCode::Ok }).await;
    }
}

/// Makes a connection of a byte stream. The future drives it and must be polled along with whoever uses the streams;
/// it ends when the client is gone or after `close`, never before all that was sent is written.
pub(crate) fn serve<IO>(io: IO) -> (Connection, impl Future<Output = ()> + Send)
where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let (out, out_queue) = mpsc::channel(OUT_QUEUE);
    let (control, control_queue) = mpsc::channel(CONTROL_QUEUE);
    let (accept, accepted) = mpsc::channel(1);
    let token = CancellationToken::new();
    let shared = Shared { streams: Arc::default(), out: out.clone(), control, token: token.clone() };
    let connection = Connection { accepted, out, token };
    (connection, drive(io, shared, accept, out_queue, control_queue))
}

async fn drive<IO>(
    io: IO,
    shared: Shared,
    accept: mpsc::Sender<Stream>,
    out: mpsc::Receiver<Out>,
    control: mpsc::Receiver<ControlOut>,
) where
    IO: AsyncRead + AsyncWrite + Send + 'static,
{
    let _ended = shared.token.clone().drop_guard();
    let (reading, writing) = tokio::io::split(io);
    let mut read = std::pin::pin!(read_loop(reading, shared.clone(), accept));
    let mut write = std::pin::pin!(write_loop(writing, shared.clone(), out, control));
    tokio::select! {
        result = &mut read => {
            let code = match &result {
                Ok(()) => GoAwayCode::Ok,
                Err(error) => {
                    tracing::debug!(%error, "a SPDY client broke off");
                    GoAwayCode::ProtocolError
                }
            };
            // The client is gone or not to be followed any further: nobody waits for the streams to end well.
            shared.token.cancel();
            let goodbye = async {
                tokio::select! {
                    result = &mut write => result,
                    _ = shared.out.send(Out::GoAway { code }) => write.as_mut().await,
                }
            };
            let _ = timeout(LINGER, goodbye).await;
        }
        result = &mut write => {
            if let Err(error) = result {
                tracing::debug!(%error, "writing to a SPDY client failed");
            } else {
                // Reading on until the client has closed too: closing at once could cut off what it has not read yet.
                let _ = timeout(LINGER, &mut read).await;
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] BadFrame),
    #[error("nobody took the data of a stream for {} s", STALL.as_secs())]
    Stalled,
}

/// Takes frames until the client is gone; hands data to the streams.
async fn read_loop<R>(io: R, shared: Shared, accept: mpsc::Sender<Stream>) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
{
    let mut io = BufReader::with_capacity(CHUNK, io);
    let mut inflater = Inflater::new();
    let mut newest = 0;
    let mut payload = Vec::new();
    loop {
        let mut head = [0; frame::HEAD];
        match io.read_exact(&mut head).await {
            // Clients drop the connection without a word.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        match Head::parse(head)? {
            Head::Data { stream, fin, length } => {
                let queue = shared.streams().get(&stream).and_then(|open| open.incoming.clone());
                hand_on(&mut io, length, queue.as_ref()).await?;
                if fin {
                    half_closed(&shared, stream);
                }
            }
            Head::Control { kind, flags, length } => {
                payload.resize(length, 0);
                io.read_exact(&mut payload).await?;
                match Control::parse(kind, flags, &payload, &mut inflater)? {
                    Control::Open { stream, fin, unidirectional, headers } => {
                        // Ids go up, and a client's are odd.
                        if stream <= newest || stream % 2 == 0 {
                            return Err(BadFrame::StreamId(stream).into());
                        }
                        newest = stream;
                        match open(&shared, stream, headers, fin, unidirectional) {
                            Some(opened) => {
                                let _ = shared.control.send(ControlOut::Reply { stream }).await;
                                // Nobody accepts any more when the connection is being closed.
                                let _ = accept.send(opened).await;
                            }
                            None => {
                                let _ = shared.control.send(ControlOut::Refuse { stream }).await;
                            }
                        }
                    }
                    Control::Reset { stream } => {
                        if let Some(open) = shared.streams().remove(&stream) {
                            open.token.cancel();
                        }
                    }
                    // An even id answers a ping of ours; we send none. A full queue drops it: the client asks again.
                    Control::Ping { id } if id % 2 == 1 => {
                        let _ = shared.control.try_send(ControlOut::Ping { id });
                    }
                    Control::GoAway => return Ok(()),
                    Control::Ping { .. } | Control::Other => {}
                }
            }
        }
    }
}

/// Reads `length` bytes and gives them to the stream; waits while its queue is full; drops what nobody wants.
async fn hand_on<R>(io: &mut R, length: usize, queue: Option<&mpsc::Sender<Bytes>>) -> Result<(), Broken>
where
    R: AsyncRead + Unpin,
{
    let mut left = length;
    while left > 0 {
        let mut chunk = BytesMut::zeroed(left.min(CHUNK));
        io.read_exact(&mut chunk).await?;
        left -= chunk.len();
        if let Some(queue) = queue {
            match queue.send_timeout(chunk.freeze(), STALL).await {
                Ok(()) | Err(SendTimeoutError::Closed(_)) => {}
                Err(SendTimeoutError::Timeout(_)) => return Err(Broken::Stalled),
            }
        }
    }
    Ok(())
}

fn open(shared: &Shared, id: u32, headers: Headers, fin: bool, unidirectional: bool) -> Option<Stream> {
    let mut streams = shared.streams();
    if streams.len() >= MAX_STREAMS {
        return None;
    }
    let (sender, queue) = mpsc::channel(STREAM_QUEUE);
    let token = shared.token.child_token();
    let incoming = (!fin).then_some(sender);
    streams.insert(id, Open { incoming, finished: unidirectional, token: token.clone() });
    let reader = Reader { stream: id, queue, credit: 0, control: shared.control.clone() };
    let writer = Writer { stream: id, out: shared.out.clone(), token };
    Some(Stream { id, headers, reader, writer })
}

/// The client has closed its half of the stream.
fn half_closed(shared: &Shared, stream: u32) {
    let mut streams = shared.streams();
    let Some(open) = streams.get_mut(&stream) else { return };
    open.incoming = None;
    if open.finished {
        streams.remove(&stream);
    }
}

/// We close our half. False if there is nothing to close any more.
fn finished(shared: &Shared, stream: u32) -> bool {
    let mut streams = shared.streams();
    let Some(open) = streams.get_mut(&stream) else { return false };
    if std::mem::replace(&mut open.finished, true) {
        return false;
    }
    if open.incoming.is_none() {
        streams.remove(&stream);
    }
    true
}

/// Writes what is queued until told to go away. Flushes when nothing waits.
async fn write_loop<W>(
    io: W,
    shared: Shared,
    mut out: mpsc::Receiver<Out>,
    mut control: mpsc::Receiver<ControlOut>,
) -> io::Result<()>
where
    W: AsyncWrite + Unpin,
{
    let mut io = BufWriter::with_capacity(CHUNK + 2 * frame::HEAD, io);
    let mut deflater = Deflater::new();
    let mut small = BytesMut::new();
    loop {
        if out.is_empty() && control.is_empty() {
            io.flush().await?;
        }
        small.clear();
        tokio::select! {
            biased;
            Some(next) = control.recv() => match next {
                ControlOut::Reply { stream } => frame::reply(&mut small, stream, &mut deflater),
                ControlOut::Refuse { stream } => frame::reset(&mut small, stream, ResetCode::RefusedStream),
                ControlOut::Ping { id } => frame::ping(&mut small, id),
                ControlOut::WindowUpdate { stream, delta } => frame::window_update(&mut small, stream, delta),
            },
            Some(next) = out.recv() => match next {
                Out::Data { stream, bytes } => {
                    // A stream that was reset meanwhile gets nothing more.
                    if shared.streams().contains_key(&stream) {
                        io.write_all(&frame::data_head(stream, false, bytes.len())).await?;
                        io.write_all(&bytes).await?;
                    }
                }
                Out::Finish { stream } => {
                    if finished(&shared, stream) {
                        small.extend_from_slice(&frame::data_head(stream, true, 0));
                    }
                }
                Out::Reset { stream, code } => {
                    let open = shared.streams().remove(&stream);
                    if let Some(open) = open {
                        open.token.cancel();
                        frame::reset(&mut small, stream, code);
                    }
                }
                Out::GoAway { code } => {
                    frame::go_away(&mut small, 0, code);
                    io.write_all(&small).await?;
                    io.flush().await?;
                    return io.shutdown().await;
                }
            },
        }
        io.write_all(&small).await?;
    }
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
