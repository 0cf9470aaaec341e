//! Requests of components: each is on its way for a while, may be lost before or after it was served, and may arrive when
//! its sender is no more.

use super::{Actor, Answer, Obj, Server};
use crate::oracle::{Look, Meaning, Oracle, Run};
use client::stage::{Call, Reply, Verb};
use serde_json::json;

/// A request on its way: of a process that lives, or of one that crashed after it had sent it.
pub(super) struct InFlight {
    ticket: u64,
    actor: Actor,
    call: Call,
    /// What its sender had looked at, once that has crashed.
    run: Run,
    /// What the caches on which it rests had shown.
    looks: Vec<Look>,
}

impl Server {
    pub(crate) fn submit(&mut self, actor: Actor, call: Call) -> u64 {
        self.counter += 1;
        let looks = self.oracle.asked(actor, &call, self.now);
        self.in_flight.push(InFlight { ticket: self.counter, actor, call, run: Run::default(), looks });
        self.counter
    }

    pub(crate) fn deliver(&mut self, ticket: u64) -> Answer<Reply> {
        let lost = || kube::Error::Service("the connection was lost".into());
        let Some(at) = self.in_flight.iter().position(|f| f.ticket == ticket) else { return Err(lost()) };
        let InFlight { actor, call, looks, .. } = self.in_flight.swap_remove(at);
        if self.faults && self.rng.u8(..) < 3 {
            return Err(lost());
        }
        let answer = self.serve(actor, call, &looks);
        if self.faults && self.rng.u8(..) < 3 { Err(lost()) } else { answer }
    }

    /// The actor is gone. What it had sent may still arrive.
    pub(crate) fn crashed(&mut self, actor: Actor, surely_late: bool) {
        let late = (surely_late || self.rng.bool()) && self.faults;
        let writes = |f: &InFlight| !matches!(f.call.verb, Verb::Get | Verb::List(_));
        self.in_flight.retain(|f| f.actor != actor || (late && writes(f)));
        let run = self.oracle.run(actor);
        for late in self.in_flight.iter_mut().filter(|f| f.actor == actor && f.ticket != 0) {
            (late.ticket, late.run) = (0, run.clone());
        }
    }

    /// Someone whose request is on its way.
    pub(crate) fn busy(&mut self) -> Option<Actor> {
        let busy: Vec<Actor> = self.in_flight.iter().filter(|f| f.ticket != 0).map(|f| f.actor).collect();
        self.rng.choice(busy)
    }

    /// Whether it has asked for a change and not been served yet.
    pub(crate) fn is_writing(&self, actor: Actor) -> bool {
        self.writing(actor).next().is_some()
    }

    /// How many changes of objects of a kind it has asked for and not been served.
    pub(crate) fn writes(&self, actor: Actor, kind: &str) -> usize {
        self.writing(actor).filter(|f| f.call.kind == kind).count()
    }

    fn writing(&self, actor: Actor) -> impl Iterator<Item = &InFlight> {
        let writes = |f: &&InFlight| !matches!(f.call.verb, Verb::Get | Verb::List(_));
        self.in_flight.iter().filter(move |f| f.actor == actor && f.ticket != 0).filter(writes)
    }

    /// Lets a request of a crashed process arrive.
    pub(crate) fn deliver_late(&mut self) {
        if let Some(at) = self.in_flight.iter().position(|f| f.ticket == 0) {
            let InFlight { actor, call, run, looks, .. } = self.in_flight.remove(at);
            self.say(|| "late:".to_owned());
            let now = self.oracle.swap_run(actor, run);
            let _ = self.serve(actor, call, &looks);
            self.oracle.swap_run(actor, now);
        }
    }

    pub(crate) fn forget_late(&mut self) {
        self.in_flight.retain(|f| f.ticket != 0);
    }

    fn serve(&mut self, actor: Actor, call: Call, looks: &[Look]) -> Answer<Reply> {
        if !matches!(call.verb, Verb::Get | Verb::List(_)) {
            self.say(|| format!("{actor:?}: {} {} {}", verb(&call.verb), call.kind, named(&call)));
        }
        let meaning = Oracle::before(self, actor, &call, looks);
        let released = match &meaning {
            Meaning::Releases(uid) => self.oracle.released.insert(uid.clone()),
            _ => false,
        };
        let one = |object: Obj| Ok(Reply::Object(object.any()));
        let answer = match &call.verb {
            Verb::Get => self.find(call.kind, &call.name).and_then(one),
            Verb::List(_) => {
                let all = self.objects.iter().filter(|((kind, _), _)| *kind == call.kind);
                Ok(Reply::List(all.map(|(_, o)| o.any()).collect()))
            }
            Verb::Create(object) => self.create(Obj::from_any(object)).and_then(one),
            Verb::Replace(object) => self.replace(&call.name, Obj::from_any(object), false).and_then(one),
            Verb::ReplaceStatus(object) => {
                self.replace(&call.name, Obj::from_any(object), true).and_then(one)
            }
            Verb::Patch(patch) | Verb::PatchStatus(patch) => {
                self.patch(call.kind, &call.name, patch).and_then(one)
            }
            Verb::Delete(params) => self.delete(call.kind, &call.name, params).and_then(one),
            Verb::CreateSubresource(_, binding) => {
                self.bind(&call.name, binding).map(|()| Reply::Value(json!({})))
            }
        };
        match (&answer, meaning) {
            (Err(error), meaning) => {
                self.say(|| format!("  refused: {error}"));
                if let (true, Meaning::Releases(uid)) = (released, meaning) {
                    self.oracle.released.remove(&uid);
                }
            }
            (Ok(_), Meaning::Wrong(wrong)) => self.oracle.violated(wrong),
            (Ok(_), _) => {}
        }
        answer
    }
}

fn verb(verb: &Verb) -> String {
    match verb {
        Verb::Get => "get".into(),
        Verb::List(_) => "list".into(),
        Verb::Create(_) => "create".into(),
        Verb::Replace(_) => "replace".into(),
        Verb::ReplaceStatus(_) => "replace status of".into(),
        Verb::Patch(_) => "patch".into(),
        Verb::PatchStatus(_) => "patch status of".into(),
        Verb::Delete(params) => format!("delete (grace {:?})", params.grace_period_seconds),
        Verb::CreateSubresource(_, value) => format!("bind to {}", value["target"]["name"]),
    }
}

fn named(call: &Call) -> String {
    match &call.verb {
        Verb::Create(object) => Obj::from_any(object).meta().name.clone().unwrap_or_default(),
        _ => call.name.clone(),
    }
}
