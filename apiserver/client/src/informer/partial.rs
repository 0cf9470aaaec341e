//! An object of any kind as far as its metadata goes: what garbage collection follows.

use k8s_openapi::{ClusterResourceScope, Metadata, Resource, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Deserialize, Deserializer};

/// Metadata without labels, annotations and managed fields, which its readers do not need and which are most of its size.
#[derive(Debug, Clone, Default)]
pub struct PartialObject {
    pub metadata: ObjectMeta,
}

impl<'de> Deserialize<'de> for PartialObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Whole {
            metadata: ObjectMeta,
        }
        let Whole { mut metadata } = Whole::deserialize(deserializer)?;
        metadata.labels = None;
        metadata.annotations = None;
        metadata.managed_fields = None;
        Ok(Self { metadata })
    }
}

impl Resource for PartialObject {
    const API_VERSION: &'static str = "meta.k8s.io/v1";
    const GROUP: &'static str = "meta.k8s.io";
    const KIND: &'static str = "PartialObjectMetadata";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "";
    type Scope = ClusterResourceScope;
}

impl Metadata for PartialObject {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}
