//! The store that forgets: for tests and `--datastore memory`.

use crate::{
    engine::{Backed, Engine},
    error::Result,
    limits::Limits,
    state::State,
    types::Revision,
    writer::{Group, Log},
};

/// Keeps everything in memory; the rules are the same, only nothing outlives it.
#[derive(Debug)]
pub struct MemoryStore {
    engine: Engine,
}

impl MemoryStore {
    /// An empty store. Fails only if the machine cannot start one more thread.
    pub fn new(limits: Limits) -> Result<Self> {
        let engine = Engine::start(State::new(limits, Revision(0)), Box::new(Nowhere), Vec::new())?;
        Ok(Self { engine })
    }
}

impl Backed for MemoryStore {
    fn engine(&self) -> &Engine {
        &self.engine
    }
}

struct Nowhere;

impl Log for Nowhere {
    fn append(&mut self, _: &Group<'_>) -> Result<()> {
        Ok(())
    }
    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
