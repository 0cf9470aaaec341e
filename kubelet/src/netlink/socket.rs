//! A netlink socket to netfilter. Calls block for as long as the kernel works (milliseconds for a thousand
//! services), so callers run on a blocking thread.

use super::{
    Error,
    batch::{ACK, Batch, DUMP, Received, messages},
};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::{self, SocketAddrNetlink},
        recv, send, socket_with,
        sockopt::{
            Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
            set_socket_send_buffer_size_force, set_socket_timeout,
        },
    },
};
use std::{os::fd::OwnedFd, time::Duration};

/// A whole ruleset is one send: 10,000 services with their endpoints are some 4 MB.
const SEND_BUFFER: usize = 32 << 20;
/// Answers to a failed batch: one for each message that failed.
const RECEIVE_BUFFER: usize = 4 << 20;
/// The kernel answers within the send; this only bounds what cannot happen.
const ANSWER: Duration = Duration::from_secs(10);
/// A dump comes in packets of at most 32 KiB.
const PACKET: usize = 64 << 10;

const KIND_ERROR: u16 = 2;
const KIND_DONE: u16 = 3;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// nf_tables, as the resource of a batch.
const NF_TABLES: u16 = 10;

pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open() -> Result<Self, Error> {
        let error = |errno| Error::new("opening a netlink socket", errno);
        let flags = SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER));
        let fd = fd.map_err(error)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0)).map_err(error)?;
        // Beyond the system's limit only with CAP_NET_ADMIN, without which nothing works anyway.
        if set_socket_send_buffer_size_force(&fd, SEND_BUFFER).is_err() {
            set_socket_send_buffer_size(&fd, SEND_BUFFER).map_err(error)?;
        }
        let _best_effort = set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER);
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER)).map_err(error)?;
        Ok(Self { fd, sequence: 0, buffer: vec![0; PACKET] })
    }

    /// Does all that `body` writes, or nothing.
    pub(crate) fn transaction(
        &mut self,
        what: &'static str,
        body: impl FnOnce(&mut Batch),
    ) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.message(BATCH_BEGIN, 0, 0, NF_TABLES, |_| {});
        body(&mut batch);
        // The answer to the last message says that all were taken.
        batch.acknowledge();
        let last = batch.sequence();
        batch.message(BATCH_END, 0, 0, NF_TABLES, |_| {});
        self.exchange(what, batch, last, |_| {})
    }

    /// Does one thing.
    pub(crate) fn request(
        &mut self,
        what: &'static str,
        kind: u16,
        family: u8,
        body: impl FnOnce(&mut Batch),
    ) -> Result<(), Error> {
        self.ask(what, kind, ACK, family, body, |_| {})
    }

    /// Hands every message of a dump to `each`.
    pub(crate) fn dump(
        &mut self,
        what: &'static str,
        kind: u16,
        family: u8,
        body: impl FnOnce(&mut Batch),
        each: impl FnMut(&Received<'_>),
    ) -> Result<(), Error> {
        self.ask(what, kind, DUMP, family, body, each)
    }

    /// Asks for one object, which `each` gets.
    pub(crate) fn get(
        &mut self,
        what: &'static str,
        kind: u16,
        family: u8,
        body: impl FnOnce(&mut Batch),
        each: impl FnMut(&Received<'_>),
    ) -> Result<(), Error> {
        self.ask(what, kind, ACK, family, body, each)
    }

    fn ask(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        family: u8,
        body: impl FnOnce(&mut Batch),
        each: impl FnMut(&Received<'_>),
    ) -> Result<(), Error> {
        let mut batch = Batch::default();
        batch.message(kind, flags, family, 0, body);
        let last = batch.sequence();
        self.exchange(what, batch, last, each)
    }

    /// Sends and reads until the answer to message `last`, or until one says no.
    fn exchange(
        &mut self,
        what: &'static str,
        batch: Batch,
        last: u32,
        mut each: impl FnMut(&Received<'_>),
    ) -> Result<(), Error> {
        let error = |errno| Error::new(what, errno);
        let base = self.sequence;
        self.sequence = base.wrapping_add(batch.sequence());
        let end = self.sequence;
        let last = base.wrapping_add(last);
        let bytes = batch.finish(base).ok_or(Error::Answer("a message to the kernel is too long"))?;
        send(&self.fd, &bytes, SendFlags::empty()).map_err(error)?;
        loop {
            let (_, length) = recv(&self.fd, &mut self.buffer[..], RecvFlags::empty()).map_err(error)?;
            for message in messages(&self.buffer[..length]) {
                // Answers to an earlier batch that failed half way.
                let distance = message.sequence.wrapping_sub(base);
                if distance == 0 || distance > end.wrapping_sub(base) {
                    continue;
                }
                match message.kind {
                    KIND_ERROR | KIND_DONE => {
                        let code = message.payload.first_chunk().copied().map_or(0, i32::from_ne_bytes);
                        if code != 0 {
                            return Err(error(Errno::from_raw_os_error(code.saturating_neg())));
                        }
                        if message.sequence == last || message.kind == KIND_DONE {
                            return Ok(());
                        }
                    }
                    _ => each(&message),
                }
            }
        }
    }
}
