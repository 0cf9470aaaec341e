//! Indexes that several components put on the same shared store: an index is known by its name, so its meaning
//! is fixed in one place.

use crate::Store;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::sync::Arc;

/// Label that names the Service an EndpointSlice belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const SLICES_BY_SERVICE: &str = "slices by service";

/// `namespace/service` of a slice, if it belongs to one.
pub fn service_of(slice: &EndpointSlice) -> Option<String> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(format!("{}/{service}", slice.metadata.namespace.as_deref().unwrap_or_default()))
}

/// Adds the index that `slices_of_service` reads.
pub fn index_slices(slices: &Store<EndpointSlice>) {
    slices.add_index(SLICES_BY_SERVICE, |slice| service_of(slice).into_iter().collect());
}

/// The slices of a service given as `namespace/service`, ordered by name.
pub fn slices_of_service(slices: &Store<EndpointSlice>, service: &str) -> Vec<Arc<EndpointSlice>> {
    slices.by_index(SLICES_BY_SERVICE, service)
}
