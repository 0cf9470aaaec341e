//! A runtime that only remembers: for tests and for nodes that run nothing (`--fake-nodes`).
//!
//! Containers "run" until they are told to end: by a stop, by [`Fake::exit`], or by a script for containers of their name
//! ([`Script`]). Every call is recorded. Images exist when they were added, or always (`any_image`).

use super::{
    Action, AttachSpec, BoxStreamIo, Container, ContainerSpec, Error, Event, ExecSpec, Image, Info,
    LogOptions, Output, RegistryAuth, Resources, Result, Runtime, SANDBOX_NAME, SandboxSpec, Session, State,
    Stats,
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use jiff::Timestamp;
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::broadcast;

/// Events waiting for a slow reader; one that falls behind is told to list again.
const EVENTS: usize = 1024;

/// What the next container of a name does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// Ends with this code as soon as it has started.
    Exit(i32),
    /// Cannot be started, for this reason.
    StartError(String),
    /// Cannot be created, for this reason.
    CreateError(String),
}

pub struct Fake {
    state: Mutex<Inner>,
    events: broadcast::Sender<Event>,
}

#[derive(Default)]
struct Inner {
    containers: Vec<Container>,
    images: HashMap<String, Image>,
    any_image: bool,
    scripts: HashMap<String, VecDeque<Script>>,
    execs: HashMap<String, VecDeque<(i32, String)>>,
    calls: Vec<String>,
    next_id: u64,
    down: Option<String>,
}

impl Default for Fake {
    fn default() -> Self {
        Self { state: Mutex::default(), events: broadcast::Sender::new(EVENTS) }
    }
}

impl Fake {
    /// With every image there is.
    pub fn with_any_image() -> Self {
        let fake = Self::default();
        fake.lock().any_image = true;
        fake
    }

    pub fn add_image(&self, name: &str) {
        let image = Image { id: format!("sha256:{name}"), tags: vec![name.to_owned()], ..Image::default() };
        self.lock().images.insert(name.to_owned(), image);
    }

    /// What containers of this name do, one after another; then they run.
    pub fn script(&self, container: &str, scripts: impl IntoIterator<Item = Script>) {
        self.lock().scripts.entry(container.to_owned()).or_default().extend(scripts);
    }

    /// What the next execs in containers of this name give: (exit code, output). The last one is repeated.
    pub fn exec_results(&self, container: &str, results: impl IntoIterator<Item = (i32, &'static str)>) {
        let results = results.into_iter().map(|(code, text)| (code, text.to_owned()));
        self.lock().execs.entry(container.to_owned()).or_default().extend(results);
    }

    /// Lets the newest running container of this name end by itself.
    pub fn exit(&self, container: &str, code: i32) {
        let ended = {
            let mut inner = self.lock();
            let found = inner.containers.iter_mut().rev().find(|c| c.name == container && c.is_running());
            found.map(|container| {
                end(container, code);
                (container.pod.uid.clone(), container.id.clone())
            })
        };
        if let Some((uid, container_id)) = ended {
            self.tell(Event::Pod { uid, container_id, action: Action::Died });
        }
    }

    /// The engine goes away (with a reason) or comes back.
    pub fn set_down(&self, why: Option<&str>) {
        self.lock().down = why.map(str::to_owned);
        self.tell(match why {
            Some(why) => Event::Disconnected(why.to_owned()),
            None => Event::Connected,
        });
    }

    pub fn containers(&self) -> Vec<Container> {
        self.lock().containers.clone()
    }

    /// Calls that changed something, oldest first: `verb name#attempt`.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self) -> Result<MutexGuard<'_, Inner>> {
        let inner = self.lock();
        match &inner.down {
            Some(why) => Err(Error::Unavailable(why.clone())),
            None => Ok(inner),
        }
    }

    fn tell(&self, event: Event) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    fn with<T>(&self, id: &str, verb: &str, action: impl FnOnce(&mut Container) -> T) -> Result<T> {
        let mut inner = self.up()?;
        let inner = &mut *inner;
        let found = inner.containers.iter_mut().find(|container| container.id == id);
        let container = found.ok_or_else(|| Error::NotFound(format!("container {id}")))?;
        inner.calls.push(format!("{verb} {}#{}", container.name, container.attempt));
        Ok(action(container))
    }
}

fn end(container: &mut Container, code: i32) {
    let started = match container.state {
        State::Running { started } => Some(started),
        _ => None,
    };
    container.pid = None;
    container.state =
        State::Exited { code, oom_killed: false, started, finished: Timestamp::now(), error: None };
}

impl Inner {
    fn add(&mut self, container: Container) -> Container {
        self.containers.push(container.clone());
        container
    }
    fn id(&mut self) -> String {
        self.next_id += 1;
        format!("fake{:04}", self.next_id)
    }
}

#[async_trait]
impl Runtime for Fake {
    async fn info(&self) -> Result<Info> {
        drop(self.up()?);
        Ok(Info {
            runtime_version: "fake://1".to_owned(),
            operating_system: "linux".to_owned(),
            architecture: "amd64".to_owned(),
            ..Info::default()
        })
    }

    async fn prepare(&self) -> Result<()> {
        self.up().map(drop)
    }

    async fn list(&self) -> Result<Vec<Container>> {
        let mut containers = self.up()?.containers.clone();
        containers.reverse();
        Ok(containers)
    }

    async fn list_pod(&self, pod_uid: &str) -> Result<Vec<Container>> {
        let mut containers = self.list().await?;
        containers.retain(|container| container.pod.uid == pod_uid);
        Ok(containers)
    }

    fn events(&self) -> BoxStream<'static, Event> {
        let first = match &self.lock().down {
            Some(why) => Event::Disconnected(why.clone()),
            None => Event::Connected,
        };
        let live = stream::unfold(self.events.subscribe(), |mut events| async move {
            match events.recv().await {
                Ok(event) => Some((event, events)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Event::Connected, events)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        });
        stream::iter([first]).chain(live).boxed()
    }

    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<Container> {
        let sandbox = {
            let mut inner = self.up()?;
            inner.calls.push(format!("sandbox {}#{}", spec.pod.name, spec.attempt));
            let known =
                |c: &&Container| c.is_sandbox() && c.pod.uid == spec.pod.uid && c.attempt == spec.attempt;
            if let Some(found) = inner.containers.iter().find(known) {
                return Ok(found.clone());
            }
            let id = inner.id();
            inner.add(Container {
                id,
                pod: spec.pod.clone(),
                name: SANDBOX_NAME.to_owned(),
                sandbox_id: String::new(),
                state: State::Running { started: Timestamp::now() },
                created: Timestamp::now(),
                attempt: spec.attempt,
                hash: String::new(),
                image: "pause".to_owned(),
                image_id: "docker://pause".to_owned(),
                pid: None,
                ip: spec.ip.map(IpAddr::V4),
                tty: false,
                stdin: false,
                resources: None,
                made_with: String::new(),
                grace: spec.grace,
            })
        };
        let (uid, container_id) = (sandbox.pod.uid.clone(), sandbox.id.clone());
        self.tell(Event::Pod { uid, container_id, action: Action::Started });
        Ok(sandbox)
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<String> {
        let mut inner = self.up()?;
        inner.calls.push(format!("create {}#{}", spec.name, spec.attempt));
        if let Some(Script::CreateError(why)) =
            inner.scripts.get(&spec.name).and_then(VecDeque::front).cloned()
        {
            inner.scripts.entry(spec.name.clone()).or_default().pop_front();
            return Err(Error::CreateContainer(why));
        }
        let known =
            |c: &&Container| c.name == spec.name && c.pod.uid == spec.pod.uid && c.attempt == spec.attempt;
        if let Some(found) = inner.containers.iter().find(known) {
            return Ok(found.id.clone());
        }
        let id = inner.id();
        let made = inner.add(Container {
            id,
            pod: spec.pod.clone(),
            name: spec.name.clone(),
            sandbox_id: spec.sandbox_id.clone(),
            state: State::Created,
            created: Timestamp::now(),
            attempt: spec.attempt,
            hash: spec.hash.clone(),
            image: spec.image.clone(),
            image_id: format!("docker://{}", spec.image_id),
            pid: None,
            ip: None,
            tty: spec.tty,
            stdin: spec.stdin,
            resources: Some(spec.resources.clone()),
            made_with: spec.made_with.clone(),
            grace: spec.grace,
        });
        Ok(made.id)
    }

    async fn update_container(&self, id: &str, resources: &Resources) -> Result<()> {
        self.with(id, "update", |container| container.resources = Some(resources.clone()))
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        let name = self.inspect(id).await?.name;
        let script = self.lock().scripts.get_mut(&name).and_then(VecDeque::pop_front);
        let uid = self.with(id, "start", |container| {
            let now = Timestamp::now();
            container.state = State::Running { started: now };
            match &script {
                Some(Script::Exit(code)) => end(container, *code),
                Some(Script::StartError(why)) => {
                    container.state = State::Exited {
                        code: 128,
                        oom_killed: false,
                        started: None,
                        finished: now,
                        error: Some(why.clone()),
                    };
                }
                _ => {}
            }
            container.pod.uid.clone()
        })?;
        let action = if script.is_some() { Action::Died } else { Action::Started };
        self.tell(Event::Pod { uid, container_id: id.to_owned(), action });
        match script {
            Some(Script::StartError(why)) => Err(Error::RunContainer(why)),
            _ => Ok(()),
        }
    }

    async fn inspect(&self, id: &str) -> Result<Container> {
        let inner = self.up()?;
        let found = inner.containers.iter().find(|container| container.id == id);
        found.cloned().ok_or_else(|| Error::NotFound(format!("container {id}")))
    }

    async fn stop_container(&self, id: &str, _grace: Duration) -> Result<()> {
        let stopped = self.with(id, "stop", |container| {
            if container.is_running() {
                end(container, 0);
            }
            container.pod.uid.clone()
        });
        match stopped {
            Ok(uid) => self.tell(Event::Pod { uid, container_id: id.to_owned(), action: Action::Died }),
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        match self.with(id, "remove", |container| container.pod.uid.clone()) {
            Ok(uid) => {
                self.lock().containers.retain(|container| container.id != id);
                self.tell(Event::Pod { uid, container_id: id.to_owned(), action: Action::Removed });
                Ok(())
            }
            Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        let inner = self.up()?;
        let any = || Image {
            id: format!("sha256:{reference}"),
            tags: vec![reference.to_owned()],
            ..Image::default()
        };
        Ok(inner.images.get(reference).cloned().or_else(|| inner.any_image.then(any)))
    }

    async fn pull(&self, reference: &str, _: Option<RegistryAuth>) -> Result<Image> {
        self.up()?.calls.push(format!("pull {reference}"));
        let message = "no such host".to_owned();
        self.image(reference).await?.ok_or_else(|| Error::ImagePull { image: reference.to_owned(), message })
    }

    async fn images(&self) -> Result<Vec<Image>> {
        Ok(self.up()?.images.values().cloned().collect())
    }

    async fn exec(&self, container_id: &str, spec: ExecSpec) -> Result<Session> {
        let name = self.inspect(container_id).await?.name;
        let (code, text) = {
            let mut inner = self.lock();
            inner.calls.push(format!("exec {name}: {}", spec.command.join(" ")));
            match inner.execs.get_mut(&name) {
                Some(results) if results.len() > 1 => results.pop_front().unwrap_or_default(),
                Some(results) => results.front().cloned().unwrap_or_default(),
                None => (0, String::new()),
            }
        };
        let output = stream::iter([Ok(Output::Stdout(Bytes::from(text)))]).boxed();
        let stdin = spec.stdin.then(|| Box::new(tokio::io::sink()) as _);
        Ok(Session { stdin, output, resize: None, exit: async move { Ok(code) }.boxed() })
    }

    async fn attach(&self, container_id: &str, spec: AttachSpec) -> Result<Session> {
        self.inspect(container_id).await?;
        let stdin = spec.stdin.then(|| Box::new(tokio::io::sink()) as _);
        Ok(Session { stdin, output: stream::empty().boxed(), resize: None, exit: async { Ok(0) }.boxed() })
    }

    async fn logs(&self, container_id: &str, _: LogOptions) -> Result<BoxStream<'static, Result<Output>>> {
        let container = self.inspect(container_id).await?;
        let line = format!("{} hello from {}\n", Timestamp::UNIX_EPOCH, container.name);
        Ok(stream::iter([Ok(Output::Stdout(Bytes::from(line)))]).boxed())
    }

    async fn dial(&self, _: &str, port: u16) -> Result<BoxStreamIo> {
        Err(Error::Unsupported(format!("nothing listens on port {port} of a pod that does not run")))
    }

    async fn stats(&self, container_id: &str) -> Result<Stats> {
        self.inspect(container_id).await.map(|_| Stats::default())
    }
}
