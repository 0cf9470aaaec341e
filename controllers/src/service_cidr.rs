//! ServiceCIDRs: whether the addresses of services are taken from them, and that none goes while services still hold addresses
//! that only it covers.
//!
//! Kubernetes takes addresses from every ServiceCIDR. Here routes, rules and DNS know the one range that the server was started
//! with: what lies in it is Ready, anything else says that it is not used.

use crate::{
    context::{Ctx, name, patch_metadata_as_seen},
    error::{Result, ignore_not_found},
    run::{Controller, Next},
};
use api::{cidr::Cidr, conditions};
use async_trait::async_trait;
use client::{Queue, Store};
use k8s_openapi::{
    api::networking::v1::{IPAddress, ServiceCIDR},
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time},
};
use kube::api::PostParams;
use serde_json::json;
use std::{net::Ipv4Addr, sync::Arc};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

pub struct ServiceCidrs {
    ctx: Arc<Ctx>,
    cidrs: Store<ServiceCIDR>,
    addresses: Store<IPAddress>,
}

impl ServiceCidrs {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self { cidrs: ctx.informers.store(), addresses: ctx.informers.store(), ctx }
    }
}

/// What is to be changed of one of them.
#[derive(Debug, PartialEq)]
enum Change {
    Finalizers(Vec<String>),
    Ready { status: &'static str, reason: &'static str, message: String },
}

/// The networks of IPv4 that it names; `None` if it names anything else.
fn networks(object: &ServiceCIDR) -> Option<Vec<Cidr>> {
    let cidrs = object.spec.as_ref()?.cidrs.as_deref()?;
    cidrs.iter().map(|cidr| cidr.parse().ok()).collect()
}

fn is_within(inner: Cidr, outer: Cidr) -> bool {
    outer.overlaps(inner) && outer.prefix_length() <= inner.prefix_length()
}

/// Whether services get addresses from it.
fn is_used(object: &ServiceCIDR, range: Cidr) -> bool {
    networks(object).is_some_and(|all| all.iter().all(|network| is_within(*network, range)))
}

fn is_going(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some()
}

/// Whether every address of a service stays covered when it goes.
fn can_go(object: &ServiceCIDR, all: &[Arc<ServiceCIDR>], held: &[Ipv4Addr], range: Cidr) -> bool {
    if !is_used(object, range) {
        return true;
    }
    let others: Vec<Cidr> = all
        .iter()
        .filter(|other| other.metadata.name != object.metadata.name && is_used(other, range))
        .flat_map(|other| networks(other).unwrap_or_default())
        .collect();
    let own = networks(object).unwrap_or_default();
    let covered = |address: &Ipv4Addr| others.iter().any(|other| other.contains(*address));
    held.iter().filter(|address| own.iter().any(|own| own.contains(**address))).all(covered)
}

/// The next thing to be changed.
fn plan(object: &ServiceCIDR, all: &[Arc<ServiceCIDR>], held: &[Ipv4Addr], range: Cidr) -> Option<Change> {
    let meta = &object.metadata;
    let mut finalizers = meta.finalizers.clone().unwrap_or_default();
    let has = finalizers.iter().any(|f| f == FINALIZER);
    let (status, reason, message) = if is_going(meta) {
        if can_go(object, all, held, range) {
            finalizers.retain(|f| f != FINALIZER);
            return has.then_some(Change::Finalizers(finalizers));
        }
        let text = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
        ("False", "Terminating", text.to_owned())
    } else if !has {
        finalizers.push(FINALIZER.to_owned());
        return Some(Change::Finalizers(finalizers));
    } else if is_used(object, range) {
        ("True", "", "Kubernetes Service CIDR is ready".to_owned())
    } else {
        let text = format!(
            "Not used: this server takes the addresses of services only from {range}, the range that it was started with \
             (--service-cidr)"
        );
        ("False", "NotUsed", text)
    };
    let known = object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let same = conditions::find(known, "Ready")
        .is_some_and(|c| c.status == status && c.reason == reason && c.message == message);
    (!same).then_some(Change::Ready { status, reason, message })
}

#[async_trait]
impl Controller for ServiceCidrs {
    /// All of them, under one key: each may keep another.
    type Key = String;
    const NAME: &'static str = "service-cidrs";
    const WORKERS: usize = 1;

    fn watch(&self, queue: &Queue<String>) {
        let q = queue.clone();
        self.cidrs.on_change(move |_| q.add("all".to_owned()));
        let (q, cidrs) = (queue.clone(), self.cidrs.clone());
        // Only one that goes waits for addresses.
        self.addresses.on_change(move |_| {
            if cidrs.list().iter().any(|cidr| is_going(&cidr.metadata)) {
                q.add("all".to_owned());
            }
        });
    }

    async fn reconcile(&self, _all: &String) -> Result<Next> {
        let Ok(range) = self.ctx.config.service_cidr.parse::<Cidr>() else { return Ok(Next::Wait) };
        let all = self.cidrs.list();
        let is_managed = |object: &&Arc<IPAddress>| {
            let labels = object.metadata.labels.as_ref();
            labels.and_then(|l| l.get(MANAGED_BY.0)).is_some_and(|value| value == MANAGED_BY.1)
        };
        let addresses = self.addresses.list();
        let held: Vec<Ipv4Addr> =
            addresses.iter().filter(is_managed).filter_map(|a| name(&a.metadata).parse().ok()).collect();
        let api = self.ctx.all::<ServiceCIDR>();
        for object in &all {
            // What is written here brings the next run, until nothing changes.
            let written = match plan(object, &all, &held, range) {
                None => continue,
                Some(Change::Finalizers(finalizers)) => {
                    let fields = json!({ "finalizers": finalizers });
                    patch_metadata_as_seen(&api, &object.metadata, fields).await
                }
                Some(Change::Ready { status, reason, message }) => {
                    let mut new = ServiceCIDR::clone(object);
                    let now = self.ctx.clock.now();
                    let ready = Condition {
                        type_: "Ready".to_owned(),
                        status: status.to_owned(),
                        reason: reason.to_owned(),
                        message,
                        observed_generation: None,
                        last_transition_time: Time(now),
                    };
                    let known = new.status.get_or_insert_default().conditions.get_or_insert_default();
                    conditions::set(known, ready, now);
                    api.replace_status(name(&object.metadata), &PostParams::default(), &new).await
                }
            };
            ignore_not_found(written)?;
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn object(
        name: &str,
        cidrs: &[&str],
        finalizer: bool,
        going: bool,
        ready: Option<Value>,
    ) -> Arc<ServiceCIDR> {
        let going = going.then_some("2026-01-01T00:00:00Z");
        let finalizers: Vec<&str> = finalizer.then_some(FINALIZER).into_iter().collect();
        let conditions: Vec<Value> = ready.into_iter().collect();
        let object = json!({
            "metadata": {"name": name, "finalizers": finalizers, "deletionTimestamp": going},
            "spec": {"cidrs": cidrs}, "status": {"conditions": conditions}});
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn decide(object: &Arc<ServiceCIDR>, others: &[Arc<ServiceCIDR>], held: &[&str]) -> Option<Change> {
        let all: Vec<_> = others.iter().cloned().chain([object.clone()]).collect();
        let held: Vec<Ipv4Addr> = held.iter().map(|a| a.parse().unwrap()).collect();
        plan(object, &all, &held, "10.96.0.0/16".parse().unwrap())
    }

    fn status(change: Option<Change>) -> (&'static str, &'static str) {
        match change {
            Some(Change::Ready { status, reason, .. }) => (status, reason),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_lies_in_the_range_is_ready() {
        let add = Some(Change::Finalizers(vec![FINALIZER.to_owned()]));
        assert_eq!(decide(&object("kubernetes", &["10.96.0.0/16"], false, false, None), &[], &[]), add);
        for (cidrs, ready) in [
            (&["10.96.0.0/16"][..], ("True", "")),
            (&["10.96.3.0/24"], ("True", "")),
            (&["10.0.0.0/8"], ("False", "NotUsed")),
            (&["10.97.0.0/16"], ("False", "NotUsed")),
            (&["fd00::/112"], ("False", "NotUsed")),
            (&["10.96.0.0/16", "fd00::/112"], ("False", "NotUsed")),
        ] {
            assert_eq!(status(decide(&object("x", cidrs, true, false, None), &[], &[])), ready, "{cidrs:?}");
        }
        let ready = json!({"type": "Ready", "status": "True", "reason": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
                           "message": "Kubernetes Service CIDR is ready"});
        assert_eq!(decide(&object("x", &["10.96.0.0/16"], true, false, Some(ready)), &[], &[]), None);
    }

    #[test]
    fn one_goes_when_nobody_needs_it() {
        let going = |cidrs: &[&str]| object("x", cidrs, true, true, None);
        let gone = Some(Change::Finalizers(Vec::new()));
        let (whole, part) = (["10.96.0.0/16"], ["10.96.3.0/24"]);
        assert_eq!(decide(&going(&whole), &[], &[]), gone);
        assert_eq!(status(decide(&going(&whole), &[], &["10.96.0.1"])), ("False", "Terminating"));
        assert_eq!(decide(&going(&part), &[], &["10.96.0.1"]), gone);
        assert_eq!(decide(&going(&["10.97.0.0/16"]), &[], &["10.97.0.1"]), gone, "never was used");
        let kubernetes = object("kubernetes", &whole, true, false, None);
        assert_eq!(decide(&going(&part), std::slice::from_ref(&kubernetes), &["10.96.3.1"]), gone);
        let unused = object("other", &["10.0.0.0/8"], true, false, None);
        assert_eq!(status(decide(&going(&whole), &[unused], &["10.96.0.1"])), ("False", "Terminating"));
        assert_eq!(decide(&object("x", &whole, false, true, None), &[], &[]), None, "somebody else keeps it");
    }
}
