//! The Node object: registered at start, its Lease renewed, its status written when it changes (and now and then so that
//! heartbeats move), and the EndpointSlice that makes cluster DNS node-local.
//!
//! Only our own fields are patched: extended resources that somebody put into the status stay there.

mod facts;

pub(crate) use facts::machine;

use crate::{agent::NotReady, node_context::Context, proxy};
use facts::{HostState, conditions, node_labels, status};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{Node, NodeCondition, NodeSpec, NodeStatus, ObjectReference},
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A lease lasts as long as so many heartbeats (Kubernetes': 40 s, renewed every 10 s).
const BEATS_OF_A_LEASE: u32 = 4;
/// Kubernetes' interval: a status at the latest every 5 minutes.
const REPORT: Duration = Duration::from_secs(300);
/// Memory and disk are looked at this often.
const CHECK: Duration = Duration::from_secs(60);
/// The API may not be there yet, or away: waits between tries, doubling.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// How long the first report waits for the engine.
const FIRST_ANSWER: Duration = Duration::from_secs(3);

const LEASE_NAMESPACE: &str = "kube-node-lease";
const DNS_NAMESPACE: &str = "kube-system";

pub(crate) struct NodeAgent {
    context: Arc<Context>,
    /// Why the node is not Ready, if it is not.
    state: watch::Receiver<Option<NotReady>>,
    /// How the service proxy does, where there is one.
    proxy: Option<watch::Receiver<proxy::Status>>,
    /// What was written last, heartbeats aside.
    written: Option<NodeStatus>,
    /// The conditions before: at first those of the last run, so that their times go on.
    conditions: Vec<NodeCondition>,
    uid: String,
}

/// What the API says of a node that is alive.
enum Seen {
    AsWritten,
    /// Something else: the node controller did not hear of it for a while, or somebody made it anew.
    Otherwise,
    /// Its object was deleted.
    Gone,
}

impl NodeAgent {
    pub(crate) fn new(context: Arc<Context>, state: watch::Receiver<Option<NotReady>>) -> Self {
        let proxy = context.config.service_proxy.clone();
        Self { context, state, proxy, written: None, conditions: Vec::new(), uid: String::new() }
    }

    /// Registers, tells `ready` once the node has been reported Ready, and reports until `token` is cancelled.
    pub(crate) async fn run(mut self, ready: watch::Sender<bool>, token: CancellationToken) {
        tokio::select! {
            () = token.cancelled() => {}
            () = self.report_for_ever(ready) => {}
        }
    }

    async fn report_for_ever(&mut self, ready: watch::Sender<bool>) {
        let context = Arc::clone(&self.context);
        let node = retry("registering the node", || register(&context)).await;
        self.uid = node.metadata.uid.unwrap_or_default();
        self.conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
        // The engine's first answer is usually on its way: a node that is about to be ready need not say that it is not.
        let _ = tokio::time::timeout(FIRST_ANSWER, self.state.changed()).await;
        let mut renew = tokio::time::interval(context.config.heartbeat);
        let mut check = tokio::time::interval(CHECK);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut written = tokio::time::Instant::now();
        let mut dns = !context.config.publish_dns;
        let mut contradicted = false;
        loop {
            tokio::select! {
                _ = check.tick() => {}
                changed = self.state.changed() => if changed.is_err() { return },
                () = changed(&mut self.proxy) => {}
                _ = renew.tick() => {
                    match self.renew().await {
                        Ok(()) => {
                            contradicted = match self.seen_by_others().await {
                                Seen::AsWritten => false,
                                Seen::Otherwise => true,
                                Seen::Gone => {
                                    tracing::warn!(node = %context.config.node_name, "somebody deleted the node; registering it again");
                                    let node = retry("registering the node", || register(&context)).await;
                                    self.uid = node.metadata.uid.unwrap_or_default();
                                    true
                                }
                            };
                            if contradicted {
                                check.reset_immediately();
                            }
                            // Without it this node's pods find no name: somebody may have deleted or changed it.
                            if dns
                                && context.config.publish_dns
                                && let Err(error) = publish_dns(&context).await
                            {
                                tracing::warn!(%error, "publishing the node's DNS server failed; trying again");
                            }
                        }
                        Err(error) => tracing::warn!(%error, "renewing the node's lease failed"),
                    }
                    continue;
                }
            }
            let overdue = contradicted || written.elapsed() >= REPORT;
            match self.report(overdue).await {
                Ok(true) => {
                    written = tokio::time::Instant::now();
                    contradicted = false;
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "writing the node's status failed");
                    check.reset_after(context.config.heartbeat);
                    continue;
                }
            }
            if !dns {
                retry("publishing the node's DNS server", || publish_dns(&context)).await;
                dns = true;
            }
            let is_ready = self.state.borrow().is_none();
            ready.send_if_modified(|told| !std::mem::replace(told, *told || is_ready) && is_ready);
        }
    }

    /// What the API says of this node.
    async fn seen_by_others(&self) -> Seen {
        let ready = |status: Option<&NodeStatus>| {
            let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
            api::conditions::find(conditions, "Ready").map(|c| c.status.clone())
        };
        let api: Api<Node> = Api::all(self.context.client.clone());
        match api.get_opt(&self.context.config.node_name).await {
            Ok(None) => Seen::Gone,
            Ok(Some(node))
                if self.written.is_some() && ready(node.status.as_ref()) != ready(self.written.as_ref()) =>
            {
                Seen::Otherwise
            }
            Ok(Some(_)) => Seen::AsWritten,
            Err(error) => {
                tracing::debug!(%error, "the node could not be read");
                Seen::AsWritten
            }
        }
    }

    /// Writes the status if it has changed, or if it has to be written again. Says whether it was written.
    async fn report(&mut self, overdue: bool) -> kube::Result<bool> {
        let context = Arc::clone(&self.context);
        let state = self.state.borrow_and_update().clone();
        let info = match &state {
            Some(NotReady::Engine(why)) => Err(why.clone()),
            _ => context.runtime.info().await.map_err(|error| error.to_string()),
        };
        let images = match &info {
            Ok(_) => context.runtime.images().await.unwrap_or_default(),
            Err(_) => Vec::new(),
        };
        let config = context.config.clone();
        let host = tokio::task::spawn_blocking(move || HostState::read(&config)).await.unwrap_or_default();
        let machine = &context.machine;
        let now = Timestamp::now();
        let mut status = status(&context.config, machine, info.as_ref().ok(), &images);
        let not_ready = state.or(info.err().map(NotReady::Engine)).map(|why| why.to_string());
        let before = std::mem::take(&mut self.conditions);
        self.conditions = conditions(&context.config, &host, not_ready.as_deref(), &before, now);
        status.conditions = Some(self.conditions.clone());
        let same =
            self.written.as_ref().is_some_and(|old| without_heartbeats(old) == without_heartbeats(&status));
        if same && !overdue {
            return Ok(false);
        }
        self.tell(&before, &status);
        let patch = json!({ "status": status });
        let api: Api<Node> = Api::all(context.client.clone());
        api.patch_status(&context.config.node_name, &PatchParams::default(), &Patch::Strategic(&patch))
            .await?;
        self.written = Some(status);
        Ok(true)
    }

    /// An event when the node becomes ready or stops being it.
    fn tell(&self, before: &[NodeCondition], status: &NodeStatus) {
        let ready = |conditions: &[NodeCondition]| api::conditions::is_true(conditions, "Ready");
        let now = ready(status.conditions.as_deref().unwrap_or_default());
        if now == ready(before) && !before.is_empty() {
            return;
        }
        let name = &self.context.config.node_name;
        let reason = if now { "NodeReady" } else { "NodeNotReady" };
        let reference = ObjectReference {
            kind: Some("Node".to_owned()),
            api_version: Some("v1".to_owned()),
            name: Some(name.clone()),
            uid: Some(self.uid.clone()),
            ..ObjectReference::default()
        };
        self.context.recorder.event(
            &reference,
            "Normal",
            reason,
            &format!("Node {name} status is now: {reason}"),
        );
    }

    async fn renew(&self) -> kube::Result<()> {
        let context = &self.context;
        let name = &context.config.node_name;
        let api: Api<Lease> = Api::namespaced(context.client.clone(), LEASE_NAMESPACE);
        let now = MicroTime(Timestamp::now());
        let lasts = (context.config.heartbeat * BEATS_OF_A_LEASE).as_secs().max(1);
        let lasts = i32::try_from(lasts).unwrap_or(i32::MAX);
        let patch =
            json!({"spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": lasts}});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(drop),
        }
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASE_NAMESPACE.to_owned()),
                owner_references: Some(vec![owner(name, &self.uid)]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(lasts),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        api.create(&PostParams::default(), &lease).await.map(drop)
    }
}

/// Ends when there is news; never where there is nobody to bring any.
async fn changed<T>(receiver: &mut Option<watch::Receiver<T>>) {
    let Some(receiver) = receiver else { return std::future::pending().await };
    if receiver.changed().await.is_err() {
        std::future::pending().await
    }
}

fn owner(name: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: uid.to_owned(),
        ..OwnerReference::default()
    }
}

fn without_heartbeats(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    status
}

/// Tries until it succeeds; the caller's cancellation ends it.
async fn retry<T, F>(what: &str, mut action: impl FnMut() -> F) -> T
where
    F: Future<Output = kube::Result<T>>,
{
    let mut wait = FIRST_RETRY;
    loop {
        match action().await {
            Ok(done) => return done,
            Err(error) => {
                if wait >= LAST_RETRY {
                    tracing::warn!(%error, "{what} failed; trying again");
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LAST_RETRY);
            }
        }
    }
}

/// Makes the Node object, or brings the labels of the one that is there up to date.
async fn register(context: &Context) -> kube::Result<Node> {
    let config = &context.config;
    let api: Api<Node> = Api::all(context.client.clone());
    let labels = node_labels(config);
    if let Some(found) = api.get_opt(&config.node_name).await? {
        let cidr = found.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()).unwrap_or_default();
        let mut patch = json!({"metadata": {"labels": labels}});
        if cidr.is_empty() {
            patch["spec"] =
                json!({"podCIDR": config.pod_cidr.to_string(), "podCIDRs": [config.pod_cidr.to_string()]});
        } else if cidr != config.pod_cidr.to_string() {
            tracing::warn!(registered = %cidr, used = %config.pod_cidr, "the node was registered with another pod CIDR");
        }
        let has = |key: &String, value: &String| {
            found.metadata.labels.as_ref().and_then(|l| l.get(key)) == Some(value)
        };
        if cidr.is_empty() || !labels.iter().all(|(key, value)| has(key, value)) {
            api.patch(&config.node_name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
        }
        return Ok(found);
    }
    let node = Node {
        metadata: ObjectMeta {
            name: Some(config.node_name.clone()),
            labels: Some(labels),
            annotations: Some(BTreeMap::from([(
                "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                "true".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            pod_cidr: Some(config.pod_cidr.to_string()),
            pod_cidrs: Some(vec![config.pod_cidr.to_string()]),
            provider_id: Some(format!("minik8s://{}/{}", config.cluster_id, config.node_name)),
            ..NodeSpec::default()
        }),
        status: None,
    };
    let made = api.create(&PostParams::default(), &node).await?;
    tracing::info!(node = %config.node_name, "registered the node");
    Ok(made)
}

/// This node's endpoint of Service `kube-dns`: the service proxy then sends the node's queries to the node's own server.
async fn publish_dns(context: &Context) -> kube::Result<()> {
    let config = &context.config;
    let name = format!("kube-dns-{}", config.node_name);
    let port = |name: &str, protocol: &str| EndpointPort {
        name: Some(name.to_owned()),
        port: Some(crate::config::DNS_PORT.into()),
        protocol: Some(protocol.to_owned()),
        app_protocol: None,
    };
    let slice = EndpointSlice {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: Some(DNS_NAMESPACE.to_owned()),
            labels: Some(BTreeMap::from([
                ("kubernetes.io/service-name".to_owned(), "kube-dns".to_owned()),
                ("endpointslice.kubernetes.io/managed-by".to_owned(), "kubelet.minik8s.io".to_owned()),
            ])),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: Some(vec![Endpoint {
            addresses: vec![config.pod_cidr.gateway().to_string()],
            conditions: Some(EndpointConditions {
                ready: Some(true),
                serving: Some(true),
                terminating: Some(false),
            }),
            node_name: Some(config.node_name.clone()),
            ..Endpoint::default()
        }]),
        ports: Some(vec![port("dns", "UDP"), port("dns-tcp", "TCP")]),
    };
    let api: Api<EndpointSlice> = Api::namespaced(context.client.clone(), DNS_NAMESPACE);
    match api.get_opt(&name).await? {
        None => api.create(&PostParams::default(), &slice).await.map(drop),
        Some(found) if found.endpoints == slice.endpoints && found.ports == slice.ports => Ok(()),
        Some(_) => {
            let patch = json!({"endpoints": slice.endpoints, "ports": slice.ports, "metadata": {"labels": slice.metadata.labels}});
            api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await.map(drop)
        }
    }
}
