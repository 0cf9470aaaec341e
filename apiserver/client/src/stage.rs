//! A simulation in the API server's place: what a component asks through [`Api`] is handed, typed, to the [`Stage`] of
//! the thread. Nothing is encoded and nothing waits but for the stage, so that thousands of runs cost seconds.

use futures::future::BoxFuture;
use kube::{
    api::{DeleteParams, ListParams, ObjectList, Patch, PatchParams, PostParams},
    core::{ListMeta, TypeMeta},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{any::Any, cell::RefCell, fmt::Debug, ops::Deref, sync::Arc};

/// An object of a kind that both sides know.
pub type Object = Arc<dyn Any + Send + Sync>;

/// One request. Namespaces are left out: a stage has one.
#[derive(Debug, Clone)]
pub struct Call {
    pub kind: &'static str,
    pub name: String,
    pub verb: Verb,
}

#[derive(Debug, Clone)]
pub enum Verb {
    Get,
    /// With a label selector, if one was given.
    List(Option<String>),
    Create(Object),
    Replace(Object),
    ReplaceStatus(Object),
    Patch(Value),
    PatchStatus(Value),
    Delete(DeleteParams),
    CreateSubresource(String, Value),
}

pub enum Reply {
    Object(Object),
    List(Vec<Object>),
    Value(Value),
}

pub trait Stage: Send + Sync {
    fn call(&self, call: Call) -> BoxFuture<'static, kube::Result<Reply>>;
}

thread_local! {
    static STAGE: RefCell<Option<Arc<dyn Stage>>> = const { RefCell::new(None) };
}

/// Runs `work`, which may make [`Api`]s and poll what uses them, on a stage.
pub fn on<T>(stage: &Arc<dyn Stage>, work: impl FnOnce() -> T) -> T {
    let before = STAGE.replace(Some(stage.clone()));
    let done = work();
    STAGE.replace(before);
    done
}

/// `kube::Api`, or the stage of the thread on which it was made.
#[derive(Clone)]
pub struct Api<K> {
    api: kube::Api<K>,
    stage: Option<Arc<dyn Stage>>,
}

impl<K> From<kube::Api<K>> for Api<K> {
    fn from(api: kube::Api<K>) -> Self {
        Self { api, stage: STAGE.with_borrow(Clone::clone) }
    }
}

impl<K> Deref for Api<K> {
    type Target = kube::Api<K>;
    fn deref(&self) -> &kube::Api<K> {
        &self.api
    }
}

fn unexpected(what: &str) -> kube::Error {
    kube::Error::Service(format!("the stage answered with something else than {what}").into())
}

async fn one<K>(stage: &Arc<dyn Stage>, name: &str, verb: Verb) -> kube::Result<K>
where
    K: k8s_openapi::Resource + Clone + Send + Sync + 'static,
{
    match stage.call(Call { kind: K::KIND, name: name.to_owned(), verb }).await? {
        Reply::Object(object) => object.downcast_ref::<K>().cloned().ok_or_else(|| unexpected(K::KIND)),
        _ => Err(unexpected(K::KIND)),
    }
}

fn content<P: Serialize + Debug>(patch: &Patch<P>) -> kube::Result<Value> {
    match patch {
        Patch::Merge(content) | Patch::Strategic(content) => {
            serde_json::to_value(content).map_err(kube::Error::SerdeError)
        }
        _ => Err(kube::Error::Service(format!("no stage reads {patch:?}").into())),
    }
}

impl<K> Api<K>
where
    K: k8s_openapi::Resource + Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static,
{
    /// What the API server answers, or the stage to `verb`.
    async fn staged(
        &self,
        real: impl Future<Output = kube::Result<K>>,
        name: &str,
        verb: impl FnOnce() -> kube::Result<Verb>,
    ) -> kube::Result<K> {
        match &self.stage {
            None => real.await,
            Some(stage) => one(stage, name, verb()?).await,
        }
    }

    pub async fn get(&self, name: &str) -> kube::Result<K> {
        self.staged(self.api.get(name), name, || Ok(Verb::Get)).await
    }

    pub async fn get_opt(&self, name: &str) -> kube::Result<Option<K>> {
        match self.get(name).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn list(&self, params: &ListParams) -> kube::Result<ObjectList<K>> {
        let Some(stage) = &self.stage else { return self.api.list(params).await };
        let verb = Verb::List(params.label_selector.clone());
        match stage.call(Call { kind: K::KIND, name: String::new(), verb }).await? {
            Reply::List(objects) => {
                let items = objects.iter().filter_map(|o| o.downcast_ref::<K>().cloned()).collect();
                Ok(ObjectList { types: TypeMeta::default(), metadata: ListMeta::default(), items })
            }
            _ => Err(unexpected("a list")),
        }
    }

    pub async fn create(&self, params: &PostParams, object: &K) -> kube::Result<K> {
        match &self.stage {
            None => self.api.create(params, object).await,
            Some(stage) => one(stage, "", Verb::Create(Arc::new(object.clone()))).await,
        }
    }

    pub async fn replace(&self, name: &str, params: &PostParams, object: &K) -> kube::Result<K> {
        self.staged(self.api.replace(name, params, object), name, || {
            Ok(Verb::Replace(Arc::new(object.clone())))
        })
        .await
    }

    pub async fn replace_status(&self, name: &str, params: &PostParams, object: &K) -> kube::Result<K> {
        self.staged(self.api.replace_status(name, params, object), name, || {
            Ok(Verb::ReplaceStatus(Arc::new(object.clone())))
        })
        .await
    }

    pub async fn patch<P: Serialize + Debug>(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> kube::Result<K> {
        self.staged(self.api.patch(name, params, patch), name, || content(patch).map(Verb::Patch)).await
    }

    pub async fn patch_status<P: Serialize + Debug>(
        &self,
        name: &str,
        params: &PatchParams,
        patch: &Patch<P>,
    ) -> kube::Result<K> {
        self.staged(self.api.patch_status(name, params, patch), name, || {
            content(patch).map(Verb::PatchStatus)
        })
        .await
    }

    pub async fn delete(&self, name: &str, params: &DeleteParams) -> kube::Result<()> {
        match &self.stage {
            None => self.api.delete(name, params).await.map(|_| ()),
            Some(stage) => one::<K>(stage, name, Verb::Delete(params.clone())).await.map(|_| ()),
        }
    }

    pub async fn create_subresource<I: Serialize, T: DeserializeOwned>(
        &self,
        subresource: &str,
        name: &str,
        params: &PostParams,
        content: &I,
    ) -> kube::Result<T> {
        let Some(stage) = &self.stage else {
            return self.api.create_subresource(subresource, name, params, content).await;
        };
        let content = serde_json::to_value(content).map_err(kube::Error::SerdeError)?;
        let verb = Verb::CreateSubresource(subresource.to_owned(), content);
        match stage.call(Call { kind: K::KIND, name: name.to_owned(), verb }).await? {
            Reply::Value(value) => serde_json::from_value(value).map_err(kube::Error::SerdeError),
            _ => Err(unexpected(subresource)),
        }
    }
}
