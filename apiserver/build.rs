//! Writes down what k8s-openapi says of the API's types, for the OpenAPI documents.
//!
//! Said by code, as schemars does it, these descriptions are a sixth of the server's program; written down and packed they
//! are a hundredth. So that code runs here, once, and stays out of the server. The file has a line for each definition: its
//! name, a space, its schema in JSON.

use flate2::{Compression, write::GzEncoder};
use schemars::{SchemaGenerator, generate::SchemaSettings};
use std::{
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

/// What these types refer to comes with them.
macro_rules! describe {
    ($generator:expr; $($($module:ident)::+ { $($kind:ident)* })*) => {
        $({
            use k8s_openapi::$($module)::+ as package;
            $($generator.subschema_for::<package::$kind>();)*
        })*
    };
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let mut generator = SchemaSettings::openapi3().into_generator();
    describe(&mut generator);
    let out = std::env::var_os("OUT_DIR").ok_or("no OUT_DIR: only cargo runs this")?;
    let file = BufWriter::new(File::create(Path::new(&out).join("definitions.gz"))?);
    let mut packed = GzEncoder::new(file, Compression::best());
    for (name, schema) in generator.take_definitions(true) {
        writeln!(packed, "{name} {schema}")?;
    }
    packed.finish()?.flush()?;
    Ok(())
}

/// The kinds that are served (a test of the documents fails if one is missing) and what speaks of all of them.
fn describe(generator: &mut SchemaGenerator) {
    describe! { generator;
        apimachinery::pkg::apis::meta::v1 { APIResourceList DeleteOptions ListMeta ObjectMeta Status }
        api::core::v1 {
            Binding ComponentStatus ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume
            PersistentVolumeClaim Pod PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount
        }
        api::admissionregistration::v1 {
            MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
            ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration
        }
        apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
        api::apps::v1 { ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet }
        api::authentication::v1 { SelfSubjectReview TokenRequest TokenReview }
        api::authorization::v1 {
            LocalSubjectAccessReview SelfSubjectAccessReview SelfSubjectRulesReview SubjectAccessReview
        }
        api::autoscaling::v1 { HorizontalPodAutoscaler Scale }
        api::autoscaling::v2 { HorizontalPodAutoscaler }
        api::batch::v1 { CronJob Job }
        api::certificates::v1 { CertificateSigningRequest }
        api::coordination::v1 { Lease }
        api::discovery::v1 { EndpointSlice }
        api::events::v1 { Event }
        api::flowcontrol::v1 { FlowSchema PriorityLevelConfiguration }
        api::networking::v1 { IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR }
        api::node::v1 { RuntimeClass }
        api::policy::v1 { Eviction PodDisruptionBudget }
        api::rbac::v1 { ClusterRole ClusterRoleBinding Role RoleBinding }
        api::resource::v1 { DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice }
        api::scheduling::v1 { PriorityClass }
        api::storage::v1 {
            CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass
        }
    }
}
