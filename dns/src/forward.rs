//! Names that are not ours: asked of the upstream servers, cached, bounded in number and time.

use crate::Error;
use arc_swap::ArcSwapOption;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{
    TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    system_conf,
};
use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Semaphore;

/// Questions under way upstream. A pod that floods gets SERVFAIL, not our memory.
const MAX_IN_FLIGHT: usize = 256;
/// One attempt at one server.
const ATTEMPT: Duration = Duration::from_millis(1200);
/// All attempts together; below the 5 s after which glibc and musl ask again.
const TOTAL: Duration = Duration::from_secs(4);
/// Failures in a row after which upstream counts as down, and how long nobody is made to wait for it then.
const FAILURES: u32 = 3;
const DOWN: Duration = Duration::from_secs(5);
/// Cached answers.
const CACHE_ENTRIES: u64 = 4096;
/// Longest time a negative answer is kept: a developer who just made a name wants to see it.
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// How often the host's configuration is looked at, when there are questions.
const RECHECK: Duration = Duration::from_secs(5);
const RESOLV_CONF: &str = "/etc/resolv.conf";

pub(crate) enum Outcome {
    Records { answers: Vec<Record> },
    Negative { code: ResponseCode, authorities: Vec<Record> },
    Failed,
}

pub(crate) struct Forward {
    /// `None`: the host's configuration is followed.
    fixed: bool,
    /// Our own addresses: asking ourselves would go round for ever.
    own: HashSet<SocketAddr>,
    resolver: ArcSwapOption<TokioResolver>,
    host: Mutex<HostFile>,
    health: Mutex<Health>,
    permits: Semaphore,
}

#[derive(Default)]
struct HostFile {
    checked: Option<Instant>,
    modified: Option<SystemTime>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    down_until: Option<Instant>,
}

impl Health {
    /// Whether a question may be asked. When the pause is over one is let through to find out; the others wait
    /// for its result as if upstream were still down.
    fn admit(&mut self, now: Instant) -> bool {
        match self.down_until {
            Some(until) if now < until => false,
            Some(_) => {
                self.down_until = Some(now + DOWN);
                true
            }
            None => true,
        }
    }

    fn result(&mut self, answered: bool, now: Instant) {
        if answered {
            *self = Self::default();
            return;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            self.down_until = Some(now + DOWN);
        }
    }
}

impl Forward {
    pub(crate) fn new(upstream: Option<&[SocketAddr]>, own: HashSet<SocketAddr>) -> Result<Self, Error> {
        let forward = Self {
            fixed: upstream.is_some(),
            own,
            resolver: ArcSwapOption::empty(),
            host: Mutex::default(),
            health: Mutex::default(),
            permits: Semaphore::new(MAX_IN_FLIGHT),
        };
        match upstream {
            Some(servers) => {
                let servers = servers.iter().map(|address| {
                    let mut server = NameServerConfig::udp_and_tcp(address.ip());
                    server.connections.iter_mut().for_each(|c| c.port = address.port());
                    server
                });
                forward.use_servers(servers.collect()).map_err(|e| Error::Upstream(e.to_string()))?;
            }
            None => forward.follow_host(),
        }
        Ok(forward)
    }

    pub(crate) fn is_enabled(&self) -> bool {
        !self.fixed || self.resolver.load().is_some()
    }

    fn use_servers(&self, mut servers: Vec<NameServerConfig>) -> Result<(), NetError> {
        servers.retain(|s| !s.connections.iter().any(|c| self.own.contains(&SocketAddr::new(s.ip, c.port))));
        if servers.is_empty() {
            self.resolver.store(None);
            return Ok(());
        }
        let mut options = ResolverOpts::default();
        // Names come fully qualified; the host's search list is not ours.
        options.ndots = 0;
        options.timeout = ATTEMPT;
        options.attempts = 1;
        options.cache_size = CACHE_ENTRIES;
        options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
        options.use_hosts_file = ResolveHosts::Never;
        options.max_active_requests = MAX_IN_FLIGHT;
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        self.resolver.store(Some(Arc::new(builder.with_options(options).build()?)));
        Ok(())
    }

    /// Takes the servers of the host's configuration if it is new or changed.
    fn follow_host(&self) {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if host.checked.is_some_and(|at| at.elapsed() < RECHECK) {
            return;
        }
        let modified = std::fs::metadata(RESOLV_CONF).and_then(|m| m.modified()).ok();
        let first = host.checked.replace(Instant::now()).is_none();
        if !first && modified == host.modified {
            return;
        }
        host.modified = modified;
        let servers = match system_conf::read_system_conf() {
            Ok((config, _)) => config.name_servers().to_vec(),
            Err(error) => {
                tracing::warn!(%error, "{RESOLV_CONF} names no server: names outside the cluster get SERVFAIL");
                Vec::new()
            }
        };
        tracing::info!(servers = servers.len(), "upstream servers taken from {RESOLV_CONF}");
        if let Err(error) = self.use_servers(servers) {
            tracing::warn!(%error, "cannot use the servers of {RESOLV_CONF}");
        }
        self.health().result(true, Instant::now());
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn resolve(&self, mut name: Name, kind: RecordType) -> Outcome {
        if !self.fixed {
            self.follow_host();
        }
        let Some(resolver) = self.resolver.load_full() else { return Outcome::Failed };
        let Ok(_permit) = self.permits.try_acquire() else { return Outcome::Failed };
        if !self.health().admit(Instant::now()) {
            return Outcome::Failed;
        }
        name.set_fqdn(true);
        let result = tokio::time::timeout(TOTAL, resolver.lookup(name, kind)).await;
        let outcome = match result {
            Ok(Ok(lookup)) => Outcome::Records { answers: lookup.answers().to_vec() },
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none))))
                if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
            {
                let soa = none.soa.map(|soa| soa.into_record_of_rdata());
                Outcome::Negative { code: none.response_code, authorities: soa.into_iter().collect() }
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "upstream failed");
                // A server that answers with a failure of its own is there.
                self.health().result(matches!(error, NetError::Dns(_)), Instant::now());
                return Outcome::Failed;
            }
            Err(_elapsed) => {
                tracing::debug!("upstream did not answer in time");
                self.health().result(false, Instant::now());
                return Outcome::Failed;
            }
        };
        self.health().result(true, Instant::now());
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_servers_that_are_down() {
        let (mut health, start) = (Health::default(), Instant::now());
        for _ in 0..FAILURES {
            assert!(health.admit(start));
            health.result(false, start);
        }
        assert!(!health.admit(start + DOWN / 2));
        assert!(health.admit(start + DOWN), "one finds out");
        assert!(!health.admit(start + DOWN), "the others do not wait");
        health.result(true, start + DOWN);
        assert!(health.admit(start + DOWN));
    }
}
