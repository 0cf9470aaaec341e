//! CertificateRequester: a request for a certificate says who made it, whatever its maker wrote there.

use super::{Attributes, Lookup, Operation, Plugin, typed_mut};
use crate::{error::Result, kinds::AnyObject};
use async_trait::async_trait;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

#[derive(Clone, Copy)]
pub(super) struct CertificateRequester;

#[async_trait]
impl Plugin for CertificateRequester {
    fn name(&self) -> &'static str {
        "CertificateRequester"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && a.is("certificates.k8s.io", "certificatesigningrequests")
    }

    async fn mutate(
        &self,
        a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        _old: Option<&dyn AnyObject>,
        _lookup: &dyn Lookup,
    ) -> Result<()> {
        let spec = &mut typed_mut::<CertificateSigningRequest>(object)?.spec;
        spec.username = Some(a.user.name.clone());
        spec.uid = Some(a.user.uid.clone()).filter(|u| !u.is_empty());
        spec.groups = Some(a.user.groups.clone()).filter(|g| !g.is_empty());
        spec.extra = Some(a.user.extra.clone()).filter(|e| !e.is_empty());
        Ok(())
    }
}
