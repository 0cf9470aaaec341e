//! One schedule: a set of a few pods, three nodes, five processes, people and bad luck, all by one seed.

use super::{
    node::{BAD, BEAT, Kubelet, MAIN, Machine},
    oracle::{GRACE, SET, TOLERATION, uid},
    process::{Process, Shared, lock},
    server::{Actor, NS, Promise, Server, Typed},
};
use controllers::{
    node_lifecycle::monitor,
    stateful_set::{identity, status},
    volumes::binding,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Taint},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{DeleteParams, Preconditions};
use serde_json::{Value, json};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    sync::{Arc, Mutex},
};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const PROCESSES: [Actor; 5] =
    [Actor::StatefulSets, Actor::Scheduler, Actor::Nodes, Actor::PodGarbage, Actor::Volumes];
/// Volumes made by people, for schedules without a provisioner.
const STATIC_VOLUMES: usize = 12;
/// Steps until the faults end. One is a request, an event, an operation, or a burst of them.
const STEPS: usize = 160;
/// In so many rounds of quiet, each some seconds apart, it must have come to rest.
const ROUNDS: usize = 120;
/// In a long wait the node controller looks every so many seconds, so that it does not take itself for asleep.
const TURN: i64 = 4;
/// Most steps of one process or kubelet in a round or burst: more means that it spins.
const BURST: usize = 400;

pub(crate) struct World {
    rng: fastrand::Rng,
    server: Shared,
    client: kube::Client,
    processes: Vec<Process>,
    nodes: Vec<Kubelet>,
    temper: Temper,
}

/// What people do, by how often.
const PEOPLE: [(u32, Act); 8] = [
    (6, Act::Scale),
    (4, Act::Update),
    (4, Act::Delete),
    (4, Act::Force),
    (1, Act::DeleteClaim),
    (2, Act::DeleteNode),
    (1, Act::OutOfService),
    (1, Act::FreeDisk),
];

#[derive(Debug, Clone, Copy)]
enum Act {
    Scale,
    Update,
    Delete,
    Force,
    DeleteClaim,
    DeleteNode,
    OutOfService,
    FreeDisk,
}

/// What goes wrong, by how often.
const TROUBLES: [(u32, Trouble); 17] = [
    (5, Trouble::Crash),
    (2, Trouble::Repeat),
    (2, Trouble::Cut),
    (2, Trouble::Link),
    (2, Trouble::Return),
    (2, Trouble::KubeletEnds),
    (3, Trouble::KubeletStarts),
    (1, Trouble::Power),
    (1, Trouble::RepeatToKubelet),
    (1, Trouble::Relist),
    (1, Trouble::LongWait),
    (1, Trouble::AllSilent),
    (4, Trouble::Late),
    (2, Trouble::Takeover),
    (2, Trouble::NodeMadeAnew),
    (2, Trouble::LateTwin),
    (1, Trouble::StaleClaims),
];

#[derive(Debug, Clone, Copy)]
enum Trouble {
    Crash,
    Repeat,
    Cut,
    Link,
    Return,
    KubeletEnds,
    KubeletStarts,
    Power,
    RepeatToKubelet,
    Relist,
    LongWait,
    AllSilent,
    Late,
    Takeover,
    NodeMadeAnew,
    LateTwin,
    StaleClaims,
}

/// What a schedule is prone to. Each leaves out some things and overdoes others: together they find more than the average
/// would.
struct Temper {
    people: Vec<(u32, Act)>,
    troubles: Vec<(u32, Trouble)>,
    /// How often of four an operation of a kubelet has to wait.
    slow: u8,
    /// How often of four a process sees all there is before it goes on.
    fresh: u8,
    /// Containers end only when their time is up.
    stubborn: bool,
}

impl Temper {
    fn of(rng: &mut fastrand::Rng) -> Self {
        let mut often = || rng.choice([0, 1, 1, 3]).unwrap_or(1);
        let people = PEOPLE.iter().map(|(weight, act)| (weight * often(), *act)).collect();
        let troubles = TROUBLES.iter().map(|(weight, trouble)| (weight * often(), *trouble)).collect();
        Self { people, troubles, slow: rng.u8(..4), fresh: rng.u8(..4), stubborn: rng.bool() }
    }
}

/// One of them, by weight; `None` if none has any.
fn pick<T: Copy>(rng: &mut fastrand::Rng, from: &[(u32, T)]) -> Option<T> {
    let all: u32 = from.iter().map(|(weight, _)| weight).sum();
    let mut at = if all == 0 { return None } else { rng.u32(..all) };
    from.iter()
        .find(|(weight, _)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        })
        .map(|(_, what)| *what)
}

/// What a schedule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Story {
    /// Volumes are people's, not a provisioner's.
    static_volumes: bool,
    wait_for_consumer: bool,
    ordered: bool,
    delete_when_scaled: bool,
    min_ready_seconds: i32,
    start: i32,
    replicas: i32,
}

impl Story {
    fn of(rng: &mut fastrand::Rng) -> Self {
        let static_volumes = rng.u8(..4) == 0;
        Self {
            static_volumes,
            wait_for_consumer: !static_volumes && rng.u8(..3) == 0,
            ordered: rng.u8(..4) > 0,
            delete_when_scaled: rng.u8(..3) == 0,
            min_ready_seconds: if rng.u8(..6) == 0 { 5 } else { 0 },
            start: if rng.u8(..6) == 0 { 2 } else { 0 },
            replicas: rng.i32(1..5),
        }
    }
}

/// A world at rest, to begin with.
struct Rest {
    server: Shared,
    machines: Vec<Machine>,
}

thread_local! {
    /// Worlds at rest by their story: the same whoever asks first.
    static AT_REST: RefCell<BTreeMap<Story, Rc<Rest>>> = const { RefCell::new(BTreeMap::new()) };
}

impl World {
    fn new(mut rng: fastrand::Rng, server: Server, machines: Vec<Machine>, client: &kube::Client) -> Self {
        let server = Arc::new(Mutex::new(server));
        let nodes =
            NODES.iter().zip(machines).map(|(node, machine)| Kubelet::new(node, &server, machine)).collect();
        let processes = PROCESSES.iter().map(|actor| Process::start(*actor, &server, client)).collect();
        let temper = Temper::of(&mut rng);
        Self { rng, server, client: client.clone(), processes, nodes, temper }
    }

    fn empty(story: Story, mut rng: fastrand::Rng, broken: Option<Promise>, client: &kube::Client) -> Self {
        let mut server = Server::new(Timestamp::from_second(1_800_000_000).unwrap(), rng.fork(), broken);
        populate(&mut server, story);
        let mut world = Self::new(rng, server, vec![Machine::default(); NODES.len()], client);
        world.nodes.iter_mut().for_each(Kubelet::beat);
        world
    }

    /// The world of a seed, at its beginning.
    pub(crate) fn of_seed(
        seed: u64,
        broken: Option<Promise>,
        client: &kube::Client,
        listen: bool,
    ) -> Result<Self, String> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let story = Story::of(&mut rng);
        let world = if rng.u8(..4) == 0 {
            Self::empty(story, rng, broken, client)
        } else {
            let rest = Self::at_rest_of(story, broken, client)?;
            let rest_of = lock(&rest.server);
            let mut server = Server::new(rest_of.now, rng.fork(), broken);
            server.resume(&rest_of);
            Self::new(rng, server, rest.machines.clone(), client)
        };
        lock(&world.server).oracle.history = listen.then(Vec::new);
        world.say(|| format!("{story:?}"));
        Ok(world)
    }

    fn at_rest_of(story: Story, broken: Option<Promise>, client: &kube::Client) -> Result<Rc<Rest>, String> {
        if let Some(rest) = AT_REST.with_borrow(|all| all.get(&story).cloned()) {
            return Ok(rest);
        }
        let mut world = Self::empty(story, fastrand::Rng::with_seed(0), broken, client);
        lock(&world.server).faults = false;
        world.settle(ROUNDS)?;
        let machines = world.nodes.iter_mut().map(|n| std::mem::take(&mut n.machine)).collect();
        let rest = Rc::new(Rest { server: world.server.clone(), machines });
        AT_REST.with_borrow_mut(|all| all.insert(story, rest.clone()));
        Ok(rest)
    }

    fn failed(&self) -> Result<(), String> {
        lock(&self.server).oracle.violation.clone().map_or(Ok(()), Err)
    }

    pub(crate) fn history(&self) -> Vec<String> {
        lock(&self.server).oracle.history.clone().unwrap_or_default()
    }

    pub(crate) fn run(&mut self) -> Result<(), String> {
        let (slow, stubborn) = (self.temper.slow, self.temper.stubborn);
        self.nodes.iter_mut().for_each(|n| (n.slow, n.stubborn) = (slow, stubborn));
        for _ in 0..STEPS {
            self.step();
            self.failed()?;
        }
        self.heal();
        self.settle(ROUNDS)?;
        self.at_rest()
    }

    fn say(&self, what: impl FnOnce() -> String) {
        lock(&self.server).say(what);
    }

    // Steps.

    fn step(&mut self) {
        match self.rng.u8(..100) {
            0..30 => self.some_kubelet(),
            30..58 => self.some_process(),
            58..72 => {
                let at = self.rng.usize(..self.processes.len());
                self.processes[at].watch_any(&mut self.rng);
            }
            72..78 => {
                let seconds = self.rng.i64(1..=25);
                self.advance(SignedDuration::from_secs(seconds));
            }
            78..86 => {
                let at = self.rng.usize(..self.nodes.len());
                match self.rng.u8(..8) {
                    0 => self.nodes[at].fail(&mut self.rng),
                    1 => self.nodes[at].flip(&mut self.rng, false),
                    _ => self.nodes[at].flip(&mut self.rng, true),
                }
            }
            86..93 => self.person(),
            _ => self.trouble(),
        }
    }

    fn some_kubelet(&mut self) {
        let at = self.rng.usize(..self.nodes.len());
        let node = &mut self.nodes[at];
        if self.rng.bool() {
            let stale = if self.rng.u8(..3) == 0 { self.rng.usize(..60) } else { 0 };
            node.watch(1 << self.rng.u8(..7), stale);
        }
        let most = if self.rng.bool() { 1 } else { self.rng.usize(1..30) };
        for _ in 0..most {
            if !node.step(&mut self.rng) {
                break;
            }
        }
    }

    fn some_process(&mut self) {
        let at = match self.rng.u8(..10) {
            0..4 => 0,
            other => usize::from(other) % self.processes.len(),
        };
        let process = &mut self.processes[at];
        if self.rng.u8(..4) < self.temper.fresh {
            process.catch_up();
        }
        let most = if self.rng.u8(..3) > 0 { self.rng.usize(1..40) } else { 1 };
        for _ in 0..most {
            if !process.step(&mut self.rng) {
                break;
            }
        }
    }

    /// Time passes, and kubelets beat in it.
    fn advance(&mut self, by: SignedDuration) {
        let mut left = by;
        while left > SignedDuration::ZERO {
            let part = left.min(BEAT);
            left -= part;
            lock(&self.server).now += part;
            self.nodes.iter_mut().for_each(Kubelet::beat);
            self.processes.iter_mut().for_each(Process::hear);
        }
    }

    /// Long enough for a silent node to be given up, with everybody else at work.
    fn long_wait(&mut self) {
        self.say(|| "a long wait".into());
        for _ in 0..(GRACE + TOLERATION + 20) / TURN {
            self.advance(SignedDuration::from_secs(TURN));
            // Timers of others run out while their caches lag.
            let prompt = self.rng.u8(..4) == 0;
            for process in &mut self.processes {
                match process.actor {
                    Actor::Nodes => drop(process.catch_up()),
                    Actor::PodGarbage if prompt => {}
                    _ => continue,
                }
                for _ in 0..BURST {
                    if !process.step(&mut self.rng) {
                        break;
                    }
                }
            }
        }
    }

    // Plots: what chance alone would bring together too rarely.

    /// Everybody but one node goes about their work for a while.
    fn others_work(&mut self, but: &str, become_ready: bool) {
        for _ in 0..8 {
            for process in &mut self.processes {
                process.catch_up();
                for _ in 0..BURST {
                    if !process.step(&mut self.rng) {
                        break;
                    }
                    process.catch_up();
                }
            }
            for node in self.nodes.iter_mut().filter(|n| n.node != but) {
                node.watch(usize::MAX, 0);
                for _ in 0..BURST {
                    if !node.step(&mut self.rng) {
                        break;
                    }
                }
                if become_ready {
                    node.flip(&mut self.rng, true);
                }
            }
            if self.rng.bool() {
                self.advance(SignedDuration::from_secs(2));
            }
        }
    }

    /// A pod is taken away by force from a node that is cut off, and comes up elsewhere; then the node is back, and knows
    /// nothing or all of it at once.
    fn takeover(&mut self, at: usize) {
        let node = self.nodes[at].node.clone();
        let pods: Vec<Arc<Pod>> = {
            let server = lock(&self.server);
            server.all::<Pod>().filter(|p| api::pod::node_name(p) == Some(node.as_str())).cloned().collect()
        };
        let Some(pod) = self.rng.choice(&pods) else { return };
        self.say(|| format!("takeover of {}", uid(pod)));
        // Sometimes it is about to say that it is ready.
        let about_to_speak = self.rng.bool();
        if about_to_speak {
            self.nodes[at].all_unready();
            for _ in 0..BURST {
                if !self.nodes[at].step(&mut self.rng) {
                    break;
                }
            }
        }
        let of = |grace| DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
        if self.rng.bool() {
            let _ = lock(&self.server).delete("Pod", super::oracle::name(pod), &of(None));
            self.nodes[at].watch(usize::MAX, 0);
            let most = self.rng.usize(..16);
            for _ in 0..most {
                self.nodes[at].step(&mut self.rng);
            }
            let seconds = self.rng.i64(0..12);
            self.advance(SignedDuration::from_secs(seconds));
        }
        self.cut(at);
        if about_to_speak {
            self.nodes[at].all_ready(&BTreeSet::new());
            for _ in 0..4 {
                self.nodes[at].step(&mut self.rng);
            }
        }
        if self.rng.bool() {
            self.long_wait();
        }
        {
            let mut server = lock(&self.server);
            let same = server.get::<Pod>(super::oracle::name(pod)).is_some_and(|p| uid(p) == uid(pod));
            if same {
                server.oracle.released.insert(uid(pod).to_owned());
                let _ = server.delete("Pod", super::oracle::name(pod), &of(Some(0)));
            }
        }
        self.others_work(&node, !about_to_speak);
        if self.rng.u8(..3) == 0 {
            self.link(at);
        } else {
            self.say(|| format!("{node}: linked again, as it was"));
            self.back_in_service(at);
            self.nodes[at].linked = true;
            if self.rng.bool() {
                self.nodes[at].watch(usize::MAX, 0);
            }
        }
        let most = self.rng.usize(..24);
        for _ in 0..most {
            self.nodes[at].step(&mut self.rng);
        }
        self.advance(SignedDuration::from_secs(1));
        self.processes[0].catch_up();
        self.burst(0);
    }

    /// A node is deleted and registers anew, while whoever removes what nobody will finish looks at an old cache.
    fn node_made_anew(&mut self, at: usize) {
        let node = self.nodes[at].node.clone();
        self.cut(at);
        {
            let mut server = lock(&self.server);
            server.say(|| format!("person: delete node {node}"));
            server.oracle.given_up.insert(node.clone());
            let _ = server.delete("Node", &node, &DeleteParams::default());
        }
        let garbage = self.processes.iter().position(|p| p.actor == Actor::PodGarbage).unwrap_or(0);
        self.processes[garbage].catch_up();
        self.burst(garbage);
        if self.rng.bool() {
            return self.late_garbage(garbage, &node);
        }
        self.link(at);
        self.nodes[at].watch(usize::MAX, 0);
        for _ in 0..BURST {
            if !self.nodes[at].step(&mut self.rng) {
                break;
            }
        }
        for _ in 0..12 {
            self.advance(SignedDuration::from_secs(TURN));
            self.burst(garbage);
        }
    }

    /// What removes the pods of a lost node ends in the middle of it; what it had asked for comes when others are in place.
    fn late_garbage(&mut self, garbage: usize, node: &str) {
        for _ in 0..12 {
            self.advance(SignedDuration::from_secs(TURN));
            while self.processes[garbage].step(&mut self.rng) {
                if lock(&self.server).is_writing(Actor::PodGarbage) && self.rng.u8(..4) == 0 {
                    self.crash(garbage, true);
                    self.others_work(node, true);
                    return lock(&self.server).deliver_late();
                }
            }
        }
    }

    fn burst(&mut self, at: usize) {
        for _ in 0..BURST {
            if !self.processes[at].step(&mut self.rng) {
                break;
            }
        }
    }

    /// A process ends when it has just sent something. Its successor does the same work, and more; then that arrives.
    fn late_twin(&mut self) {
        if self.rng.bool() {
            let image = self.rng.choice(["v0", "v1", "v2"]).unwrap();
            update(&mut lock(&self.server), image);
        } else {
            self.person();
        }
        let at = if self.rng.bool() { 0 } else { self.rng.usize(..self.processes.len()) };
        let actor = self.processes[at].actor;
        self.processes[at].catch_up();
        for _ in 0..60 {
            if lock(&self.server).is_writing(actor) && self.rng.u8(..3) == 0 {
                break;
            }
            if !self.processes[at].step(&mut self.rng) {
                return;
            }
        }
        self.crash(at, true);
        let only = self.rng.choice(NODES).unwrap();
        let cordon = actor == Actor::Scheduler;
        if cordon {
            self.cordon_all_but(Some(only));
        }
        self.others_work("", true);
        if cordon {
            self.cordon_all_but(None);
        }
        lock(&self.server).deliver_late();
    }

    fn cordon_all_but(&mut self, only: Option<&str>) {
        for node in NODES {
            let closed = only.is_some_and(|only| only != node);
            let change = |n: &mut Node| n.spec.get_or_insert_default().unschedulable = Some(closed);
            lock(&self.server).change::<Node>(node, change);
        }
    }

    /// The volume controllers start with an old list of claims and a new one of volumes.
    fn stale_claims(&mut self) {
        let at = self.processes.iter().position(|p| p.actor == Actor::Volumes).unwrap_or(0);
        self.crash(at, false);
        let stale = self.rng.usize(..120);
        self.processes[at].begin_with("PersistentVolumeClaim", stale);
        self.burst(at);
    }

    fn person(&mut self) {
        let mut server = lock(&self.server);
        let pods: Vec<Arc<Pod>> = server.all::<Pod>().cloned().collect();
        let pod = self.rng.choice(&pods);
        let Some(act) = pick(&mut self.rng, &self.temper.people) else { return };
        let by_uid = |pod: &Pod, grace: Option<u32>| DeleteParams {
            grace_period_seconds: grace,
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match (act, pod) {
            (Act::Scale, _) => {
                let replicas = self.rng.i32(0..5);
                server.say(|| format!("person: scale to {replicas}"));
                server.change::<StatefulSet>(SET, |set| {
                    set.spec.get_or_insert_default().replicas = Some(replicas);
                    *set.metadata.generation.get_or_insert(0) += 1;
                });
                let deletes = identity::retention(server.get::<StatefulSet>(SET).unwrap()).delete_when_scaled;
                if deletes {
                    let end = identity::start(server.get::<StatefulSet>(SET).unwrap()) + replicas;
                    let let_go: Vec<String> = server
                        .all::<PersistentVolumeClaim>()
                        .filter(|c| c.metadata.name.as_deref().and_then(api::pod::ordinal) >= Some(end))
                        .filter_map(|c| c.metadata.uid.clone())
                        .collect();
                    server.oracle.scaled_claims.extend(let_go);
                }
            }
            (Act::Update, _) => {
                let image = self.rng.choice(["v0", "v1", "v2", BAD]).unwrap();
                server.say(|| format!("person: update to {image}"));
                update(&mut server, image);
            }
            (Act::Delete, Some(pod)) => {
                let grace = self.rng.choice([None, None, Some(1)]).unwrap();
                server.say(|| format!("person: delete {}", uid(pod)));
                let _ = server.delete("Pod", super::oracle::name(pod), &by_uid(pod, grace));
            }
            (Act::Force, Some(pod)) => {
                server.say(|| format!("person: delete {} --force", uid(pod)));
                server.oracle.released.insert(uid(pod).to_owned());
                let _ = server.delete("Pod", super::oracle::name(pod), &by_uid(pod, Some(0)));
            }
            (Act::DeleteClaim, _) => {
                let claims: Vec<ObjectMeta> =
                    server.all::<PersistentVolumeClaim>().map(|c| c.metadata.clone()).collect();
                if let Some(ObjectMeta { name: Some(name), uid: Some(uid), .. }) = self.rng.choice(&claims) {
                    server.say(|| format!("person: delete claim {name}"));
                    server.oracle.deleted_claims.insert(uid.clone());
                    let _ = server.delete("PersistentVolumeClaim", name, &DeleteParams::default());
                }
            }
            (Act::DeleteNode, _) => {
                let gone: Vec<&Kubelet> = self.nodes.iter().filter(|n| !n.up || !n.linked).collect();
                if let Some(node) = self.rng.choice(gone) {
                    server.say(|| format!("person: delete node {}", node.node));
                    server.oracle.given_up.insert(node.node.clone());
                    let _ = server.delete("Node", &node.node, &DeleteParams::default());
                }
            }
            (Act::OutOfService, _) => {
                let gone: Vec<&Kubelet> = self.nodes.iter().filter(|n| !n.up || !n.linked).collect();
                if let Some(node) = self.rng.choice(gone) {
                    server.say(|| format!("person: {} is out of service", node.node));
                    server.oracle.given_up.insert(node.node.clone());
                    server.change::<Node>(&node.node, |node| {
                        let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
                        taints.retain(|t| t.key != monitor::OUT_OF_SERVICE);
                        taints.push(Taint {
                            key: monitor::OUT_OF_SERVICE.into(),
                            effect: "NoExecute".into(),
                            ..Taint::default()
                        });
                    });
                }
            }
            (Act::FreeDisk, _) => free_disk(&mut server, &mut self.rng),
            (Act::Delete | Act::Force, None) => {}
        }
    }

    fn trouble(&mut self) {
        let (at, process) = (self.rng.usize(..self.nodes.len()), self.rng.usize(..self.processes.len()));
        let name = self.nodes[at].node.clone();
        match pick(&mut self.rng, &self.temper.troubles) {
            Some(Trouble::Crash) => {
                // Best in the middle of something.
                let busy = lock(&self.server).busy();
                let at = self.processes.iter().position(|p| Some(p.actor) == busy);
                self.crash(at.unwrap_or(process), false);
            }
            Some(Trouble::Repeat) => self.processes[process].repeat(&mut self.rng),
            Some(Trouble::Cut) => {
                let busy = self.nodes.iter().position(|n| n.linked && n.is_speaking());
                self.cut(busy.unwrap_or(at));
            }
            Some(Trouble::Link) => {
                self.say(|| format!("{name}: linked again, as it was"));
                self.back_in_service(at);
                self.nodes[at].linked = true;
            }
            Some(Trouble::Return) => self.link(at),
            Some(Trouble::KubeletEnds) => {
                self.say(|| format!("{name}: kubelet ends"));
                self.nodes[at].crash(&mut self.rng);
            }
            Some(Trouble::KubeletStarts) => self.up(at),
            Some(Trouble::Power) => {
                self.say(|| format!("{name}: loses power"));
                self.nodes[at].kill(&mut self.rng);
            }
            Some(Trouble::RepeatToKubelet) => self.nodes[at].repeat(&mut self.rng),
            Some(Trouble::Relist) => self.nodes[at].relist(),
            Some(Trouble::LongWait) => self.long_wait(),
            Some(Trouble::AllSilent) => {
                (0..self.nodes.len()).for_each(|at| self.cut(at));
                self.long_wait();
                self.link(at);
            }
            Some(Trouble::Late) => lock(&self.server).deliver_late(),
            Some(Trouble::Takeover) => self.takeover(at),
            Some(Trouble::NodeMadeAnew) => self.node_made_anew(at),
            Some(Trouble::LateTwin) => self.late_twin(),
            Some(Trouble::StaleClaims) => self.stale_claims(),
            None => {}
        }
        self.collect_garbage();
    }

    fn cut(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        lock(&self.server).say(|| format!("{}: cut off", node.node));
        node.linked = false;
    }

    fn crash(&mut self, at: usize, surely_late: bool) {
        let actor = self.processes[at].actor;
        self.say(|| format!("{actor:?} crashes"));
        let fresh = Process::start(actor, &self.server, &self.client);
        drop(std::mem::replace(&mut self.processes[at], fresh));
        lock(&self.server).crashed(actor, surely_late);
    }

    fn up(&mut self, at: usize) {
        if !self.nodes[at].up {
            let name = self.nodes[at].node.clone();
            self.say(|| format!("{name}: kubelet starts"));
            self.back_in_service(at);
            self.nodes[at].start();
        }
    }

    fn link(&mut self, at: usize) {
        if !self.nodes[at].linked {
            let name = self.nodes[at].node.clone();
            self.say(|| format!("{name}: linked again"));
            self.back_in_service(at);
            // A node that was stopped comes back with a kubelet that starts.
            self.nodes[at].crash(&mut self.rng);
            self.nodes[at].linked = true;
            self.nodes[at].start();
        }
    }

    /// A person takes the out-of-service taint away before the node comes back.
    fn back_in_service(&mut self, at: usize) {
        let mut server = lock(&self.server);
        let name = &self.nodes[at].node;
        let tainted = server.get::<Node>(name).is_some();
        if tainted {
            server.oracle.given_up.remove(name);
            server.change::<Node>(name, |node| {
                if let Some(taints) = &mut node.spec.get_or_insert_default().taints {
                    taints.retain(|t| t.key != monitor::OUT_OF_SERVICE);
                }
            });
        }
    }

    /// Claims whose owners are gone go.
    fn collect_garbage(&mut self) {
        let mut server = lock(&self.server);
        let there: BTreeSet<String> = server.objects.values().filter_map(|o| o.meta().uid.clone()).collect();
        let orphans: Vec<String> = server
            .all::<PersistentVolumeClaim>()
            .filter(|c| {
                let owners = c.metadata.owner_references.as_deref().unwrap_or_default();
                !owners.is_empty() && owners.iter().all(|o| !there.contains(&o.uid))
            })
            .filter_map(|c| c.metadata.name.clone())
            .collect();
        for claim in orphans {
            server.say(|| format!("garbage: {claim}"));
            let _ = server.delete("PersistentVolumeClaim", &claim, &DeleteParams::default());
        }
    }

    // The end.

    fn heal(&mut self) {
        self.say(|| "all is well from here".into());
        self.nodes.iter_mut().for_each(|n| n.slow = 0);
        lock(&self.server).faults = false;
        lock(&self.server).forget_late();
        for at in 0..self.nodes.len() {
            self.link(at);
            self.up(at);
        }
        update(&mut lock(&self.server), "v9");
        let missing: Vec<usize> = (0..self.nodes.len())
            .filter(|at| lock(&self.server).get::<Node>(&self.nodes[*at].node).is_none())
            .collect();
        for at in missing {
            self.nodes[at].crash(&mut self.rng);
            self.nodes[at].start();
        }
    }

    /// Everybody does their work until nobody has any.
    fn settle(&mut self, rounds: usize) -> Result<(), String> {
        let mut quiet = 0;
        for _ in 0..rounds {
            let before = lock(&self.server).revision();
            let mut worked = false;
            let wanted = wanted(lock(&self.server).get::<StatefulSet>(SET).unwrap());
            for node in &mut self.nodes {
                worked |= node.all_ready(&wanted);
                node.watch(usize::MAX, 0);
                for n in 0.. {
                    if !node.step(&mut self.rng) {
                        break;
                    }
                    worked = true;
                    if n > BURST {
                        return Err(format!("the kubelet of {} spins", node.node));
                    }
                }
                node.relist();
            }
            for process in &mut self.processes {
                process.catch_up();
                for n in 0.. {
                    if !process.step(&mut self.rng) {
                        break;
                    }
                    process.catch_up();
                    if n > BURST {
                        return Err(format!("{:?} spins", process.actor));
                    }
                }
            }
            self.collect_garbage();
            give_up_lost(&mut lock(&self.server));
            self.failed()?;
            let beats = self.advance_to_rest();
            let silent = lock(&self.server).revision() == before + beats;
            quiet = if silent && !worked { quiet + 1 } else { 0 };
            // The node controller always wants to look again; others want something.
            let wants = |p: &Process| p.actor != Actor::Nodes && p.due().is_some();
            if quiet > 1 && !self.processes.iter().any(wants) || quiet > 9 {
                return Ok(());
            }
        }
        Err(format!("no rest after {rounds} rounds"))
    }

    /// Lets some time pass; gives how many events that alone makes.
    fn advance_to_rest(&mut self) -> u64 {
        let before = lock(&self.server).revision();
        self.advance(SignedDuration::from_secs(5));
        lock(&self.server).revision() - before
    }

    /// It is as the set wants it.
    fn at_rest(&self) -> Result<(), String> {
        let server = lock(&self.server);
        let set = server.get::<StatefulSet>(SET).unwrap();
        let spec = set.spec.as_ref().unwrap();
        let wanted = wanted(set);
        let there: BTreeSet<String> =
            server.all::<Pod>().map(|p| super::oracle::name(p).to_owned()).collect();
        if wanted != there {
            return Err(format!("came to rest with {there:?} instead of {wanted:?}"));
        }
        let mut owned = BTreeMap::new();
        for volume in server.all::<PersistentVolume>() {
            let claim = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()?.uid.clone());
            let name = volume.metadata.name.clone().unwrap_or_default();
            if let Some(claim) = claim
                && let Some(other) = owned.insert(claim, name.clone())
            {
                return Err(format!("one claim holds both {other} and {name}"));
            }
        }
        let late = server.all::<Pod>().find(|p| {
            let image = p.spec.as_ref().unwrap().containers[0].image.as_deref();
            !status::is_healthy(p, 0, server.now) || image != Some("v9")
        });
        if let Some(pod) = late {
            return Err(format!(
                "{} is not healthy or not updated at rest: {:?}",
                super::oracle::name(pod),
                pod.status.as_ref().map(|s| (&s.phase, &s.conditions))
            ));
        }
        let counted = set.status.as_ref().map_or(0, |s| s.ready_replicas.unwrap_or(0));
        if counted != spec.replicas.unwrap() {
            return Err(format!("the status counts {counted} ready replicas at rest"));
        }
        drop(server);
        self.nodes.iter().find_map(Kubelet::leftovers).map_or(Ok(()), Err)
    }
}

/// Names of the pods that the set wants.
fn wanted(set: &StatefulSet) -> BTreeSet<String> {
    let (start, replicas) = (identity::start(set), set.spec.as_ref().unwrap().replicas.unwrap());
    (start..start + replicas).map(|o| identity::pod_name(set, o)).collect()
}

fn update(server: &mut Server, image: &str) {
    server.change::<StatefulSet>(SET, |set| {
        let spec = set.spec.get_or_insert_default();
        spec.template.spec.get_or_insert_default().containers[0].image = Some(image.to_owned());
        *set.metadata.generation.get_or_insert(0) += 1;
    });
}

fn typed<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A person takes a volume back that a claim holds, while nothing runs on it: by mistake, or for another use.
fn free_disk(server: &mut Server, rng: &mut fastrand::Rng) {
    let on_nodes: BTreeSet<String> = server
        .all::<Pod>()
        .filter(|p| api::pod::node_name(p).is_some())
        .map(|p| format!("data-{}", super::oracle::name(p)))
        .collect();
    let idle: Vec<String> = server
        .all::<PersistentVolume>()
        .filter(|v| {
            let spec = v.spec.as_ref().unwrap();
            let path = spec.host_path.as_ref().map(|h| h.path.as_str()).unwrap_or_default();
            let claim = spec.claim_ref.as_ref().and_then(|r| r.name.as_ref());
            path.starts_with("/disks")
                && claim.is_some_and(|c| !on_nodes.contains(c))
                && !server.oracle.live.values().any(|l| l.path.as_deref() == Some(path))
        })
        .filter_map(|v| v.metadata.name.clone())
        .collect();
    if let Some(volume) = rng.choice(&idle) {
        server.say(|| format!("person: frees {volume}"));
        server.change::<PersistentVolume>(volume, |v| v.spec.get_or_insert_default().claim_ref = None);
    }
}

/// A person gives up claims whose volume was taken away, and the pods that wait for them; and surplus pods that wait for a
/// claim somebody deleted, which the set makes for wanted pods only.
fn give_up_lost(server: &mut Server) {
    let wanted = wanted(server.get::<StatefulSet>(SET).unwrap());
    let waiting: Vec<String> = server
        .all::<Pod>()
        .filter(|p| api::pod::node_name(p).is_none())
        .map(|p| super::oracle::name(p).to_owned())
        .filter(|name| !wanted.contains(name))
        .filter(|name| server.get::<PersistentVolumeClaim>(&format!("data-{name}")).is_none())
        .collect();
    for pod in waiting {
        server.say(|| format!("person: gives up {pod}"));
        let _ = server.delete("Pod", &pod, &DeleteParams::default());
    }
    let lost = |c: &&Arc<PersistentVolumeClaim>| {
        c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost")
            && c.metadata.deletion_timestamp.is_none()
    };
    let lost: Vec<ObjectMeta> =
        server.all::<PersistentVolumeClaim>().filter(lost).map(|c| c.metadata.clone()).collect();
    for claim in lost {
        let name = claim.name.unwrap_or_default();
        server.say(|| format!("person: gives up {name}"));
        server.oracle.deleted_claims.insert(claim.uid.unwrap_or_default());
        let _ = server.delete("PersistentVolumeClaim", &name, &DeleteParams::default());
        let pod = name.trim_start_matches("data-").to_owned();
        let _ = server.delete("Pod", &pod, &DeleteParams::default());
    }
}

fn populate(server: &mut Server, story: Story) {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(NS.into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let _ = server.create(namespace.wrap());
    let class: StorageClass = typed(json!({
        "metadata": {"name": "standard"},
        "provisioner": if story.static_volumes { "kubernetes.io/no-provisioner" } else { binding::PROVISIONER },
        "volumeBindingMode": if story.wait_for_consumer { "WaitForFirstConsumer" } else { "Immediate" },
        "reclaimPolicy": "Delete",
    }));
    let _ = server.create(class.wrap());
    if story.static_volumes {
        for n in 0..STATIC_VOLUMES {
            let path = format!("/disks/{n}");
            server.oracle.directories.insert(path.clone());
            let volume: PersistentVolume = typed(json!({
                "metadata": {"name": format!("disk-{n:02}")},
                "spec": {"storageClassName": "standard", "accessModes": ["ReadWriteOnce"], "hostPath": {"path": path},
                    "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Retain"},
            }));
            let _ = server.create(volume.wrap());
        }
    }
    let retention = if story.delete_when_scaled { "Delete" } else { "Retain" };
    let tolerate = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION});
    let set: StatefulSet = typed(json!({
        "metadata": {"name": SET},
        "spec": {
            "serviceName": SET,
            "replicas": story.replicas,
            "ordinals": {"start": story.start},
            "podManagementPolicy": if story.ordered { "OrderedReady" } else { "Parallel" },
            "minReadySeconds": story.min_ready_seconds,
            "revisionHistoryLimit": 2,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": retention, "whenDeleted": "Retain"},
            "selector": {"matchLabels": {"app": SET}},
            "template": {
                "metadata": {"labels": {"app": SET}},
                "spec": {
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{"name": MAIN, "image": "v0"}],
                    "tolerations": [tolerate(monitor::NOT_READY), tolerate(monitor::UNREACHABLE)],
                },
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"storageClassName": "standard",
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        },
    }));
    let _ = server.create(set.wrap());
}
