//! How the sets of a deployment are to be scaled. Pure.
//!
//! During a roll-out: first up, as far as the surge allows; then down, old pods that serve nobody first, and others as
//! far as availability allows. A deployment that is scaled meanwhile grows or shrinks all its sets in proportion, so
//! that the share of what is not proven yet stays.

use super::sets::{Set, by_age};
use k8s_openapi::{
    api::apps::v1::{Deployment, RollingUpdateDeployment},
    apimachinery::pkg::util::intstr::IntOrString,
};

/// The numbers a deployment goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) wanted: i32,
    pub(super) surge: i32,
    pub(super) unavailable: i32,
    pub(super) rolling: bool,
}

impl Limits {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = deployment.spec.clone().unwrap_or_default();
        let wanted = spec.replicas.unwrap_or(1).max(0);
        let strategy = spec.strategy.unwrap_or_default();
        let rolling = strategy.type_.as_deref() != Some("Recreate");
        let RollingUpdateDeployment { max_surge, max_unavailable } =
            strategy.rolling_update.unwrap_or_default();
        let (surge, mut unavailable) = (of(max_surge, wanted, true), of(max_unavailable, wanted, false));
        if surge == 0 && unavailable == 0 {
            // A share may come to nothing; then nothing would ever move.
            unavailable = 1;
        }
        if !rolling {
            return Self { wanted, surge: 0, unavailable: 0, rolling };
        }
        Self { wanted, surge, unavailable: unavailable.min(wanted), rolling }
    }

    pub(super) fn max(&self) -> i32 {
        self.wanted.saturating_add(self.surge)
    }

    pub(super) fn min_available(&self) -> i32 {
        self.wanted - self.unavailable
    }
}

/// A number, or a share of `total`, rounded up or down.
fn of(value: Option<IntOrString>, total: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = i64::from(total) * percent;
            let share = if up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

pub(super) fn sum(sets: &[Set], of: impl Fn(&Set) -> i32) -> i32 {
    sets.iter().map(of).fold(0, i32::saturating_add)
}

/// One step of a rolling update; whether anything was scaled. `new` is among the deployment's sets, or about to be.
pub(super) fn roll(new: &mut Set, old: &mut [Set], limits: Limits) -> bool {
    scale_up(new, old, limits) || scale_down(new, old, limits)
}

/// How many pods the new set may have now.
pub(super) fn room_for_new(new: &Set, old: &[Set], limits: Limits) -> i32 {
    let current = sum(old, Set::replicas).saturating_add(new.replicas());
    let room = (limits.max() - current).max(0);
    new.replicas() + room.min(limits.wanted - new.replicas())
}

fn scale_up(new: &mut Set, old: &[Set], limits: Limits) -> bool {
    let wanted = if new.replicas() > limits.wanted { limits.wanted } else { room_for_new(new, old, limits) };
    if wanted == new.replicas() {
        return false;
    }
    new.scale(wanted, limits.wanted, limits.max());
    true
}

fn scale_down(new: &Set, old: &mut [Set], limits: Limits) -> bool {
    if sum(old, Set::replicas) == 0 {
        return false;
    }
    let all = sum(old, Set::replicas).saturating_add(new.replicas());
    // What the new set has not brought up yet counts as missing.
    let mut spare = all - limits.min_available() - (new.replicas() - new.serving());
    if spare <= 0 {
        return false;
    }
    by_age(old);
    let mut scaled = false;
    let mut take = |set: &mut Set, count: i32| {
        if count > 0 {
            set.scale(set.replicas() - count, limits.wanted, limits.max());
            scaled = true;
        }
        count.max(0)
    };
    for set in old.iter_mut() {
        let unhealthy = set.replicas() - set.serving();
        spare -= take(set, unhealthy.min(spare).min(set.replicas()));
        if spare <= 0 {
            break;
        }
    }
    let mut available = new.serving() + sum(old, Set::serving) - limits.min_available();
    for set in old.iter_mut() {
        if available <= 0 {
            break;
        }
        available -= take(set, set.replicas().min(available));
    }
    scaled
}

/// All old sets to nothing; whether anything was scaled.
pub(super) fn drain(old: &mut [Set], limits: Limits) -> bool {
    let mut scaled = false;
    for set in old.iter_mut().filter(|s| s.replicas() > 0) {
        set.scale(0, limits.wanted, limits.max());
        scaled = true;
    }
    scaled
}

/// What a change of the deployment's own size means for its sets.
pub(super) fn resize(new: Option<&mut Set>, old: &mut [Set], limits: Limits, actual: i32) {
    by_age(old);
    let active_old = old.iter().filter(|s| s.replicas() > 0).count();
    let new_is_active = new.as_ref().is_some_and(|s| s.replicas() > 0);
    match (active_old, new_is_active) {
        // None, or one, has pods: it takes them all.
        (0, _) => {
            let only = match new {
                Some(new) => Some(new),
                None => old.last_mut(),
            };
            if let Some(only) = only {
                only.scale(limits.wanted, limits.wanted, limits.max());
            }
            return;
        }
        (1, false) => {
            let only = old.iter_mut().find(|s| s.replicas() > 0);
            if let Some(only) = only {
                only.scale(limits.wanted, limits.wanted, limits.max());
            }
            return;
        }
        _ => {}
    }
    if let Some(new) = &new
        && new.replicas() == limits.wanted
        && new.desired() == Some(limits.wanted)
        && new.available() == limits.wanted
    {
        drain(old, limits);
        return;
    }
    let mut all: Vec<&mut Set> = old.iter_mut().collect();
    all.extend(new);
    all.retain(|s| s.replicas() > 0);
    if !limits.rolling {
        // Recreate goes on by itself, once the sets know the new size.
        all.into_iter().for_each(|s| s.mark(limits.wanted, limits.max()));
        return;
    }
    proportionally(all, limits, actual);
}

/// Grows or shrinks all by their share. The largest set takes what rounding leaves over; of sets of one size the newer
/// grow first and the older shrink first.
fn proportionally(mut all: Vec<&mut Set>, limits: Limits, actual: i32) {
    let allowed = if limits.wanted > 0 { limits.max() } else { 0 };
    let to_add = allowed - all.iter().map(|s| s.replicas()).fold(0, i32::saturating_add);
    let created = |s: &Set| s.set.metadata.creation_timestamp.as_ref().map(|t| t.0);
    all.sort_by(|a, b| {
        let by_size = b.replicas().cmp(&a.replicas());
        let by_age = created(a).cmp(&created(b));
        by_size.then(if to_add > 0 { by_age.reverse() } else { by_age })
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(all.len());
    for set in &all {
        let mut share = 0;
        if to_add != added {
            let left = to_add - added;
            let fraction = fraction(set, limits, actual);
            share = if to_add > 0 { fraction.min(left).max(0) } else { fraction.max(left).min(0) };
        }
        added += share;
        sizes.push(set.replicas() + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    for (set, size) in all.into_iter().zip(sizes) {
        set.scale(size, limits.wanted, limits.max());
    }
}

/// By how much the set changes if its share of the deployment stays.
fn fraction(set: &Set, limits: Limits, actual: i32) -> i32 {
    if limits.wanted == 0 {
        return -set.replicas();
    }
    let before = set.max().filter(|m| *m > 0).unwrap_or(actual);
    if before == 0 {
        return 0;
    }
    let size = f64::from(set.replicas()) * f64::from(limits.max()) / f64::from(before);
    // Sizes are far below what an f64 holds exactly.
    size.round() as i32 - set.replicas()
}
