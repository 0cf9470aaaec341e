//! The real control loops on a stage: each process has caches of its own, which show of the log what the schedule lets
//! them see, and every request of a loop is a point where anything else may happen, the end of the process included.

use super::{
    oracle::Oracle,
    server::{Actor, Obj, Server, Typed},
};
use client::{
    Cached, Informers, Queue, Store,
    stage::{self, Call, Reply, Stage},
};
use controllers::{
    context::Ctx,
    error::Result,
    node_lifecycle, pod_gc,
    run::{Controller, Next},
    scheduler::Scheduler,
    stateful_set,
    volumes::{
        self,
        directory::{Directory, Disk},
    },
};
use futures::{FutureExt, future::BoxFuture};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    coordination::v1::Lease,
    core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Waker},
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) type Shared = Arc<Mutex<Server>>;

pub(crate) fn lock(server: &Shared) -> MutexGuard<'_, Server> {
    server.lock().unwrap()
}

/// One actor's connection.
struct Connection {
    server: Shared,
    actor: Actor,
}

impl Stage for Connection {
    fn call(&self, call: Call) -> BoxFuture<'static, kube::Result<Reply>> {
        let (server, actor) = (self.server.clone(), self.actor);
        async move {
            let ticket = lock(&server).submit(actor, call);
            tokio::task::yield_now().await;
            lock(&server).deliver(ticket)
        }
        .boxed()
    }
}

/// Directories that are names.
struct Paths(Shared);

#[async_trait::async_trait]
impl Disk for Paths {
    async fn make(&self, directory: &Directory) -> Result<()> {
        lock(&self.0).oracle.directories.insert(text(directory.path()));
        Ok(())
    }
    async fn remove(&self, directory: &Directory) -> Result<()> {
        Oracle::wiped(&mut lock(&self.0), &text(directory.path()));
        Ok(())
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// The virtual wall clock.
pub(crate) struct Time(pub Shared);

impl api::clock::Clock for Time {
    fn now(&self) -> Timestamp {
        lock(&self.0).now
    }
}

/// A cache of one kind and how much of the log it shows.
struct Feed {
    kind: &'static str,
    /// Index of the next event; `None` before the first list.
    cursor: Option<usize>,
    store: Box<dyn Fed>,
}

trait Fed {
    fn event(&self, deleted: bool, object: &Obj);
    fn list(&self, objects: &[&Obj], revision: u64);
    fn close(&self);
}

impl<K: Cached + Typed> Fed for Store<K> {
    fn event(&self, deleted: bool, object: &Obj) {
        if let Some(object) = K::of(object) {
            self.feed(deleted, object.clone());
        }
    }
    fn list(&self, objects: &[&Obj], revision: u64) {
        self.feed_list(objects.iter().filter_map(|o| K::of(o)).cloned().collect(), revision);
    }
    fn close(&self) {
        Store::close(self);
    }
}

/// What a kind looked like after the first `at` events.
pub(crate) fn as_of<'a>(server: &'a Server, kind: &str, at: usize) -> Vec<&'a Obj> {
    let mut found: std::collections::BTreeMap<&str, &Obj> = std::collections::BTreeMap::new();
    for event in server.log[..at].iter().filter(|e| e.object.kind() == kind) {
        let name = event.object.meta().name.as_deref().unwrap_or_default();
        if event.deleted {
            found.remove(name);
        } else {
            found.insert(name, &event.object);
        }
    }
    found.into_values().collect()
}

/// Steps of a loop, driven by hand.
trait Loop {
    /// Goes on until it waits for the server, or has nothing to do (`false`).
    fn step(&mut self, now: Timestamp, rng: &mut fastrand::Rng, server: &Shared) -> bool;
    /// When it wants to run again by itself.
    fn due(&self) -> Option<Timestamp>;
}

type Run = BoxFuture<'static, Result<Next>>;

struct Keyed<C: Controller> {
    controller: Arc<C>,
    actor: Actor,
    queue: Queue<C::Key>,
    runs: Vec<(C::Key, Run)>,
    due: Vec<(Timestamp, C::Key)>,
}

impl<C: Controller> Keyed<C> {
    fn boxed(actor: Actor, controller: C) -> Box<dyn Loop> {
        let queue = Queue::new();
        controller.watch(&queue);
        let (runs, due) = Default::default();
        Box::new(Self { controller: Arc::new(controller), actor, queue, runs, due })
    }
}

/// After an error it is tried again so much later.
const AGAIN: SignedDuration = SignedDuration::from_millis(500);

impl<C: Controller> Loop for Keyed<C> {
    fn step(&mut self, now: Timestamp, rng: &mut fastrand::Rng, server: &Shared) -> bool {
        let due: Vec<C::Key> =
            self.due.iter().filter(|(at, _)| *at <= now).map(|(_, key)| key.clone()).collect();
        self.due.retain(|(at, _)| *at > now);
        due.into_iter().for_each(|key| self.queue.add(key));
        if self.runs.len() < C::WORKERS
            && (self.runs.is_empty() || rng.bool())
            && let Some(Some(key)) = self.queue.next().now_or_never()
        {
            if self.runs.is_empty() {
                lock(server).oracle.begin_run(self.actor);
            }
            let (controller, of) = (self.controller.clone(), key.clone());
            self.runs.push((key, async move { controller.reconcile(&of).await }.boxed()));
        }
        if self.runs.is_empty() {
            return false;
        }
        let at = rng.usize(..self.runs.len());
        let mut context = Context::from_waker(Waker::noop());
        if let std::task::Poll::Ready(result) = self.runs[at].1.as_mut().poll(&mut context) {
            let (key, _) = self.runs.swap_remove(at);
            self.queue.done(&key);
            match result {
                Ok(Next::Wait) => {}
                Ok(Next::After(wait)) => {
                    self.due.push((now + SignedDuration::try_from(wait).unwrap_or(AGAIN), key));
                }
                Err(error) => {
                    lock(server).say(|| format!("  {}: {}", C::NAME, error.chain()));
                    self.due.push((now + AGAIN, key));
                }
            }
        }
        true
    }

    fn due(&self) -> Option<Timestamp> {
        self.due.iter().map(|(at, _)| *at).min()
    }
}

struct Scheduling {
    scheduler: Arc<Scheduler>,
    run: Option<BoxFuture<'static, bool>>,
}

/// Back-offs of the scheduler's queue are shorter than this: none of them is waited for.
const AFTER_ANY_BACK_OFF: Duration = Duration::from_secs(3600);

impl Loop for Scheduling {
    fn step(&mut self, _: Timestamp, _: &mut fastrand::Rng, _: &Shared) -> bool {
        let scheduler = self.scheduler.clone();
        let run = self.run.get_or_insert_with(|| {
            async move { scheduler.turn(Instant::now() + AFTER_ANY_BACK_OFF).await }.boxed()
        });
        let mut context = Context::from_waker(Waker::noop());
        match run.as_mut().poll(&mut context) {
            std::task::Poll::Pending => true,
            std::task::Poll::Ready(worked) => {
                self.run = None;
                worked
            }
        }
    }
    fn due(&self) -> Option<Timestamp> {
        None
    }
}

/// A process of one or two loops with caches of their own.
pub(crate) struct Process {
    pub(crate) actor: Actor,
    server: Shared,
    stage: Arc<dyn Stage>,
    ctx: Arc<Ctx>,
    feeds: Vec<Feed>,
    /// Made once the caches are filled, as `controllers::run` waits for them too.
    loops: Vec<Box<dyn Loop>>,
}

impl Process {
    /// Must be called within a tokio runtime; nothing of it is ever driven by that.
    pub(crate) fn start(actor: Actor, server: &Shared, client: &kube::Client) -> Self {
        let token = CancellationToken::new();
        let ctx = Arc::new(Ctx {
            client: client.clone(),
            informers: Informers::new(client.clone(), token.clone()),
            clock: Arc::new(Time(server.clone())),
            config: controllers::Config {
                volumes_dir: "/volumes".into(),
                node_monitor_grace_period: Duration::from_secs(super::oracle::GRACE as u64),
                ..controllers::Config::default()
            },
            metrics: Arc::default(),
            tracker: TaskTracker::new(),
            token,
        });
        if actor == Actor::Nodes {
            lock(server).oracle.nodes_anew();
        }
        let stage: Arc<dyn Stage> = Arc::new(Connection { server: server.clone(), actor });
        let mut process =
            Self { actor, server: server.clone(), stage, ctx, feeds: Vec::new(), loops: Vec::new() };
        process.follow::<Pod>();
        match actor {
            Actor::StatefulSets => {
                process.follow::<StatefulSet>();
                process.follow::<ControllerRevision>();
                process.follow::<PersistentVolumeClaim>();
            }
            Actor::Scheduler => {
                process.follow::<Node>();
                process.follow::<Namespace>();
                process.follow::<PersistentVolumeClaim>();
                process.follow::<PersistentVolume>();
                process.follow::<StorageClass>();
            }
            Actor::Nodes => {
                process.follow::<Node>();
                process.follow::<Lease>();
            }
            Actor::PodGarbage => process.follow::<Node>(),
            Actor::Volumes => {
                process.follow::<PersistentVolumeClaim>();
                process.follow::<PersistentVolume>();
                process.follow::<StorageClass>();
            }
        }
        process
    }

    fn follow<K: Cached + Typed>(&mut self) {
        let store = self.ctx.informers.store::<K>();
        self.feeds.push(Feed { kind: K::KIND, cursor: None, store: Box::new(store) });
    }

    fn begin(&mut self) {
        let (ctx, actor) = (self.ctx.clone(), self.actor);
        let disk = || Arc::new(Paths(self.server.clone()));
        self.loops = match actor {
            Actor::StatefulSets => vec![Keyed::boxed(actor, stateful_set::StatefulSets::new(ctx))],
            Actor::Scheduler => {
                let scheduler = Arc::new(Scheduler::new(ctx));
                scheduler.watch();
                vec![Box::new(Scheduling { scheduler, run: None })]
            }
            Actor::Nodes => {
                let shared = node_lifecycle::Shared::new(&ctx);
                vec![
                    Keyed::boxed(actor, node_lifecycle::Nodes::new(ctx.clone(), shared.clone())),
                    Keyed::boxed(actor, node_lifecycle::Evictions::new(ctx, shared)),
                ]
            }
            Actor::PodGarbage => vec![Keyed::boxed(actor, pod_gc::PodGc::new(ctx))],
            Actor::Volumes => vec![
                Keyed::boxed(actor, volumes::Claims::new(ctx.clone()).with_disk(disk())),
                Keyed::boxed(actor, volumes::Volumes::new(ctx).with_disk(disk())),
            ],
        };
    }

    /// Shows a cache some more of the log: up to `most` events of all kinds. A cache that has shown nothing yet lists, up
    /// to `stale` events in the past. `true` if there was anything to show.
    pub(crate) fn watch(&mut self, feed: usize, most: usize, stale: usize) -> bool {
        let server = self.server.clone();
        let feed = &mut self.feeds[feed];
        let newest = lock(&server).log.len();
        if feed.cursor == Some(newest) {
            return false;
        }
        let (mut shown, mut listed) = (Vec::new(), None);
        match feed.cursor {
            None => {
                let at = newest.saturating_sub(stale);
                feed.cursor = Some(at);
                listed = Some(lock(&server).revision_at(at));
                shown.extend(as_of(&lock(&server), feed.kind, at).into_iter().map(|o| (false, o.clone())));
            }
            Some(from) => {
                let to = newest.min(from.saturating_add(most));
                feed.cursor = Some(to);
                let server = lock(&server);
                let events = server.log[from..to].iter().filter(|e| e.object.kind() == feed.kind);
                shown.extend(events.map(|e| (e.deleted, e.object.clone())));
            }
        }
        if self.actor == Actor::Nodes && feed.kind == "Node" {
            let seen = feed.cursor.unwrap_or(0);
            let mut server = lock(&server);
            server.oracle.nodes_seen = server.oracle.nodes_seen.max(seen);
        }
        // Callbacks read the clock, which is the server's.
        if let Some(revision) = listed {
            feed.store.list(&shown.iter().map(|(_, o)| o).collect::<Vec<_>>(), revision);
        } else {
            shown.iter().for_each(|(deleted, object)| feed.store.event(*deleted, object));
        }
        if self.loops.is_empty() && self.feeds.iter().all(|f| f.cursor.is_some()) {
            let stage = self.stage.clone();
            stage::on(&stage, || self.begin());
        }
        listed.is_some() || !shown.is_empty()
    }

    pub(crate) fn watch_any(&mut self, rng: &mut fastrand::Rng) {
        let (feed, most) = (rng.usize(..self.feeds.len()), 1 << rng.u8(..6));
        let stale = if rng.u8(..3) == 0 { rng.usize(..60) } else { 0 };
        self.watch(feed, most, stale);
    }

    /// Shows its cache of one kind all there is.
    pub(crate) fn show(&mut self, kind: &str) {
        if let Some(feed) = self.feeds.iter().position(|f| f.kind == kind) {
            self.watch(feed, usize::MAX, 0);
        }
    }

    /// Lists everything as it is, but one kind as it was.
    pub(crate) fn begin_with(&mut self, kind: &str, stale: usize) {
        for feed in 0..self.feeds.len() {
            let stale = if self.feeds[feed].kind == kind { stale } else { 0 };
            self.watch(feed, usize::MAX, stale);
        }
    }

    pub(crate) fn catch_up(&mut self) -> bool {
        let shown = (0..self.feeds.len()).map(|feed| self.watch(feed, usize::MAX, 0));
        shown.fold(false, |any, one| any | one)
    }

    /// A broken watch begins again a little in the past: events are repeated.
    pub(crate) fn repeat(&mut self, rng: &mut fastrand::Rng) {
        let feed = rng.usize(..self.feeds.len());
        if let Some(cursor) = &mut self.feeds[feed].cursor {
            *cursor = cursor.saturating_sub(rng.usize(..8));
        }
    }

    /// The watch of the leases does not lag: what the node controller hears is when it was said.
    pub(crate) fn hear(&mut self) {
        if let Some(feed) = self.feeds.iter().position(|f| f.kind == "Lease" && f.cursor.is_some()) {
            self.watch(feed, usize::MAX, 0);
        }
    }

    /// One step of one loop; `false` if there was nothing to do.
    pub(crate) fn step(&mut self, rng: &mut fastrand::Rng) -> bool {
        if self.loops.is_empty() {
            return false;
        }
        let first = rng.usize(..self.loops.len());
        let (now, server) = (lock(&self.server).now, self.server.clone());
        let loops = &mut self.loops;
        let count = loops.len();
        stage::on(&self.stage, || (0..count).any(|n| loops[(first + n) % count].step(now, rng, &server)))
    }

    pub(crate) fn due(&self) -> Option<Timestamp> {
        self.loops.iter().filter_map(|l| l.due()).min()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // First the runs, so that what they were asking becomes late.
        self.loops.clear();
        self.feeds.iter().for_each(|f| f.store.close());
        self.ctx.token.cancel();
    }
}
