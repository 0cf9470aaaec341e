//! What must never happen, checked against the world as it truly is at every step.
//!
//! A controller may be overtaken by events between its last look and its write; nobody can help that. So a decision is
//! wrong only if it was wrong by what the API server held when the run looked, or, if it never looked, by what it
//! holds now. What is decided by a cache alone was right if it was so by what the cache showed.

mod eviction;

use super::server::{Actor, Server};
use api::pod;
use client::stage::{Call, Verb};
use controllers::{
    node_lifecycle::monitor,
    stateful_set::{identity, status},
};
pub(crate) use eviction::Look;
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Node, PersistentVolumeClaim, Pod},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A container that runs somewhere, and as whom.
#[derive(Debug, Clone)]
pub(crate) struct Live {
    pub(crate) uid: String,
    /// Name of its pod.
    pub(crate) identity: String,
    pub(crate) node: String,
    /// What it writes to.
    pub(crate) path: Option<String>,
}

/// Pods by name.
type Pods = BTreeMap<String, Arc<Pod>>;

/// What a controller's current run has looked at.
#[derive(Default, Clone)]
pub(crate) struct Run {
    set: Option<Arc<StatefulSet>>,
    pods: Option<Pods>,
    /// Claims, and whether they were going away.
    claims: BTreeMap<String, bool>,
    /// Nodes, and whether a person had given them up (when the first was told so, where two looked).
    nodes: BTreeMap<String, bool>,
}

/// What a request means, should it succeed.
pub(crate) enum Meaning {
    Fine,
    Wrong(String),
    /// The pod of this uid is given up although containers of it may run: by a person, who gave up its node.
    Releases(String),
}

#[derive(Default)]
pub(crate) struct Oracle {
    /// The first broken promise.
    pub(crate) violation: Option<String>,
    /// Everything that was said, if anybody listens.
    pub(crate) history: Option<Vec<String>>,
    runs: BTreeMap<Actor, Run>,
    /// By container id.
    pub(crate) live: BTreeMap<String, Live>,
    /// Uids of pods whose object a person took away while their containers may run.
    pub(crate) released: BTreeSet<String>,
    /// Uids of pods that have really been ready.
    pub(crate) ever_ready: BTreeSet<String>,
    /// Uids of claims that a person has deleted, or let go by scaling down under whenScaled Delete.
    pub(crate) deleted_claims: BTreeSet<String>,
    pub(crate) scaled_claims: BTreeSet<String>,
    /// Claim → (its uid, its directory), since a pod first ran on it.
    pub(crate) homes: BTreeMap<String, (String, String)>,
    /// Directories that exist.
    pub(crate) directories: BTreeSet<String>,
    /// How much of the log the node controller's cache of nodes shows.
    pub(crate) nodes_seen: usize,
    /// Pods, by name, that the node controller is evicting, and what it knew when it began.
    evicting: BTreeMap<String, Look>,
    /// When each node renewed its lease.
    pub(crate) beats: BTreeMap<String, Vec<Timestamp>>,
}

pub(crate) const SET: &str = "web";
/// `tolerationSeconds` of the pods.
pub(crate) const TOLERATION: i64 = 30;
/// After this a silent node counts as lost.
pub(crate) const GRACE: i64 = 40;

impl Oracle {
    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(history) = &mut self.history {
            history.push(what());
        }
    }

    /// Begins with the facts of a world that has come to rest.
    pub(crate) fn resume(&mut self, rest: &Self) {
        self.live.clone_from(&rest.live);
        self.ever_ready.clone_from(&rest.ever_ready);
        self.homes.clone_from(&rest.homes);
        self.directories.clone_from(&rest.directories);
        self.beats.clone_from(&rest.beats);
    }

    pub(crate) fn violated(&mut self, what: String) {
        self.say(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    /// What the actor's run has looked at; and puts another in its place.
    pub(crate) fn swap_run(&mut self, actor: Actor, run: Run) -> Run {
        self.runs.insert(actor, run).unwrap_or_default()
    }

    pub(crate) fn run(&self, actor: Actor) -> Run {
        self.runs.get(&actor).cloned().unwrap_or_default()
    }

    /// A controller starts anew: it has looked at nothing.
    pub(crate) fn begin_run(&mut self, actor: Actor) {
        self.runs.remove(&actor);
    }

    /// Looks at a request before it is served.
    pub(crate) fn before(server: &mut Server, actor: Actor, call: &Call, looks: &[Look]) -> Meaning {
        if actor == Actor::PodGarbage
            && call.kind == "Pod"
            && matches!(call.verb, Verb::PatchStatus(_) | Verb::Delete(_))
        {
            return giving_up(server, &call.name);
        }
        Self::wrong(server, actor, call, looks).map_or(Meaning::Fine, Meaning::Wrong)
    }

    /// What would be wrong with a request.
    fn wrong(server: &mut Server, actor: Actor, call: &Call, looks: &[Look]) -> Option<String> {
        match (actor, &call.verb, call.kind) {
            (Actor::StatefulSets, Verb::Get, "StatefulSet") => {
                let set = server.get::<StatefulSet>(&call.name).cloned();
                server.oracle.runs.entry(actor).or_default().set = set;
                None
            }
            (Actor::StatefulSets, Verb::List(_), "Pod") => {
                let pods = all_pods(server);
                server.oracle.runs.entry(actor).or_default().pods = Some(pods);
                None
            }
            (Actor::StatefulSets, Verb::Get, "PersistentVolumeClaim") => {
                let goes = server.get::<PersistentVolumeClaim>(&call.name).is_some_and(|c| goes(c));
                server.oracle.runs.entry(actor).or_default().claims.insert(call.name.clone(), goes);
                None
            }
            (Actor::PodGarbage, Verb::Get, "Node") => {
                let given_up = is_given_up(server, &call.name);
                let nodes = &mut server.oracle.runs.entry(actor).or_default().nodes;
                *nodes.entry(call.name.clone()).or_default() |= given_up;
                None
            }
            (Actor::StatefulSets, Verb::Create(object), "Pod") => {
                let pod = object.downcast_ref::<Pod>().unwrap();
                if server.get::<Pod>(name(pod)).is_some() { None } else { creation(server, pod) }
            }
            (Actor::StatefulSets, Verb::Delete(_), "Pod") => deletion(server, &call.name),
            (Actor::Nodes, Verb::Delete(_), "Pod") => eviction::wrong(server, &call.name, looks),
            _ => None,
        }
    }

    /// A pod's object has left the API server.
    pub(crate) fn removed(&mut self, pod: &Pod) {
        let uid = uid(pod);
        let alive = self.live.values().find(|l| l.uid == uid).cloned();
        if let Some(live) = alive
            && !self.released.contains(uid)
        {
            let identity = live.identity;
            self.violated(format!(
                "the object of {identity} ({uid}) went while its container runs on {}",
                live.node
            ));
        }
    }

    /// A container starts.
    pub(crate) fn started(&mut self, id: &str, new: Live, claim: Option<(&str, &str)>) {
        let mut wrong = None;
        for old in self.live.values().filter(|l| l.identity == new.identity) {
            let excused = old.uid != new.uid
                && old.node != new.node
                && [old, &new].iter().any(|l| self.released.contains(&l.uid));
            if !excused {
                wrong = Some(format!(
                    "two live containers of {}: {} on {} and {} on {}",
                    new.identity, old.uid, old.node, new.uid, new.node
                ));
            }
        }
        // What is left of a pod that a person forced away is as it was.
        let claim = claim.filter(|_| !self.released.contains(&new.uid));
        if let (Some((claim, claim_uid)), Some(path)) = (claim, &new.path) {
            let home = (claim_uid.to_owned(), path.clone());
            match self.homes.get(claim) {
                // Another claim of that name, since the one before was let go; or the same, on another volume.
                Some(known) if *known != home && (known.0 == home.0 || !self.is_let_go(&known.0)) => {
                    wrong = Some(format!("{} is on {home:?} and was on {known:?}", new.identity));
                }
                _ => {}
            }
            if claim != format!("data-{}", new.identity) {
                wrong = Some(format!("{} uses claim {claim}", new.identity));
            }
            let shared = self.live.values().find(|l| l.path == new.path && l.identity != new.identity);
            if let Some(other) = shared {
                wrong = Some(format!("{} and {} share volume {path}", new.identity, other.identity));
            }
            if !self.directories.contains(path) {
                wrong = Some(format!("{} is on {path}, whose data was removed", new.identity));
            }
            self.homes.insert(claim.to_owned(), home);
        }
        self.live.insert(id.to_owned(), new);
        if let Some(wrong) = wrong {
            self.violated(wrong);
        }
    }

    fn is_let_go(&self, claim_uid: &str) -> bool {
        self.deleted_claims.contains(claim_uid) || self.scaled_claims.contains(claim_uid)
    }

    pub(crate) fn ended(&mut self, id: &str) {
        self.live.remove(id);
    }

    /// A volume's data is removed.
    pub(crate) fn wiped(server: &mut Server, path: &str) {
        let oracle = &server.oracle;
        let mut users = oracle.live.values().filter(|l| l.path.as_deref() == Some(path));
        let user = users.find(|l| !oracle.released.contains(&l.uid)).map(|l| l.identity.clone());
        let volume = path.rsplit('/').next().unwrap_or_default();
        let claim = server
            .all::<PersistentVolumeClaim>()
            .find(|c| format!("pvc-{}", c.metadata.uid.as_deref().unwrap_or_default()) == volume);
        let claim = claim.and_then(|c| c.metadata.name.clone());
        if let Some(claim) = claim {
            server.oracle.violated(format!("the data of {path} was removed while claim {claim} lives"));
        } else if let Some(user) = user {
            server.oracle.violated(format!("the data of {path} was removed while {user} runs on it"));
        }
        server.oracle.directories.remove(path);
    }
}

fn all_pods(server: &Server) -> Pods {
    server.all::<Pod>().map(|p| (name(p).to_owned(), p.clone())).collect()
}

/// The set and the pods as the run saw them, or as they are.
fn seen(server: &Server) -> Option<(Arc<StatefulSet>, Pods)> {
    let run = server.oracle.runs.get(&Actor::StatefulSets);
    let set = run.and_then(|r| r.set.clone()).or_else(|| server.get::<StatefulSet>(SET).cloned())?;
    let pods = run.and_then(|r| r.pods.clone()).unwrap_or_else(|| all_pods(server));
    Some((set, pods))
}

struct Wanted {
    ordered: bool,
    start: i32,
    end: i32,
    min_ready: i32,
    image: String,
}

fn wanted(set: &StatefulSet) -> Wanted {
    let spec = set.spec.as_ref().unwrap();
    let start = identity::start(set);
    Wanted {
        ordered: spec.pod_management_policy.as_deref() != Some("Parallel"),
        start,
        end: start + spec.replicas.unwrap_or(1),
        min_ready: spec.min_ready_seconds.unwrap_or(0),
        image: spec.template.spec.as_ref().unwrap().containers[0].image.clone().unwrap_or_default(),
    }
}

/// Whether the pod is healthy by its status, and has been so in truth.
fn healthy(server: &Server, wanted: &Wanted, pod: Option<&Arc<Pod>>) -> bool {
    pod.is_some_and(|p| {
        status::is_healthy(p, wanted.min_ready, server.now) && server.oracle.ever_ready.contains(uid(p))
    })
}

fn creation(server: &Server, new: &Pod) -> Option<String> {
    let (set, pods) = seen(server)?;
    let wanted = wanted(&set);
    let ordinal = identity::ordinal_of(&set, new)?;
    if !identity::storage_matches(&set, new, ordinal) {
        return Some(format!("{} is made for the claims of another", name(new)));
    }
    let looked_at = server.oracle.runs.get(&Actor::StatefulSets).map(|run| &run.claims);
    for claim in identity::claim_names(&set, ordinal) {
        let is = || server.get::<PersistentVolumeClaim>(&claim).is_some_and(|c| goes(c));
        let seen = looked_at.and_then(|claims| claims.get(&claim)).copied();
        if seen.unwrap_or_else(is) {
            return Some(format!("{} made on a claim that goes with its predecessor", name(new)));
        }
    }
    if !wanted.ordered {
        return None;
    }
    let down = (wanted.start..ordinal)
        .find(|o| !healthy(server, &wanted, pods.get(&identity::pod_name(&set, *o))))?;
    Some(format!("{ordinal} made although {down} is not healthy"))
}

fn deletion(server: &Server, victim: &str) -> Option<String> {
    let (set, pods) = seen(server)?;
    let wanted = wanted(&set);
    let now = server.get::<Pod>(victim)?;
    if pod::is_terminating(now) {
        return None;
    }
    let Some(then) = pods.get(victim).filter(|then| uid(then) == uid(now)) else {
        return Some(format!("{victim} ({}) deleted, which was never looked at", uid(now)));
    };
    let ordinal = identity::ordinal_of(&set, now)?;
    let others = || pods.values().filter_map(|p| Some((identity::ordinal_of(&set, p)?, p)));
    if !(wanted.start..wanted.end).contains(&ordinal) {
        if !wanted.ordered || pod::is_terminal(now) {
            return None;
        }
        if let Some((above, _)) = others().find(|(o, p)| *o > ordinal && !pod::is_terminal(p)) {
            return Some(format!("scaled down {ordinal} before {above}"));
        }
        let lower = others().filter(|(o, _)| *o < ordinal).map(|(o, _)| o).chain(wanted.start..wanted.end);
        let down = lower
            .filter(|o| *o < ordinal)
            .find(|o| !healthy(server, &wanted, pods.get(&identity::pod_name(&set, *o))))?;
        return Some(format!("scaled down {ordinal} past the unhealthy {down}"));
    }
    if pod::is_terminal(now) {
        return None;
    }
    if now.spec.as_ref()?.containers[0].image.as_deref() == Some(wanted.image.as_str()) {
        return Some(format!("{victim} deleted, which is wanted as it is"));
    }
    if !status::is_running_and_ready(now) {
        return None;
    }
    if !status::is_running_and_ready(then) {
        return Some(format!("{victim} deleted as broken, and it is not"));
    }
    let down = (wanted.start..wanted.end)
        .filter(|o| *o != ordinal)
        .find(|o| !healthy(server, &wanted, pods.get(&identity::pod_name(&set, *o))))?;
    Some(format!("updated the healthy {ordinal} while {down} is not healthy"))
}

/// Whether a claim goes away: it is marked, or belongs to an earlier pod, with which it goes.
fn goes(claim: &PersistentVolumeClaim) -> bool {
    let meta = &claim.metadata;
    meta.deletion_timestamp.is_some() || meta.owner_references.iter().flatten().any(|o| o.kind == "Pod")
}

/// A person has given up a node: its object is deleted, or it is tainted out of service and not Ready.
fn is_given_up(server: &Server, node: &str) -> bool {
    server.get::<Node>(node).is_none_or(|node| {
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
        taints.iter().any(|t| t.key == monitor::OUT_OF_SERVICE) && monitor::ready(node) != Some("True")
    })
}

/// A pod is declared ended, or removed, without its kubelet's word. That is right only if it never had a node, or if a
/// person has given that up: then it is as if forced away.
fn giving_up(server: &Server, pod: &str) -> Meaning {
    let Some(pod) = server.get::<Pod>(pod) else { return Meaning::Fine };
    let Some(node) = pod::node_name(pod) else { return Meaning::Fine };
    let run = server.oracle.runs.get(&Actor::PodGarbage);
    let told = run.and_then(|r| r.nodes.get(node)).copied();
    if told.unwrap_or_else(|| is_given_up(server, node)) {
        return Meaning::Releases(uid(pod).to_owned());
    }
    Meaning::Wrong(format!("{} ({}) given up on {node}, which nobody gave up", name(pod), uid(pod)))
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
