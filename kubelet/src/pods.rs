//! Which containers a pod has right now: the kubelet's API (logs, exec, attach, port-forward) asks here.
//! Pod workers publish; readers never wait.

use crate::runtime::{Container, State};
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

/// A pod of this node and its containers, newest first, as last seen.
#[derive(Debug, Clone)]
pub struct PodView {
    pub pod: Arc<Pod>,
    pub containers: Vec<Container>,
    /// Why a container that has no live instance is waiting: name → reason.
    pub waiting: HashMap<String, String>,
}

/// Why there is nothing to stream from. The words are the real kubelet's: users search for them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("pod {name:?} not found")]
    PodNotFound { name: String },
    #[error("container {container} is not valid for pod {pod}")]
    InvalidContainer { container: String, pod: String },
    #[error("container {container:?} in pod {pod:?} is waiting to start: {reason}")]
    Waiting { container: String, pod: String, reason: String },
    #[error("container {container:?} in pod {pod:?} is terminated")]
    Terminated { container: String, pod: String },
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious { container: String, pod: String },
    #[error("pod {pod:?} has no running sandbox")]
    NoSandbox { pod: String },
}

/// By namespace and name.
type Views = HashMap<(String, String), Arc<PodView>>;

/// Answers (namespace, pod, container) with spec and container. Cheap to clone.
#[derive(Clone, Default)]
pub struct Lookup {
    pods: Arc<RwLock<Views>>,
}

impl Lookup {
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Arc<PodView>, LookupError> {
        let pods = self.pods.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        pods.get(&(namespace.to_owned(), name.to_owned()))
            .cloned()
            .ok_or_else(|| LookupError::PodNotFound { name: name.to_owned() })
    }

    /// All pods, for stats.
    pub fn all(&self) -> Vec<Arc<PodView>> {
        let pods = self.pods.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        pods.values().cloned().collect()
    }

    /// The instance whose log is meant: the newest that was ever started, or with `previous` the one before it.
    pub fn for_logs(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        previous: bool,
    ) -> Result<Container, LookupError> {
        let view = self.pod(namespace, name)?;
        view.check_name(container)?;
        let mut started = view.instances(container).filter(|c| c.state != State::Created);
        let newest = started.next();
        if previous {
            let old = if newest.is_some_and(Container::is_running) {
                started.next()
            } else {
                started.next().or(newest)
            };
            return old.cloned().ok_or_else(|| LookupError::NoPrevious {
                container: container.to_owned(),
                pod: name.to_owned(),
            });
        }
        newest.cloned().ok_or_else(|| view.waiting(container))
    }

    /// The running instance, for exec and attach.
    pub fn running(&self, namespace: &str, name: &str, container: &str) -> Result<Container, LookupError> {
        let view = self.pod(namespace, name)?;
        view.check_name(container)?;
        match view.instances(container).next() {
            Some(found) if found.is_running() => Ok(found.clone()),
            Some(found) if found.state != State::Created => {
                Err(LookupError::Terminated { container: container.to_owned(), pod: name.to_owned() })
            }
            _ => Err(view.waiting(container)),
        }
    }

    /// The running sandbox, for port-forward.
    pub fn sandbox(&self, namespace: &str, name: &str) -> Result<Container, LookupError> {
        let view = self.pod(namespace, name)?;
        view.containers
            .iter()
            .find(|c| c.is_sandbox() && c.is_running())
            .cloned()
            .ok_or_else(|| LookupError::NoSandbox { pod: name.to_owned() })
    }

    pub(crate) fn publish(&self, view: PodView) {
        let key = key(&view.pod);
        let mut pods = self.pods.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        pods.insert(key, Arc::new(view));
    }

    /// Forgets the pod, unless another pod of that name was published meanwhile.
    pub(crate) fn forget(&self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut pods = self.pods.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if pods.get(&key).is_some_and(|view| view.pod.metadata.uid.as_deref() == Some(uid)) {
            pods.remove(&key);
        }
    }
}

fn key(pod: &Pod) -> (String, String) {
    (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default())
}

impl PodView {
    fn name(&self) -> String {
        self.pod.metadata.name.clone().unwrap_or_default()
    }

    /// Instances of one container, newest first.
    pub fn instances<'a>(&'a self, container: &'a str) -> impl Iterator<Item = &'a Container> {
        self.containers.iter().filter(move |c| c.name == container)
    }

    fn check_name(&self, container: &str) -> Result<(), LookupError> {
        let known = self.pod.spec.as_ref().is_some_and(|spec| {
            let init = spec.init_containers.iter().flatten();
            let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.name);
            init.chain(&spec.containers).map(|c| &c.name).chain(ephemeral).any(|name| name == container)
        });
        if known {
            return Ok(());
        }
        Err(LookupError::InvalidContainer { container: container.to_owned(), pod: self.name() })
    }

    fn waiting(&self, container: &str) -> LookupError {
        let reason = self.waiting.get(container).cloned().unwrap_or_else(|| "ContainerCreating".to_owned());
        LookupError::Waiting { container: container.to_owned(), pod: self.name(), reason }
    }
}
