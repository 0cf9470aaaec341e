//! Fan-out of committed events to bounded queues; a watcher that does not keep up is cut, never waited for.

use crate::{
    error::Error,
    types::{Event, Prefix},
};
use std::{collections::HashMap, sync::Arc};
use tokio::sync::mpsc;

type Item = std::result::Result<Arc<Event>, Error>;

/// The open watches, grouped by what they cover: an event is compared once a group, not once a watcher.
#[derive(Debug)]
pub(crate) struct Watchers {
    groups: HashMap<Prefix, Vec<mpsc::Sender<Item>>>,
    queue: usize,
    /// Watches cut because they did not keep up.
    cut: u64,
}

impl Watchers {
    pub(crate) fn new(queue: usize) -> Self {
        Self { groups: HashMap::new(), queue: queue.max(1), cut: 0 }
    }

    pub(crate) fn register(&mut self, prefix: Prefix) -> mpsc::Receiver<Item> {
        // One slot more than the queue, kept free for the `TooSlow` that ends a slow watcher.
        let (sender, receiver) = mpsc::channel(self.queue + 1);
        let group = self.groups.entry(prefix).or_default();
        // A dropped watch is otherwise noticed at the next event of its prefix, which may never come.
        group.retain(|sender| !sender.is_closed());
        group.push(sender);
        receiver
    }

    /// Queues the event for everyone it concerns. The caller holds the state's lock, so order is commit order.
    pub(crate) fn publish(&mut self, event: &Arc<Event>) {
        let cut = &mut self.cut;
        self.groups.retain(|prefix, group| {
            if prefix.covers(&event.key) {
                group.retain(|sender| offer(sender, event, prefix, cut));
            }
            !group.is_empty()
        });
    }

    /// Ends every watch after what is queued.
    pub(crate) fn close(&mut self) {
        self.groups.clear();
    }

    pub(crate) fn cut(&self) -> u64 {
        self.cut
    }

    pub(crate) fn len(&self) -> usize {
        self.groups.values().flatten().filter(|sender| !sender.is_closed()).count()
    }
}

/// False when the watcher is to be dropped. Nobody else sends, so the free slots can only grow meanwhile.
fn offer(sender: &mpsc::Sender<Item>, event: &Arc<Event>, prefix: &Prefix, cut: &mut u64) -> bool {
    if sender.capacity() > 1 {
        return sender.try_send(Ok(event.clone())).is_ok();
    }
    if sender.try_send(Err(Error::TooSlow)).is_ok() {
        *cut += 1;
        tracing::debug!(prefix = prefix.as_str(), "a watcher fell too far behind and was cut");
    }
    false
}
