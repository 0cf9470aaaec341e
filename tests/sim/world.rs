//! One schedule: a set of a few pods, three nodes, five processes, people and bad luck, all by one seed.

mod end;
mod people;
mod plots;
mod story;
mod temper;
mod troubles;

use super::{
    node::{BEAT, Kubelet, Machine},
    oracle::{GRACE, TOLERATION},
    process::{Process, Shared, lock},
    server::{Actor, Promise, Server},
};
use jiff::{SignedDuration, Timestamp};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, Mutex},
};
use story::{Story, populate};
pub(crate) use temper::Focus;
use temper::{Temper, pick};

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const PROCESSES: [Actor; 5] =
    [Actor::StatefulSets, Actor::Scheduler, Actor::Nodes, Actor::PodGarbage, Actor::Volumes];
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
    fn new(
        mut rng: fastrand::Rng,
        server: Server,
        machines: Vec<Machine>,
        client: &kube::Client,
        focus: Focus,
    ) -> Self {
        let server = Arc::new(Mutex::new(server));
        let nodes =
            NODES.iter().zip(machines).map(|(node, machine)| Kubelet::new(node, &server, machine)).collect();
        let processes = PROCESSES.iter().map(|actor| Process::start(*actor, &server, client)).collect();
        let temper = Temper::of(&mut rng, focus);
        Self { rng, server, client: client.clone(), processes, nodes, temper }
    }

    fn empty(
        story: Story,
        mut rng: fastrand::Rng,
        broken: Option<Promise>,
        client: &kube::Client,
        focus: Focus,
    ) -> Self {
        let mut server = Server::new(Timestamp::from_second(1_800_000_000).unwrap(), rng.fork(), broken);
        populate(&mut server, story);
        let mut world = Self::new(rng, server, vec![Machine::default(); NODES.len()], client, focus);
        world.nodes.iter_mut().for_each(Kubelet::beat);
        world
    }

    /// The world of a seed, at its beginning.
    pub(crate) fn of_seed(
        seed: u64,
        focus: Focus,
        broken: Option<Promise>,
        client: &kube::Client,
        listen: bool,
    ) -> Result<Self, String> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut story = Story::of(&mut rng);
        focus.story(&mut story);
        let world = if rng.u8(..4) == 0 {
            Self::empty(story, rng, broken, client, focus)
        } else {
            let rest = Self::at_rest_of(story, broken, client)?;
            let rest_of = lock(&rest.server);
            let mut server = Server::new(rest_of.now, rng.fork(), broken);
            server.resume(&rest_of);
            Self::new(rng, server, rest.machines.clone(), client, focus)
        };
        lock(&world.server).oracle.history = listen.then(Vec::new);
        world.say(|| format!("{story:?}"));
        Ok(world)
    }

    fn at_rest_of(story: Story, broken: Option<Promise>, client: &kube::Client) -> Result<Rc<Rest>, String> {
        if let Some(rest) = AT_REST.with_borrow(|all| all.get(&story).cloned()) {
            return Ok(rest);
        }
        let mut world = Self::empty(story, fastrand::Rng::with_seed(0), broken, client, Focus::Everywhere);
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

    fn burst(&mut self, at: usize) {
        for _ in 0..BURST {
            if !self.processes[at].step(&mut self.rng) {
                break;
            }
        }
    }
}
