//! What a kubelet says of its node: that it lives, and that it is Ready.

use super::Kubelet;
use crate::{
    oracle::uid,
    process::{as_of, lock},
    server::{Obj, Server, Typed},
};
use api::conditions;
use jiff::SignedDuration;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, Pod},
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{MicroTime, ObjectMeta, Time},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// How long a turn of the clock may be for beats not to be missed.
pub(crate) const BEAT: SignedDuration = SignedDuration::from_secs(10);

impl Kubelet {
    /// Renews the lease, registers where needed, and says Ready when it may.
    pub(crate) fn beat(&mut self) {
        if !self.up || !self.linked {
            return;
        }
        let shared = self.server.clone();
        let mut server = lock(&shared);
        if server.get::<Node>(&self.node).is_none() {
            let _ = server.create(node(&self.node));
        }
        let now = server.now;
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.node.clone()),
                namespace: Some("kube-node-lease".to_owned()),
                ..ObjectMeta::default()
            },
            ..Lease::default()
        };
        if server.get::<Lease>(&self.node).is_none() {
            let _ = server.create(lease.wrap());
        }
        server.change::<Lease>(&self.node, |l| {
            l.spec.get_or_insert_default().renew_time = Some(MicroTime(now))
        });
        server.oracle.beat(&self.node, now);
        let may = self.begun && self.ending.is_none();
        let ready = if may { "True" } else { "False" };
        let said = server.get::<Node>(&self.node).and_then(|n| {
            let all = n.status.as_ref()?.conditions.as_deref()?;
            conditions::find(all, "Ready").map(|c| c.status.clone())
        });
        if said.as_deref() == Some(ready) {
            self.told_ready |= may;
            return;
        }
        if may && !self.told_ready {
            self.told_ready = true;
            self.check_return(&mut server);
        }
        server.say(|| format!("{}: Ready {ready}", self.node));
        server.change::<Node>(&self.node, |node| {
            let all = node.status.get_or_insert_default().conditions.get_or_insert_default();
            let condition = NodeCondition {
                type_: "Ready".into(),
                status: ready.into(),
                last_heartbeat_time: Some(Time(now)),
                ..NodeCondition::default()
            };
            conditions::set(all, condition, now);
        });
    }

    /// A kubelet that has come back says Ready: nothing may live here of a pod that was gone, or was to go, when it looked.
    fn check_return(&self, server: &mut Server) {
        let there: BTreeSet<&str> = as_of(server, "Pod", self.listed_at)
            .into_iter()
            .filter_map(Pod::of)
            .filter(|pod| api::pod::is_active(pod))
            .map(|pod| uid(pod))
            .collect();
        let survivor = self.machine.main().find(|c| {
            !there.contains(c.pod.uid.as_str())
                && c.created <= server.now
                && !self.is_newer(server, &c.pod.uid)
        });
        if let Some(container) = survivor {
            let what =
                format!("{} is Ready while {} of a pod that was deleted runs", self.node, container.id);
            server.oracle.violated(what);
        }
    }

    /// Whether the pod was made after this kubelet looked.
    fn is_newer(&self, server: &Server, uid: &str) -> bool {
        server.log[self.listed_at..].iter().any(|e| e.object.meta().uid.as_deref() == Some(uid))
    }

    /// Everything the API server wants has been done, and nothing else is there.
    pub(crate) fn leftovers(&self) -> Option<String> {
        let server = lock(&self.server);
        let wanted: BTreeSet<&str> = server.all::<Pod>().filter(|p| self.here(p)).map(|p| uid(p)).collect();
        let left = self.machine.containers.iter().find(|c| !wanted.contains(c.pod.uid.as_str()))?;
        Some(format!("{} of {} is still on {}", left.id, left.pod.uid, self.node))
    }
}

fn node(node: &str) -> Obj {
    let room = BTreeMap::from([
        ("cpu".to_owned(), Quantity("4".to_owned())),
        ("memory".to_owned(), Quantity("4Gi".to_owned())),
        ("pods".to_owned(), Quantity("40".to_owned())),
    ]);
    let mut object = Node {
        metadata: ObjectMeta { name: Some(node.to_owned()), ..ObjectMeta::default() },
        ..Node::default()
    };
    object.status.get_or_insert_default().allocatable = Some(room);
    object.wrap()
}
