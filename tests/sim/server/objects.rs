//! Objects of the kinds that anybody here keeps.

use client::stage::Object;
use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{ControllerRevision, StatefulSet},
        coordination::v1::Lease,
        core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::sync::Arc;

pub(crate) trait Typed: Resource + Sized + 'static {
    fn of(object: &Obj) -> Option<&Arc<Self>>;
    fn wrap(self) -> Obj;
}

macro_rules! objects {
    ($($name:ident),*) => {
        #[derive(Clone, Debug)]
        pub(crate) enum Obj { $($name(Arc<$name>)),* }

        impl Obj {
            pub(crate) fn kind(&self) -> &'static str {
                match self { $(Obj::$name(_) => <$name as Resource>::KIND),* }
            }
            pub(crate) fn meta(&self) -> &ObjectMeta {
                match self { $(Obj::$name(o) => &o.metadata),* }
            }
            pub(crate) fn meta_mut(&mut self) -> &mut ObjectMeta {
                match self { $(Obj::$name(o) => &mut Arc::make_mut(o).metadata),* }
            }
            pub(super) fn any(&self) -> Object {
                match self { $(Obj::$name(o) => o.clone() as Object),* }
            }
            pub(super) fn from_any(object: &Object) -> Self {
                $(if let Ok(found) = object.clone().downcast::<$name>() {
                    return Obj::$name(found);
                })*
                panic!("an object of a kind that nobody keeps")
            }
        }

        $(impl Typed for $name {
            fn of(object: &Obj) -> Option<&Arc<Self>> {
                match object { Obj::$name(o) => Some(o), _ => None }
            }
            fn wrap(self) -> Obj {
                Obj::$name(Arc::new(self))
            }
        })*
    };
}

objects!(
    Pod,
    StatefulSet,
    PersistentVolumeClaim,
    PersistentVolume,
    ControllerRevision,
    Node,
    StorageClass,
    Lease,
    Namespace
);
