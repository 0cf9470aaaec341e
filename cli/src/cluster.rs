//! Builds every component of `minik8s server`, starts them in order, and stops them in order.
//!
//! Start: directory, certificates, store and Engine side by side; then the API server; then everything that speaks to
//! it. Stop: kubelet, controllers, DNS, API server, store: whoever writes goes before what it writes to.

use crate::{
    Exit, certs,
    config::{Component, Datastore, Settings},
    data_dir::DataDir,
    panics, shutdown,
};
use apiserver::User;
use async_trait::async_trait;
use client::Informers;
use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use storage::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long all components together may take to stop before they are cut.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// Readiness that takes longer than this is told as a failure, with the latches that are closed.
const READY_DEADLINE: Duration = Duration::from_secs(60);
/// How often readiness is looked at while starting: well below what a person or the budget (150 ms) notices.
const READY_POLL: Duration = Duration::from_millis(1);
/// Certificates are looked at this often; they are made anew when half of their life is over.
const RENEWAL: Duration = Duration::from_secs(24 * 3600);
/// In-process connections to a kubelet buffer this much each way.
const DUPLEX_BUFFER: usize = 64 << 10;
/// The local node's index: 0 names the bridge, and its pods get the second /24 of the cluster's range.
const LOCAL_NODE: u8 = 0;
/// Kubernetes' default range.
const NODE_PORTS: (u16, u16) = (30000, 32767);
/// Docker 20.10's.
const OLDEST_DOCKER_API: &str = "1.41";
/// How long the Docker Engine may take to answer at start.
const DOCKER_DEADLINE: Duration = Duration::from_secs(5);

/// Runs a server until a signal stops it.
pub async fn run(settings: Settings, started: Instant) -> Result<(), Exit> {
    let stop = CancellationToken::new();
    let panics = panics::Watch::install(stop.clone());
    let tasks = TaskTracker::new();
    let signals = shutdown::listen(stop.clone())
        .map_err(|e| Exit::failed(format!("cannot listen for signals: {e}")))?;
    let signals = tasks.spawn(signals);
    let cluster = Cluster::start(settings, stop.clone()).await?;
    let outcome = cluster.serve(started).await;
    signals.abort();
    panics.outcome().and(outcome)
}

/// Everything that runs, and what each part is stopped by.
struct Cluster {
    settings: Settings,
    data: DataDir,
    stop: CancellationToken,
    store: Arc<dyn Store>,
    api: apiserver::Server,
    names: certs::Names,
    informers: Informers,
    informers_stop: CancellationToken,
    docker: Option<bollard::Docker>,
    kubelet: Option<kubelet::Server>,
    controllers: Option<controllers::Server>,
    dns: Option<dns::Server>,
    proxy: Option<kubelet::proxy::Proxy>,
}

impl Cluster {
    async fn start(settings: Settings, stop: CancellationToken) -> Result<Self, Exit> {
        let data = DataDir::open(&settings.data_dir)?;
        let pod_cidr = settings
            .cluster_cidr
            .node(u32::from(LOCAL_NODE) + 1)
            .ok_or_else(|| Exit::usage("--cluster-cidr holds no range for the local node"))?;
        let gateway = pod_cidr.gateway();
        let machine = machine_address();
        let names = certificate_names(&settings, gateway, machine);
        let (certificates, store, docker) = tokio::join!(
            blocking({
                let (pki, names) = (data.pki(), names.clone());
                move || certs::load_or_make(&pki, &names)
            }),
            blocking({
                let (datastore, path) = (settings.datastore, data.store());
                move || open_store(datastore, &path)
            }),
            connect_docker(&settings),
        );
        let (certificates, store, docker) = (certificates?, store?, docker?);

        let bind: Vec<IpAddr> = if settings.bind_address.is_empty() {
            vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(gateway)]
        } else {
            settings.bind_address.clone()
        };
        let kubelets = Arc::new(LocalNodes::default());
        let config = apiserver::Config {
            bind: bind.iter().map(|ip| SocketAddr::new(*ip, settings.port)).collect(),
            advertise: IpAddr::V4(gateway),
            serving_cert: certificates.serving_cert.clone(),
            serving_key: certificates.serving_key.clone(),
            client_ca: certificates.ca.clone(),
            service_account_key: certificates.service_account_key.clone(),
            service_cidr: settings.service_cidr.to_string(),
            cluster_domain: settings.cluster_domain.clone(),
            node_ports: NODE_PORTS,
            toleration_seconds: 300,
        };
        let api = apiserver::Server::bind(config, Arc::clone(&store), kubelets.clone())
            .await
            .map_err(|e| Exit::usage(format!("cannot serve the API: {e}")))?;
        let port = api.addresses().first().map_or(settings.port, SocketAddr::port);
        let url = format!("https://{}", SocketAddr::new(reachable(&bind), port));
        certs::write_private(&settings.kubeconfig, &certs::kubeconfig(&url, &certificates))?;

        let informers_stop = CancellationToken::new();
        let informers =
            Informers::new(api.client(User::component("system:minik8s-informers")), informers_stop.clone());
        let mut bridge = String::new();
        let kubelet = docker.clone().map(|docker| {
            let mut config = kubelet::Config::new(
                &settings.node_name,
                LOCAL_NODE,
                data.cluster_id(),
                settings.data_dir.clone(),
                pod_cidr,
            );
            config.cluster_dns = settings.service_cidr.nth(10);
            config.cluster_domain = settings.cluster_domain.clone();
            config.api_service = (settings.service_cidr.nth(1), 443);
            config.node_ip = machine;
            config.max_pods = settings.max_pods;
            config.publish_dns = !settings.disabled(Component::Dns);
            bridge.clone_from(&config.bridge_name);
            let client = api.client(User::component(&format!("system:node:{}", settings.node_name)));
            let runtime = Arc::new(kubelet::Docker::new(docker, &config));
            kubelet::Server::bind(config, client, informers.clone(), runtime)
        });
        if let Some(kubelet) = &kubelet {
            kubelets.add(&settings.node_name, kubelet.clone());
        }
        let controllers = (!settings.disabled(Component::Controllers)).then(|| {
            let config = controllers::Config {
                volumes_dir: data.volumes(),
                root_ca: certificates.ca.clone(),
                cluster_cidr: settings.cluster_cidr.to_string(),
                host: settings.node_name.clone(),
                scheduler: !settings.disabled(Component::Scheduler),
                ..controllers::Config::default()
            };
            controllers::Server::bind(
                config,
                api.client(User::component("system:kube-controller-manager")),
                informers.clone(),
            )
        });
        let dns = if kubelet.is_some() && !settings.disabled(Component::Dns) {
            let config = dns::Config {
                bind: vec![SocketAddr::new(IpAddr::V4(gateway), kubelet::config::DNS_PORT)],
                cluster_domain: settings.cluster_domain.clone(),
                reverse_networks: vec![settings.service_cidr, settings.cluster_cidr],
                ..dns::Config::default()
            };
            let server = dns::Server::bind(config, informers.clone())
                .await
                .map_err(|e| Exit::usage(format!("cannot serve cluster DNS: {e}")))?;
            Some(server)
        } else {
            None
        };
        let proxy = (kubelet.is_some() && !settings.disabled(Component::Proxy)).then(|| {
            let node = kubelet::proxy::LocalNode {
                name: settings.node_name.clone(),
                bridge: bridge.clone(),
                pod_cidr,
                gateway,
            };
            let config = kubelet::proxy::Config {
                cluster_id: data.cluster_id().to_owned(),
                nodes: vec![node],
                cluster_cidr: settings.cluster_cidr,
                service_cidr: settings.service_cidr,
            };
            kubelet::proxy::Proxy::new(config, &informers)
        });
        Ok(Self {
            settings,
            data,
            stop,
            store,
            api,
            names,
            informers,
            informers_stop,
            docker,
            kubelet,
            controllers,
            dns,
            proxy,
        })
    }

    /// Runs until stopped, then stops everything in order.
    async fn serve(self, started: Instant) -> Result<(), Exit> {
        let (api_stop, node_stop) = (CancellationToken::new(), CancellationToken::new());
        let (control_stop, dns_stop) = (CancellationToken::new(), CancellationToken::new());
        let group = TaskTracker::new;
        let (api_tasks, node_tasks, control_tasks, dns_tasks) = (group(), group(), group(), group());

        let url = url_of(&self.api);
        let (latches, tls) = (self.api.latches(), self.api.tls());
        api_tasks.spawn(self.api.run(api_stop.clone()));
        if let Some(controllers) = self.controllers {
            control_tasks.spawn(controllers.run(control_stop.clone()));
        }
        if let Some(dns) = self.dns {
            dns_tasks.spawn(dns.run(dns_stop.clone()));
        }
        if let Some(proxy) = self.proxy {
            let token = node_stop.clone();
            node_tasks.spawn(async move {
                if let Err(error) = proxy.run(token).await {
                    tracing::error!(%error, "services have no addresses on this node");
                }
            });
        }
        if let Some(kubelet) = self.kubelet {
            let token = node_stop.clone();
            node_tasks.spawn(async move { kubelet.run(token).await });
        }
        let renewal = renew_certificates(tls, self.data.pki(), self.names.clone());
        api_tasks.spawn(api_stop.clone().run_until_cancelled_owned(renewal));
        let announcement = announce(latches, url, self.settings.kubeconfig.clone(), started);
        api_tasks.spawn(self.stop.clone().run_until_cancelled_owned(announcement));

        self.stop.cancelled().await;
        let order = async {
            for (what, token, tasks) in [
                ("kubelet", &node_stop, &node_tasks),
                ("controllers", &control_stop, &control_tasks),
                ("dns", &dns_stop, &dns_tasks),
            ] {
                tracing::debug!(what, "stopping");
                token.cancel();
                tasks.close();
                tasks.wait().await;
            }
            self.informers_stop.cancel();
            self.informers.stopped().await;
            api_stop.cancel();
            api_tasks.close();
            api_tasks.wait().await;
        };
        if tokio::time::timeout(STOP_DEADLINE, order).await.is_err() {
            eprintln!("minik8s: some parts did not stop within {} s and were cut", STOP_DEADLINE.as_secs());
        }
        let closed = self.store.close().await.map_err(|e| Exit::failed(format!("closing the store: {e}")));
        if self.settings.stop_pods_on_exit
            && let Some(docker) = &self.docker
        {
            kubelet::reset(self.data.cluster_id(), docker)
                .await
                .map_err(|e| Exit::failed(format!("cannot remove the pods: {e}")))?;
        }
        closed
    }
}

/// Tells once that the server is ready, or which parts are not.
async fn announce(latches: apiserver::Latches, url: String, kubeconfig: PathBuf, started: Instant) {
    let wait = async {
        while !latches.all_ready() {
            tokio::time::sleep(READY_POLL).await;
        }
    };
    if tokio::time::timeout(READY_DEADLINE, wait).await.is_err() {
        let closed: Vec<String> =
            latches.states().into_iter().filter(|(_, open)| !open).map(|(name, _)| name).collect();
        eprintln!("minik8s: still not ready after {} s: {}", READY_DEADLINE.as_secs(), closed.join(", "));
        return;
    }
    eprintln!(
        "minik8s is ready in {:.0} ms: {url}\nexport KUBECONFIG={}",
        started.elapsed().as_secs_f64() * 1000.0,
        kubeconfig.display()
    );
}

async fn renew_certificates(tls: apiserver::listen::Tls, pki: PathBuf, names: certs::Names) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        let (pki, names) = (pki.clone(), names.clone());
        let renewed = blocking(move || certs::load_or_make(&pki, &names)).await;
        let swapped = match renewed {
            Ok(new) => tls.replace(&new.serving_cert, &new.serving_key, &new.ca).map_err(|e| e.to_string()),
            Err(exit) => Err(exit.message),
        };
        if let Err(error) = swapped {
            tracing::warn!(error, "certificates were not renewed; trying again tomorrow");
        }
    }
}

/// The kubelets of this process, by node name.
#[derive(Default)]
struct LocalNodes(OnceLock<(String, kubelet::Server)>);

impl LocalNodes {
    fn add(&self, name: &str, kubelet: kubelet::Server) {
        let _ = self.0.set((name.to_owned(), kubelet));
    }
}

#[async_trait]
impl apiserver::NodeDialer for LocalNodes {
    async fn dial(&self, node: &str) -> io::Result<Box<dyn apiserver::Stream>> {
        match self.0.get() {
            Some((name, kubelet)) if name == node => {
                let (near, far) = tokio::io::duplex(DUPLEX_BUFFER);
                kubelet.serve_connection(Box::new(far));
                Ok(Box::new(near))
            }
            _ => Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("no kubelet of node {node:?} is known here"),
            )),
        }
    }
}

fn open_store(datastore: Datastore, path: &std::path::Path) -> Result<Arc<dyn Store>, Exit> {
    Ok(match datastore {
        Datastore::Sled => Arc::new(
            storage::SledStore::open(path, Default::default())
                .map_err(|e| Exit::usage(format!("cannot open the store in {}: {e}", path.display())))?,
        ),
        Datastore::Memory => Arc::new(
            storage::MemoryStore::new(Default::default())
                .map_err(|e| Exit::failed(format!("cannot start the memory store: {e}")))?,
        ),
    })
}

/// Finds the Docker Engine and checks that it answers and is not too old.
pub(crate) async fn connect_docker(settings: &Settings) -> Result<Option<bollard::Docker>, Exit> {
    if settings.disabled(Component::Kubelet) {
        return Ok(None);
    }
    let advice = "start the Docker Engine (systemctl start docker), name another with --docker-host, or run without \
                  pods by --disable kubelet";
    let docker = kubelet::Docker::connect(settings.docker_host.as_deref())
        .map_err(|error| Exit::usage(format!("cannot find the Docker Engine: {error}; {advice}")))?;
    match tokio::time::timeout(DOCKER_DEADLINE, docker.version()).await {
        Ok(Ok(version)) => {
            let api = version.api_version.unwrap_or_default();
            if older(&api, OLDEST_DOCKER_API) {
                return Err(Exit::usage(format!(
                    "the Docker Engine speaks API {api}; minik8s needs {OLDEST_DOCKER_API} (Docker 20.10) or newer"
                )));
            }
            Ok(Some(docker))
        }
        Ok(Err(error)) => Err(Exit::usage(format!("cannot reach the Docker Engine: {error}; {advice}"))),
        Err(_) => Err(Exit::usage(format!(
            "the Docker Engine did not answer within {} s; is it healthy? (docker info)",
            DOCKER_DEADLINE.as_secs()
        ))),
    }
}

/// Whether a Docker API version such as `1.41` comes before another. What cannot be read is not refused.
fn older(version: &str, than: &str) -> bool {
    let parse = |text: &str| -> Option<(u32, u32)> {
        let (major, minor) = text.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    matches!((parse(version), parse(than)), (Some(a), Some(b)) if a < b)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Exit> + Send + 'static,
) -> Result<T, Exit> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Exit::failed(format!("a start-up task failed: {e}")))?
}

fn certificate_names(settings: &Settings, gateway: Ipv4Addr, machine: Option<Ipv4Addr>) -> certs::Names {
    let mut dns: Vec<String> = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .into_iter()
        .map(str::to_owned)
        .collect();
    dns.push(format!("kubernetes.default.svc.{}", settings.cluster_domain));
    dns.push(settings.node_name.clone());
    let mut ips = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), gateway.into(), settings.service_cidr.nth(1).into()];
    ips.extend(machine.map(IpAddr::V4));
    ips.extend(settings.bind_address.iter().filter(|ip| !ip.is_unspecified()));
    ips.sort();
    ips.dedup();
    certs::Names { dns, ips }
}

/// The address a client on this machine dials.
fn reachable(bind: &[IpAddr]) -> IpAddr {
    match bind.iter().find(|ip| ip.is_loopback()).or(bind.first()) {
        Some(ip) if !ip.is_unspecified() => *ip,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

fn url_of(api: &apiserver::Server) -> String {
    let addresses = api.addresses();
    let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
    let port = addresses.first().map_or(0, SocketAddr::port);
    format!("https://{}", SocketAddr::new(reachable(&ips), port))
}

/// The machine's own address: the one the default route would send from. No packet is sent.
fn machine_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // TEST-NET-1 (RFC 5737): never a real host, routed by the default route.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
        _ => None,
    }
}
