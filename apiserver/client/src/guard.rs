//! The rules by which components keep their promises, by name, so that tests can take one away and show what it is for.
//!
//! In a build without feature `testing` a guard is the constant `true`: nothing can turn it off.

macro_rules! guards {
    ($($(#[$doc:meta])* $guard:ident,)*) => {
        /// One rule. Where it is kept, the code asks [`Guard::holds`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Guard {
            $($(#[$doc])* $guard,)*
        }

        impl Guard {
            pub const ALL: &'static [Guard] = &[$(Guard::$guard),*];
        }
    };
}

guards! {
    /// Informers: what a cache has seen already is no news, so that it never goes back.
    SeenOnce,
    /// StatefulSet: set, pods and revisions are read from the API server before anything is changed.
    LiveRead,
    /// Controllers: a deletion or change of metadata is valid for the object exactly as it was seen.
    AsSeen,
    /// StatefulSet: under OrderedReady an ordinal waits for those below it.
    PredecessorReady,
    /// StatefulSet: under OrderedReady a surplus pod stays while one below it is not healthy.
    ScaleDownHealthy,
    /// StatefulSet: a pod is not made on a claim that is going away.
    ClaimStays,
    /// Eviction: a pod stays while its toleration lasts.
    Toleration,
    /// Eviction: nobody is evicted while no node is heard of.
    AllSilent,
    /// Eviction: it marks, and the object stays until the kubelet has seen the containers dead.
    GracefulEviction,
    /// Pod garbage: the API server is asked whether the node is really gone, or out of service.
    NodeAsked,
    /// Pod garbage: what is removed is the pod that was looked at.
    GarbageUid,
    /// Kubelet: a pod has ended only when every container is dead.
    DeadFirst,
    /// Kubelet: a new pod of a name waits until the last one of that name is gone from the node.
    NameWaits,
    /// Kubelet: what was deleted or replaced while it was away is dead before the node is Ready.
    ReturnFirst,
    /// Kubelet: when it begins it believes its cache only once that is as new as the API server.
    CaughtUp,
    /// Kubelet: what was gone when it began does not begin, whatever a late watch shows.
    GoneBefore,
    /// Kubelet: it removes the object of the pod it has ended, not another one of that name.
    DeleteUid,
    /// Kubelet: it writes the status of its pod, not of another one of that name.
    StatusUid,
    /// Kubelet: it mounts a volume only for the claim that the volume names.
    VolumeNamesClaim,
    /// Volumes: one that was reserved for a claim that got another is free again.
    GiveBack,
    /// Volumes: a volume is given to a claim only as it was seen, free.
    ReserveAsSeen,
    /// Volumes: data goes only after the API server said that the claim is gone.
    ReclaimAsked,
    /// Volumes: a claim stays while a scheduled pod uses it.
    ClaimHeld,
}

#[cfg(not(any(test, feature = "testing")))]
impl Guard {
    #[inline(always)]
    pub const fn holds(self) -> bool {
        true
    }
}

#[cfg(any(test, feature = "testing"))]
mod switch {
    use super::Guard;
    use std::cell::Cell;

    thread_local! {
        static OFF: Cell<Option<Guard>> = const { Cell::new(None) };
    }

    impl Guard {
        pub fn holds(self) -> bool {
            OFF.get() != Some(self)
        }

        /// Runs `work` as if the code did not have this rule, on this thread.
        pub fn without<T>(self, work: impl FnOnce() -> T) -> T {
            let before = OFF.replace(Some(self));
            let done = work();
            OFF.set(before);
            done
        }
    }
}
