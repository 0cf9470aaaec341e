//! A panic that nobody catches (`api::guard`) ends the process in good order: a part of the server that has died
//! without a word would look alive to everyone. Containers live on, and the next start takes over where this one ended.

use crate::Exit;
use api::guard::{self, Panicked};
use std::{
    panic,
    sync::{Arc, OnceLock},
};
use tokio_util::sync::CancellationToken;

/// Set by the first panic that nobody caught.
#[derive(Clone, Default)]
pub struct Watch(Arc<OnceLock<String>>);

impl Watch {
    /// Logs every panic of the process from now on, and cancels `stop` at one that nobody catches.
    pub fn install(stop: CancellationToken) -> Self {
        let watch = Self::default();
        let noted = watch.clone();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            noted.panicked(&Panicked::of(info.payload()), &place, guard::is_caught(), &stop);
        }));
        watch
    }

    fn panicked(&self, panic: &Panicked, place: &str, caught: bool, stop: &CancellationToken) {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or_default();
        tracing::error!(place, thread, caught, "{panic}");
        if !caught {
            // The first is the cause; others may follow from it.
            let _ = self.0.set(format!("{panic} ({place})"));
            stop.cancel();
        }
    }

    /// What the process ends with.
    pub fn outcome(&self) -> Result<(), Exit> {
        match self.0.get() {
            None => Ok(()),
            Some(what) => Err(Exit::failed(format!(
                "a part of the server {what}. This is a defect; pods keep running, start again to go on"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_panic_that_nobody_catches_ends_the_process() {
        let (watch, stop) = (Watch::default(), CancellationToken::new());
        watch.panicked(&Panicked("tea".into()), "a.rs:1:1", true, &stop);
        assert!(!stop.is_cancelled() && watch.outcome().is_ok());
        watch.panicked(&Panicked("milk".into()), "b.rs:2:1", false, &stop);
        watch.panicked(&Panicked("sugar".into()), "c.rs:3:1", false, &stop);
        assert!(stop.is_cancelled());
        let exit = watch.outcome().unwrap_err();
        assert!(exit.message.contains("panicked: milk (b.rs:2:1)"), "{}", exit.message);
        assert_eq!(exit.code, 1);
    }
}
