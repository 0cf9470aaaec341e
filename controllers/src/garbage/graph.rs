//! Who owns whom, and what follows from it: pure.
//!
//! The rules are those of Kubernetes' garbage collection: an object goes when none of its owners lives; an owner being
//! deleted in the foreground waits for the dependents that block it; an owner being orphaned first lets go of its
//! dependents.

use std::collections::{HashMap, HashSet};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";

/// Where an object is: the collection's path (`/apis/apps/v1/statefulsets`), whether it is namespaced, and its names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// Group and version, as an owner reference spells them: `apps/v1`.
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// One entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    pub api_version: String,
    pub kind: String,
    pub name: String,
    pub uid: String,
    pub blocks: bool,
}

/// An object as far as garbage collection sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub uid: String,
    pub identity: Identity,
    pub owners: Vec<Owner>,
    pub deleting: bool,
    pub finalizers: Vec<String>,
}

impl Node {
    fn waits_for_dependents(&self) -> bool {
        self.deleting && self.finalizers.iter().any(|f| f == FOREGROUND)
    }
    fn orphans_dependents(&self) -> bool {
        self.deleting && self.finalizers.iter().any(|f| f == ORPHAN)
    }
}

/// What is known about an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owned {
    /// It lives; `waiting` if it is being deleted in the foreground.
    Alive { waiting: bool },
    /// It is certainly gone: asked of the API server.
    Gone,
    /// Not in the graph; ask.
    Unknown,
}

/// What must happen to one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Nothing,
    /// These owners are not in the graph: ask the API server whether they live, then decide again.
    Ask(Vec<Owner>),
    /// Other owners live: drop the references to these.
    DropOwners(Vec<String>),
    /// No owner lives.
    Delete {
        propagation: &'static str,
    },
    /// A circle: what this object owns waits for its dependents, and it is one of those. It must no longer hold anything
    /// back; it is deleted when that is so.
    Unblock,
    /// Being deleted in the foreground and nothing blocks any more: take the finalizer away.
    FinishForeground,
    /// Being orphaned: these dependents lose their reference to it, then the finalizer goes.
    Orphan {
        dependents: Vec<String>,
    },
}

#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, HashSet<String>>,
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Takes a new state of an object; returns the UIDs to decide about again.
    pub fn apply(&mut self, node: Node) -> Vec<String> {
        let mut again = Vec::new();
        let old = self.nodes.get(&node.uid);
        let ended = node.deleting && !old.is_some_and(|o| o.deleting);
        let owners_changed = old.is_none_or(|o| o.owners != node.owners);
        let finalizers_changed = old.is_some_and(|o| o.finalizers != node.finalizers);
        if let Some(old) = self.nodes.get(&node.uid).map(|o| o.owners.clone()) {
            for owner in &old {
                self.unlink(&owner.uid, &node.uid);
                // A dependent that let go no longer holds its owner back.
                again.push(owner.uid.clone());
            }
        }
        for owner in &node.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(node.uid.clone());
        }
        if (!node.owners.is_empty() && owners_changed) || ended || finalizers_changed {
            again.push(node.uid.clone());
        }
        if node.waits_for_dependents() {
            again.extend(self.dependents_of(&node.uid).map(|d| d.uid.clone()));
        }
        self.nodes.insert(node.uid.clone(), node);
        if !owners_changed {
            // Old owners were queued only for the links' sake.
            again.retain(|uid| self.nodes.get(uid).is_some_and(|n| n.deleting || !n.owners.is_empty()));
        }
        again
    }

    /// The object is gone; returns the UIDs to decide about again: its dependents and its owners.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let mut again: Vec<String> = node.owners.iter().map(|o| o.uid.clone()).collect();
        for owner in &node.owners {
            self.unlink(&owner.uid, uid);
        }
        again.extend(self.dependents.get(uid).into_iter().flatten().cloned());
        again
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        if let Some(set) = self.dependents.get_mut(owner) {
            set.remove(dependent);
            if set.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }

    pub fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|d| self.nodes.get(d))
    }

    /// What is known about an owner of `node` from the graph alone. A reference counts only where kind and namespace
    /// agree: UIDs are unique, but a wrong reference must not be taken for a right one.
    pub fn owner_state(&self, node: &Node, owner: &Owner) -> Owned {
        match self.nodes.get(&owner.uid) {
            Some(found)
                if found.identity.kind == owner.kind
                    && found.identity.name == owner.name
                    && (found.identity.namespace.is_empty()
                        || found.identity.namespace == node.identity.namespace) =>
            {
                Owned::Alive { waiting: found.waits_for_dependents() }
            }
            _ => Owned::Unknown,
        }
    }

    /// Decides about `node` (its newest state). `gone` are owners' UIDs that the API server has denied.
    pub fn decide(&self, node: &Node, gone: &HashSet<String>) -> Action {
        if node.orphans_dependents() {
            let dependents = self.dependents_of(&node.uid).map(|d| d.uid.clone()).collect();
            return Action::Orphan { dependents };
        }
        if node.waits_for_dependents() {
            let blocked = self
                .dependents_of(&node.uid)
                .any(|dependent| dependent.owners.iter().any(|o| o.uid == node.uid && o.blocks));
            return if blocked { Action::Nothing } else { Action::FinishForeground };
        }
        if node.deleting || node.owners.is_empty() {
            return Action::Nothing;
        }
        let state = |owner: &Owner| match self.owner_state(node, owner) {
            Owned::Unknown if gone.contains(&owner.uid) => Owned::Gone,
            other => other,
        };
        let of = |wanted: Owned| node.owners.iter().filter(move |o| state(o) == wanted);
        let unknown: Vec<Owner> = of(Owned::Unknown).cloned().collect();
        if !unknown.is_empty() {
            return Action::Ask(unknown);
        }
        let gone: Vec<&Owner> = of(Owned::Gone).collect();
        let waiting: Vec<&Owner> = of(Owned::Alive { waiting: true }).collect();
        let solid = of(Owned::Alive { waiting: false }).count();
        if solid > 0 {
            let drop: Vec<String> = gone.iter().chain(&waiting).map(|o| o.uid.clone()).collect();
            return if drop.is_empty() { Action::Nothing } else { Action::DropOwners(drop) };
        }
        // An owner waits in the foreground: what this object owns must go first too, if anything holds it.
        let holds_others = self.dependents_of(&node.uid).next().is_some();
        let circle = self.dependents_of(&node.uid).any(Node::waits_for_dependents);
        if !waiting.is_empty() && circle && node.owners.iter().any(|o| o.blocks) {
            return Action::Unblock;
        }
        let propagation = if !waiting.is_empty() && holds_others { "Foreground" } else { "Background" };
        Action::Delete { propagation }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, owners: &[(&str, bool)]) -> Node {
        let owner = |(uid, blocks): &(&str, bool)| Owner {
            api_version: "v1".into(),
            kind: "Thing".into(),
            name: format!("n-{uid}"),
            uid: (*uid).to_owned(),
            blocks: *blocks,
        };
        Node {
            uid: uid.into(),
            identity: Identity {
                api_version: "v1".into(),
                kind: "Thing".into(),
                namespace: "ns".into(),
                name: format!("n-{uid}"),
            },
            owners: owners.iter().map(owner).collect(),
            deleting: false,
            finalizers: vec![],
        }
    }

    fn deleting(mut node: Node, finalizer: &str) -> Node {
        node.deleting = true;
        node.finalizers = vec![finalizer.to_owned()];
        node
    }

    fn decide(graph: &Graph, uid: &str, gone: &[&str]) -> Action {
        graph.decide(graph.get(uid).unwrap(), &gone.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn a_dependent_goes_only_when_its_owner_is_certainly_gone() {
        let mut graph = Graph::default();
        graph.apply(node("owner", &[]));
        assert_eq!(graph.apply(node("pod", &[("owner", true)])), ["pod"]);
        assert_eq!(decide(&graph, "pod", &[]), Action::Nothing);
        assert_eq!(graph.remove("owner"), ["pod"]);
        assert!(matches!(decide(&graph, "pod", &[]), Action::Ask(owners) if owners[0].uid == "owner"));
        assert_eq!(decide(&graph, "pod", &["owner"]), Action::Delete { propagation: "Background" });
    }

    #[test]
    fn with_another_owner_alive_only_the_reference_goes() {
        let mut graph = Graph::default();
        graph.apply(node("a", &[]));
        graph.apply(node("pod", &[("a", true), ("b", true)]));
        assert_eq!(decide(&graph, "pod", &["b"]), Action::DropOwners(vec!["b".into()]));
    }

    #[test]
    fn foreground_waits_for_blocking_dependents_and_takes_them_along() {
        let mut graph = Graph::default();
        graph.apply(node("set", &[]));
        graph.apply(node("pod", &[("set", true)]));
        graph.apply(node("loose", &[("set", false)]));
        let mut again = graph.apply(deleting(node("set", &[]), FOREGROUND));
        again.sort();
        assert_eq!(again, ["loose", "pod", "set"]);
        assert_eq!(decide(&graph, "set", &[]), Action::Nothing);
        assert_eq!(decide(&graph, "pod", &[]), Action::Delete { propagation: "Background" });
        assert_eq!(graph.remove("pod"), ["set"]);
        assert_eq!(decide(&graph, "set", &[]), Action::FinishForeground, "a dependent that does not block");
    }

    #[test]
    fn foreground_spreads_to_dependents_that_own_others() {
        let mut graph = Graph::default();
        graph.apply(node("deployment", &[]));
        graph.apply(node("set", &[("deployment", true)]));
        graph.apply(node("pod", &[("set", true)]));
        graph.apply(deleting(node("deployment", &[]), FOREGROUND));
        assert_eq!(decide(&graph, "set", &[]), Action::Delete { propagation: "Foreground" });
    }

    #[test]
    fn orphaning_names_the_dependents() {
        let mut graph = Graph::default();
        graph.apply(node("pod", &[("set", true)]));
        graph.apply(deleting(node("set", &[]), ORPHAN));
        assert_eq!(decide(&graph, "set", &[]), Action::Orphan { dependents: vec!["pod".into()] });
        // Once they have let go, nothing is left but the finalizer.
        assert!(graph.apply(node("pod", &[])).contains(&"set".to_owned()));
        assert_eq!(decide(&graph, "set", &[]), Action::Orphan { dependents: vec![] });
    }

    #[test]
    fn owners_that_own_each_other_do_not_lock_up() {
        let mut graph = Graph::default();
        graph.apply(node("a", &[("b", true)]));
        graph.apply(node("b", &[("a", true)]));
        graph.apply(deleting(node("a", &[("b", true)]), FOREGROUND));
        // b stops holding a back, then goes and takes its own dependents along in the foreground.
        assert_eq!(decide(&graph, "b", &[]), Action::Unblock);
        graph.apply(node("b", &[("a", false)]));
        assert_eq!(decide(&graph, "b", &[]), Action::Delete { propagation: "Foreground" });
        graph.apply(deleting(node("b", &[("a", false)]), FOREGROUND));
        assert_eq!(decide(&graph, "a", &[]), Action::FinishForeground);
    }

    #[test]
    fn a_reference_to_another_kind_or_namespace_is_not_an_owner() {
        let mut graph = Graph::default();
        let mut other = node("owner", &[]);
        other.identity.namespace = "elsewhere".into();
        graph.apply(other);
        graph.apply(node("pod", &[("owner", true)]));
        assert!(matches!(decide(&graph, "pod", &[]), Action::Ask(_)));
    }
}
