//! The API server as a whole: put together, bound, run, stopped.

use crate::{
    Config, Latch, Latches, NodeDialer, User,
    admission::Chain,
    audit::{self, Audit},
    auth::{Authenticator, Authorizer, Peer, rbac::follow, token::Signer},
    bootstrap, custom, kinds,
    listen::{BindError, Listener, Tls, TlsError, WithPeer},
    registry::{addresses, allocate::Allocator, expire},
    router::{Router, router},
    state::{App, Limits, Parts},
};
use std::{io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use storage::Store;
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

/// For streams and writes under way to end after they were told to.
const TASKS_DEADLINE: Duration = Duration::from_secs(5);

/// Why the server cannot start. Display is the one sentence a person needs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Config(String),
    #[error("--audit-log {}: {source}", path.display())]
    Audit { path: PathBuf, source: io::Error },
    #[error("the objects in the store cannot be read: {0}")]
    Store(String),
}

/// An API server that is bound and knows what its store holds, but does not accept connections yet.
/// In-process clients work from now on.
pub struct Server {
    app: App,
    router: Router,
    listener: Listener,
    tls: Tls,
    bootstrapped: Latch,
    audit: Option<audit::Writer>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Server {
    pub async fn bind(
        config: Config,
        store: Arc<dyn Store>,
        dialer: Arc<dyn NodeDialer>,
    ) -> Result<Self, Error> {
        let tls = Tls::new(&config.serving_cert, &config.serving_key, &config.client_ca)?;
        let signer = Signer::new(&config.service_account_key, config.issuer()).map_err(Error::Config)?;
        let allocator = Allocator::new(&config.service_cidr, config.node_ports).map_err(Error::Config)?;
        let listener = Listener::bind(&config.bind)?;
        let (audit, audit_writer) = match &config.audit_log {
            Some(path) => {
                let error = |source| Error::Audit { path: path.clone(), source };
                let (audit, writer) = Audit::open(path).map_err(error)?;
                (audit, Some(writer))
            }
            None => (Audit::default(), None),
        };
        let (stop, tasks, latches) = (CancellationToken::new(), TaskTracker::new(), Latches::default());
        let bootstrapped = latches.latch("bootstrap");
        let authorizer = Arc::new(Authorizer::default());
        let app = App::new(Parts {
            chain: Chain::standard(&config, &authorizer),
            authorizer: authorizer.clone(),
            config,
            store,
            kinds: kinds::all(),
            dialer,
            authenticator: Authenticator::new(signer),
            allocator,
            latches,
            limits: Limits::default(),
            audit,
            stop: stop.clone(),
            tasks: tasks.clone(),
        });
        app.registry.restore_addresses().await.map_err(|e| Error::Store(e.to_string()))?;
        follow::prime(&authorizer, &app.registry).await.map_err(|e| Error::Store(e.to_string()))?;
        custom::follow::prime(&app.registry).await.map_err(|e| Error::Store(e.to_string()))?;
        let router = router(app.clone());
        Ok(Self { router, app, listener, tls, bootstrapped, audit: audit_writer, stop, tasks })
    }

    /// Where it listens, in the order of `Config::bind`, with real port numbers.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.listener.addresses()
    }

    /// A client in this process that acts as `user`, with no socket. Cannot upgrade connections (exec, port-forward).
    /// Must be called within a runtime.
    pub fn client(&self, user: User) -> kube::Client {
        kube::Client::new(WithPeer::new(self.router.clone(), Peer::internal(user)), "default")
    }

    /// A named condition of `/readyz`; the same name is the same latch.
    pub fn latch(&self, name: &str) -> Latch {
        self.app.latches.latch(name)
    }

    /// All of them, for whoever waits for readiness.
    pub fn latches(&self) -> Latches {
        self.app.latches.clone()
    }

    /// The certificates of new connections, to be renewed while serving.
    pub fn tls(&self) -> Tls {
        self.tls.clone()
    }

    /// The router itself: requests must carry a [`Peer`] extension. For tests and in-process use.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Serves until `token` is cancelled; then no new connection, watches end, requests in flight get a few seconds.
    pub async fn run(self, token: CancellationToken) {
        let port = self.addresses().first().map_or(443, SocketAddr::port);
        let client = self.client(User::component("system:apiserver"));
        let keeper = client.clone();
        let objects = bootstrap::Objects::new(&self.app.config, self.app.registry.allocator(), port);
        let (stop, stop_definitions, bootstrapped) =
            (self.stop.clone(), self.stop.clone(), self.bootstrapped);
        let (authorizer, registry) = (self.app.authorizer.clone(), self.app.registry.clone());
        let work = async move {
            objects.ensure(client).await;
            bootstrapped.ready();
            tokio::join!(follow::run(authorizer, registry), objects.keep(keeper));
        };
        self.tasks.spawn(stop.run_until_cancelled_owned(work));
        self.tasks.spawn(
            stop_definitions.run_until_cancelled_owned(custom::follow::run(self.app.registry.clone())),
        );
        self.tasks.spawn(expire::run(self.app.clone()));
        self.tasks.spawn(addresses::run(self.app.clone()));
        // It ends after everything that it could have to tell of.
        let (audit, audit_stop) = (TaskTracker::new(), CancellationToken::new());
        if let Some(writer) = self.audit {
            audit.spawn(writer.run(audit_stop.clone()));
        }
        let stop = async {
            token.cancelled().await;
            self.stop.cancel();
        };
        tokio::join!(stop, self.listener.run(self.router, self.tls, token.clone()));
        self.tasks.close();
        if timeout(TASKS_DEADLINE, self.tasks.wait()).await.is_err() {
            warn!(tasks = self.tasks.len(), "requests did not end in time");
        }
        audit.close();
        audit_stop.cancel();
        if timeout(TASKS_DEADLINE, audit.wait()).await.is_err() {
            warn!("the audit log could not be written to its end in time");
        }
    }
}

#[cfg(test)]
mod tests;
