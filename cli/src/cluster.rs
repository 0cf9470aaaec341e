//! Builds every component of `minik8s server`, starts them in order, and stops them in order.
//!
//! Start: directory, certificates, store and Engine side by side; then the API server; then everything that speaks to
//! it. Stop: kubelet, controllers, DNS, API server, store: whoever writes goes before what it writes to.

use crate::{
    Exit, certs,
    config::{Component, Datastore, Settings},
    data_dir::DataDir,
    nodes::{LocalNodes, Parts},
    panics, shutdown,
};
use apiserver::User;
use client::Informers;
use controllers::Identity;
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    sync::Arc,
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
/// Certificates are looked at this often: a machine that has slept for long is soon right again.
const RENEWAL: Duration = Duration::from_secs(3600);
/// A node says that it is alive so many times in the grace period (Kubernetes': 10 s and 40 s), but not less often than by
/// default.
const BEATS_IN_GRACE: u32 = 4;
/// Kubernetes' default range.
const NODE_PORTS: (u16, u16) = (30000, 32767);
/// What a server of an ordinary user cannot do, beside what its service proxy says for itself.
const NOT_ROOT: &str = "not root: files of volumes cannot be given an owner (fsGroup), and what pods wrote as root \
                        cannot be removed";
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
    certificates: certs::Certificates,
    names: certs::Names,
    informers: Informers,
    informers_stop: CancellationToken,
    docker: Option<bollard::Docker>,
    nodes: Arc<LocalNodes>,
    controllers: Option<controllers::Server>,
    dns: Option<dns::Server>,
    proxy: Option<kubelet::proxy::Proxy>,
}

impl Cluster {
    async fn start(settings: Settings, stop: CancellationToken) -> Result<Self, Exit> {
        let data = DataDir::open(&settings.data_dir)?;
        let kubelets = kubelet_configs(&settings, &data)?;
        let first = kubelets.first().ok_or_else(|| Exit::usage("--nodes must be at least 1"))?;
        let (gateway, machine) = (first.pod_cidr.gateway(), first.node_ip);
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
        let nodes = Arc::new(LocalNodes::default());
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
            toleration_seconds: settings.toleration_seconds.into(),
            audit_log: settings.audit_log.clone(),
        };
        let api = apiserver::Server::bind(config, Arc::clone(&store), nodes.clone())
            .await
            .map_err(|e| Exit::usage(format!("cannot serve the API: {e}")))?;
        let port = api.addresses().first().map_or(settings.port, SocketAddr::port);
        let url = format!("https://{}", SocketAddr::new(reachable(&bind), port));
        certs::write_private(&settings.kubeconfig, &certs::kubeconfig(&url, &certificates))?;

        let informers_stop = CancellationToken::new();
        let informers =
            Informers::new(api.client(User::of("system:minik8s-informers", &[])), informers_stop.clone());
        let proxy = if docker.is_some() && !settings.disabled(Component::Proxy) {
            let config = kubelet::proxy::Config {
                cluster_id: data.cluster_id().to_owned(),
                nodes: kubelets.iter().map(local_node).collect(),
                cluster_cidr: settings.cluster_cidr,
                service_cidr: settings.service_cidr,
            };
            Some(kubelet::proxy::Proxy::new(config, &informers))
        } else {
            None
        };
        if let Some(docker) = &docker {
            let parts = kubelets.iter().map(|config| Parts {
                client: api
                    .client(User::of(&format!("system:node:{}", config.node_name), &[apiserver::NODES])),
                informers: informers.clone(),
                docker: docker.clone(),
                dir: data.node(&config.node_name),
                config: kubelet::Config {
                    service_proxy: proxy.as_ref().map(kubelet::proxy::Proxy::status),
                    ..config.clone()
                },
            });
            nodes.set(parts.collect());
        }
        let authority = controllers::certificates::Authority::new(&certificates.ca, &certificates.ca_key)
            .map_err(|e| Exit::failed(format!("cannot sign certificates: {e}")))?;
        let authority = Arc::new(authority);
        let controllers = (!settings.disabled(Component::Controllers)).then(|| {
            let config = controllers::Config {
                volumes_dir: data.volumes(),
                root_ca: certificates.ca.clone(),
                authority: Some(authority),
                cluster_cidr: settings.cluster_cidr.to_string(),
                service_cidr: settings.service_cidr.to_string(),
                host: first.node_name.clone(),
                scheduler: !settings.disabled(Component::Scheduler),
                node_monitor_grace_period: settings.node_monitor_grace_period,
                ..controllers::Config::default()
            };
            let client = |identity| {
                api.client(match identity {
                    Identity::Scheduler => User::of("system:kube-scheduler", &[]),
                    Identity::Controller(name) => User::service_account("kube-system", name),
                })
            };
            controllers::Server::bind(config, client, informers.clone())
        });
        let dns = if docker.is_some() && !settings.disabled(Component::Dns) {
            let config = dns::Config {
                bind: kubelets
                    .iter()
                    .map(|node| SocketAddr::new(node.pod_cidr.gateway().into(), kubelet::config::DNS_PORT))
                    .collect(),
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
        Ok(Self {
            settings,
            data,
            stop,
            store,
            api,
            certificates,
            names,
            informers,
            informers_stop,
            docker,
            nodes,
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
        let (nodes, token) = (self.nodes, node_stop.clone());
        node_tasks.spawn(async move { nodes.run(token).await });
        let renewal = renew_certificates(Renewing {
            tls,
            current: self.certificates,
            renewal: certs::Renewal { dir: self.data.pki(), names: self.names },
            kubeconfig: self.settings.kubeconfig.clone(),
            url: url.clone(),
        });
        api_tasks.spawn(api_stop.clone().run_until_cancelled_owned(renewal));
        let announcement = announce(latches, url, self.settings.kubeconfig.clone(), started);
        api_tasks.spawn(self.stop.clone().run_until_cancelled_owned(announcement));

        self.stop.cancelled().await;
        let order = async {
            for (what, token, tasks) in [
                ("kubelets", &node_stop, &node_tasks),
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

/// Everything that renewing certificates touches.
struct Renewing {
    tls: apiserver::listen::Tls,
    current: certs::Certificates,
    renewal: certs::Renewal,
    kubeconfig: PathBuf,
    url: String,
}

/// Looks now and then whether a certificate is due: new connections get the new one, open ones stay as they are, and
/// the kubeconfig is replaced whole when the administrator's certificate or the CA is another.
async fn renew_certificates(mut renewing: Renewing) {
    loop {
        tokio::time::sleep(RENEWAL).await;
        let turn = blocking(move || {
            let outcome = renew(&mut renewing);
            Ok((renewing, outcome))
        });
        let outcome = match turn.await {
            Ok((back, outcome)) => {
                renewing = back;
                outcome
            }
            Err(exit) => {
                tracing::error!(error = exit.message, "certificates are not renewed any more");
                return;
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(error, "certificates were not renewed; trying again");
        }
    }
}

fn renew(renewing: &mut Renewing) -> Result<(), String> {
    let Renewing { tls, current, renewal, kubeconfig, url } = renewing;
    let Some(new) = renewal.turn(current, jiff::Timestamp::now()).map_err(|exit| exit.message)? else {
        return Ok(());
    };
    tls.replace(&new.serving_cert, &new.serving_key, &new.ca).map_err(|e| e.to_string())?;
    if (&new.admin_cert, &new.ca) != (&current.admin_cert, &current.ca) {
        certs::write_private(kubeconfig, &certs::kubeconfig(url, &new)).map_err(|exit| exit.message)?;
    }
    tracing::info!("certificates were renewed");
    *current = new;
    Ok(())
}

/// What each local node's kubelet is told. The first node is the machine itself; the others share it.
fn kubelet_configs(settings: &Settings, data: &DataDir) -> Result<Vec<kubelet::Config>, Exit> {
    let nodes = settings.node_names.len();
    let heartbeat = settings.node_monitor_grace_period / BEATS_IN_GRACE;
    (0u8..)
        .zip(&settings.node_names)
        .map(|(index, name)| {
            let cidr = settings
                .cluster_cidr
                .node(u32::from(index) + 1)
                .ok_or_else(|| Exit::usage(format!("--cluster-cidr holds no range for node {name:?}")))?;
            let dir = if index == 0 { settings.data_dir.clone() } else { data.node(name) };
            let mut config = kubelet::Config::new(name, index, data.cluster_id(), dir, cidr);
            config.cluster_dns = settings.service_cidr.nth(10);
            config.cluster_domain = settings.cluster_domain.clone();
            config.api_service = (settings.service_cidr.nth(1), 443);
            config.node_ip = if index == 0 { machine_address() } else { config.node_ip };
            config.max_pods = settings.max_pods;
            config.nodes_on_machine = u32::try_from(nodes).unwrap_or(u32::MAX);
            config.heartbeat = heartbeat.min(kubelet::config::DEFAULT_HEARTBEAT);
            config.publish_dns = !settings.disabled(Component::Dns);
            if !rustix::process::geteuid().is_root() {
                config.missing_privileges.push(NOT_ROOT.to_owned());
            }
            Ok(config)
        })
        .collect()
}

/// What the service proxy has to know of a node.
fn local_node(config: &kubelet::Config) -> kubelet::proxy::LocalNode {
    kubelet::proxy::LocalNode {
        name: config.node_name.clone(),
        bridge: config.bridge_name.clone(),
        pod_cidr: config.pod_cidr,
        gateway: config.pod_cidr.gateway(),
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
    dns.extend(settings.node_names.iter().cloned());
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
