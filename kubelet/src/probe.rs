//! Probes: when each is due, and what their results add up to. Pure; `probe::run` does the asking.
//!
//! Results belong to one container instance: another id starts afresh. Until its startup probe has succeeded a container's
//! other probes wait; one that its liveness or startup probe has given up is not asked again.

mod grpc;
mod http;
pub(crate) mod run;

pub(crate) use http::{HttpGet, get as http_get};

use crate::container_plan::Health;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container as Spec, Probe};
use std::collections::BTreeMap;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events begin: "Readiness probe failed: …".
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
    fn of(self, spec: &Spec) -> Option<&Probe> {
        match self {
            Kind::Startup => spec.startup_probe.as_ref(),
            Kind::Liveness => spec.liveness_probe.as_ref(),
            Kind::Readiness => spec.readiness_probe.as_ref(),
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Startup, Kind::Liveness, Kind::Readiness];

/// All probes of one pod's running containers, by container id.
#[derive(Debug, Default)]
pub(crate) struct Probes {
    instances: BTreeMap<String, Instance>,
}

#[derive(Debug)]
struct Instance {
    name: String,
    tracks: BTreeMap<Kind, Track>,
}

#[derive(Debug)]
struct Track {
    probe: Probe,
    due: Timestamp,
    asking: bool,
    /// The last result and how often in a row it came.
    streak: (bool, i32),
    /// What the results add up to so far.
    verdict: Option<bool>,
}

impl Track {
    fn period(&self) -> SignedDuration {
        SignedDuration::from_secs(self.probe.period_seconds.unwrap_or(10).max(1).into())
    }
}

/// A running container that may have probes.
pub(crate) struct Running<'a> {
    pub(crate) id: &'a str,
    pub(crate) spec: &'a Spec,
    pub(crate) since: Timestamp,
    /// (started, ready) as last told of this very instance: a restarted kubelet goes on from there, so that a pod that is
    /// ready does not stop being it for a moment.
    pub(crate) told: Option<(bool, bool)>,
}

impl Probes {
    /// Makes the set of instances be these.
    pub(crate) fn sync<'a>(&mut self, running: impl Iterator<Item = Running<'a>>) {
        let mut instances = BTreeMap::new();
        for running in running {
            let instance = self.instances.remove(running.id).unwrap_or_else(|| Instance::new(&running));
            if !instance.tracks.is_empty() {
                instances.insert(running.id.to_owned(), instance);
            }
        }
        self.instances = instances;
    }

    /// Probes to ask now; each is handed out once until its result is in. `stopping` leaves only readiness.
    pub(crate) fn due(&mut self, now: Timestamp, stopping: bool) -> Vec<(String, String, Kind, Probe)> {
        let mut due = Vec::new();
        for (id, instance) in &mut self.instances {
            for kind in KINDS {
                if !instance.is_active(kind) || (stopping && kind != Kind::Readiness) {
                    continue;
                }
                if let Some(track) = instance.tracks.get_mut(&kind)
                    && !track.asking
                    && track.due <= now
                {
                    track.asking = true;
                    due.push((id.clone(), instance.name.clone(), kind, track.probe.clone()));
                }
            }
        }
        due
    }

    /// When the next probe is due.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        let active = self.instances.values().flat_map(|instance| {
            let tracks =
                instance.tracks.iter().filter(|(kind, track)| !track.asking && instance.is_active(**kind));
            tracks.map(|(_, track)| track.due)
        });
        active.min()
    }

    /// Takes a result in; says whether it changed anything.
    pub(crate) fn result(&mut self, id: &str, kind: Kind, good: bool, now: Timestamp) -> bool {
        let Some(instance) = self.instances.get_mut(id) else { return false };
        let Some(track) = instance.tracks.get_mut(&kind) else { return false };
        track.asking = false;
        let period = track.period();
        // A late answer must not make the next ones come in a rush.
        track.due = track.due.checked_add(period).unwrap_or(now).max(now);
        track.streak =
            if track.streak.0 == good { (good, track.streak.1.saturating_add(1)) } else { (good, 1) };
        let threshold = if good {
            track.probe.success_threshold.unwrap_or(1)
        } else {
            track.probe.failure_threshold.unwrap_or(3)
        };
        if track.streak.1 < threshold || track.verdict == Some(good) {
            return false;
        }
        track.verdict = Some(good);
        if kind == Kind::Startup && good {
            for track in instance.tracks.values_mut() {
                track.due = now;
            }
        }
        true
    }

    pub(crate) fn health(&self) -> BTreeMap<String, Health> {
        self.instances.iter().map(|(id, instance)| (id.clone(), instance.health())).collect()
    }
}

impl Instance {
    fn new(running: &Running<'_>) -> Self {
        let verdict = |kind: Kind| match (kind, running.told) {
            (Kind::Startup, Some((true, _))) | (Kind::Readiness, Some((true, true))) => Some(true),
            _ => None,
        };
        let track = |kind: Kind, probe: &Probe| {
            let delay = SignedDuration::from_secs(probe.initial_delay_seconds.unwrap_or(0).max(0).into());
            Track {
                probe: probe.clone(),
                due: running.since.checked_add(delay).unwrap_or(running.since),
                asking: false,
                streak: (false, 0),
                verdict: verdict(kind),
            }
        };
        let tracks = KINDS.into_iter().filter_map(|kind| Some((kind, track(kind, kind.of(running.spec)?))));
        Self { name: running.spec.name.clone(), tracks: tracks.collect() }
    }

    fn verdict(&self, kind: Kind) -> Option<Option<bool>> {
        self.tracks.get(&kind).map(|track| track.verdict)
    }

    fn started(&self) -> bool {
        self.verdict(Kind::Startup).is_none_or(|verdict| verdict == Some(true))
    }

    fn is_active(&self, kind: Kind) -> bool {
        if self.health().failed.is_some() {
            return false;
        }
        match kind {
            Kind::Startup => !self.started(),
            Kind::Liveness | Kind::Readiness => self.started(),
        }
    }

    fn health(&self) -> Health {
        let failed = if self.verdict(Kind::Startup) == Some(Some(false)) {
            Some("startup".to_owned())
        } else if self.verdict(Kind::Liveness) == Some(Some(false)) {
            Some("liveness".to_owned())
        } else {
            None
        };
        let ready = self.verdict(Kind::Readiness).is_none_or(|verdict| verdict == Some(true));
        Health { started: self.started(), ready: ready && self.started(), failed }
    }
}

#[cfg(test)]
mod tests;
