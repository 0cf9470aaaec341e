//! Performs the steps of a plan through the API, and says so in events.

use super::{
    StatefulSets, identity,
    plan::{Ownership, Plan, Step, Verb},
    revisions,
};
use crate::{
    context::{delete_as_seen, name, namespace, patch_metadata_as_seen, reference, uid},
    error::{
        Error, Result, api_message, ignore_not_found, is_already_exists, is_namespace_terminating,
        is_not_found,
    },
};
use api::owner;
use client::Guard;
use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::{ControllerRevision, StatefulSet},
    core::v1::{PersistentVolumeClaim, Pod},
};
use kube::api::PostParams;
use serde_json::json;

/// Largest number of pods worked on at the same time under `Parallel`. Batches start at one and double, so that a
/// set whose every pod is refused (a quota) asks a few times and not a thousand times.
const MAX_BATCH: usize = 32;

/// Steps of all pods: one pod after the other, or in growing batches. Ends at the first error.
pub(super) async fn pods(this: &StatefulSets, set: &StatefulSet, plan: &Plan) -> Result<()> {
    let (mut rest, mut size) = (plan.pods.as_slice(), 1);
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(size.min(rest.len()));
        rest = later;
        for result in join_all(batch.iter().map(|steps| one_pod(this, set, steps))).await {
            result?;
        }
        if plan.parallel {
            size = (size * 2).min(MAX_BATCH);
        }
    }
    Ok(())
}

async fn one_pod(this: &StatefulSets, set: &StatefulSet, steps: &[Step]) -> Result<()> {
    for step in steps {
        this.step(set, step).await?;
    }
    Ok(())
}

impl StatefulSets {
    async fn step(&self, set: &StatefulSet, step: &Step) -> Result<()> {
        let ns = namespace(&set.metadata);
        match step {
            Step::CreateClaim { claim, pod } => self.create_claim(set, claim, pod).await,
            Step::CreatePod(pod) => {
                self.check_claims(set, pod).await?;
                let result = self.ctx.api::<Pod>(ns).create(&PostParams::default(), pod).await;
                if let Err(error) = &result
                    && (is_already_exists(error) || is_namespace_terminating(error))
                {
                    // The old object is still there, or nothing can be made here: no news for people.
                    return Err(Error::NotYet(api_message(error)));
                }
                self.tell(set, "Create", name(&pod.metadata), result.as_ref().err().map(api_message));
                result?;
                Ok(())
            }
            Step::DeletePod { pod, why } => {
                tracing::debug!(pod = name(&pod.metadata), ?why, "deleting");
                let result = ignore_not_found(delete_as_seen(&self.ctx.api::<Pod>(ns), &pod.metadata).await);
                if !matches!(&result, Err(kube::Error::Api(status)) if status.is_conflict()) {
                    self.tell(set, "Delete", name(&pod.metadata), result.as_ref().err().map(api_message));
                }
                Ok(result?)
            }
            Step::Label { pod, ordinal } => {
                let labels = identity::identity_labels(name(&pod.metadata), *ordinal);
                let fields = json!({ "labels": labels });
                patch_metadata_as_seen(&self.ctx.api::<Pod>(ns), &pod.metadata, fields).await?;
                self.tell(set, "Update", name(&pod.metadata), None);
                Ok(())
            }
            Step::SetClaimOwners { claim, owners } => {
                let fields = json!({ "ownerReferences": owners });
                let api = self.ctx.api::<PersistentVolumeClaim>(ns);
                patch_metadata_as_seen(&api, &claim.metadata, fields).await?;
                Ok(())
            }
            Step::Refuse { verb, pod, why } => {
                let verb = match verb {
                    Verb::Create => "Create",
                    Verb::Update => "Update",
                };
                self.tell(set, verb, pod, Some(why.clone()));
                Err(Error::NotYet(format!("pod {pod}: {why}")))
            }
        }
    }

    /// The pod's claims are here to stay, the API server says. Our cache may not show yet that we ourselves gave one to
    /// the earlier pod of this name, with which it goes.
    async fn check_claims(&self, set: &StatefulSet, pod: &Pod) -> Result<()> {
        let api = self.ctx.api::<PersistentVolumeClaim>(namespace(&set.metadata));
        let ordinal = identity::ordinal_of(set, pod).unwrap_or_default();
        for claim in identity::claim_names(set, ordinal) {
            let Some(claim) = api.get_opt(&claim).await? else { continue };
            let pod = name(&pod.metadata);
            let goes = claim.metadata.deletion_timestamp.is_some() || identity::is_stale(set, &claim, pod);
            if goes && Guard::ClaimStays.holds() {
                return Err(Error::NotYet(format!(
                    "pod {pod}: pvc {} is being deleted",
                    name(&claim.metadata)
                )));
            }
        }
        Ok(())
    }

    async fn create_claim(&self, set: &StatefulSet, claim: &PersistentVolumeClaim, pod: &str) -> Result<()> {
        let ns = namespace(&set.metadata);
        let result = self.ctx.api::<PersistentVolumeClaim>(ns).create(&PostParams::default(), claim).await;
        let (claim, set_name) = (name(&claim.metadata), name(&set.metadata));
        match result {
            Ok(_) => {
                let text = format!("Create Claim {claim} Pod {pod} in StatefulSet {set_name} success");
                self.recorder.event(&reference(set), "Normal", "SuccessfulCreate", &text);
                Ok(())
            }
            // It is there: our cache is late, or a person was first. It is kept and used.
            Err(error) if is_already_exists(&error) => Ok(()),
            Err(error) => {
                let why = api_message(&error);
                let text = format!(
                    "Create Claim {claim} for Pod {pod} in StatefulSet {set_name} failed error: {why}"
                );
                self.recorder.event(&reference(set), "Warning", "FailedCreate", &text);
                self.tell(set, "Create", pod, Some(format!("failed to create PVC {claim}: {why}")));
                Err(error.into())
            }
        }
    }

    /// Kubernetes' events about a set's pods, word for word.
    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, failure: Option<String>) {
        let set_name = name(&set.metadata);
        let (type_, reason, text) = match failure {
            None => (
                "Normal",
                format!("Successful{verb}"),
                format!("{verb} Pod {pod} in StatefulSet {set_name} successful"),
            ),
            Some(why) => (
                "Warning",
                format!("Failed{verb}"),
                format!("{verb} Pod {pod} in StatefulSet {set_name} failed error: {why}"),
            ),
        };
        self.recorder.event(&reference(set), type_, &reason, &text);
    }

    /// Writes the revision of the set's template. `false` if another revision has its name.
    pub(super) async fn write_revision(&self, set: &StatefulSet, step: &revisions::Step) -> Result<bool> {
        let api = self.ctx.api::<ControllerRevision>(namespace(&set.metadata));
        match step {
            revisions::Step::Keep => Ok(true),
            revisions::Step::Renumber { revision, number } => {
                let renumbered =
                    ControllerRevision { revision: *number, ..ControllerRevision::clone(revision) };
                api.replace(name(&revision.metadata), &PostParams::default(), &renumbered).await?;
                Ok(true)
            }
            revisions::Step::Create(new) => match api.create(&PostParams::default(), new).await {
                Ok(_) => Ok(true),
                Err(error) if is_already_exists(&error) => {
                    let there = api.get(name(&new.metadata)).await?;
                    Ok(there.data == new.data && revisions::is_own_or_orphan(set, &there))
                }
                Err(error) => Err(error.into()),
            },
        }
    }

    pub(super) async fn delete_expired(&self, plan: &Plan) -> Result<()> {
        for revision in &plan.expired {
            let api = self.ctx.api::<ControllerRevision>(namespace(&revision.metadata));
            ignore_not_found(delete_as_seen(&api, &revision.metadata).await)?;
        }
        Ok(())
    }

    /// Adopts and releases. Adoption asks the API server first whether the set is still the same and stays: an object
    /// adopted by a set that is being deleted would be deleted with it.
    pub(super) async fn change_owners(&self, set: &StatefulSet, changes: &[Ownership]) -> Result<()> {
        let ns = namespace(&set.metadata);
        if changes.iter().any(|c| !matches!(c, Ownership::ReleasePod(_))) {
            let fresh = match self.ctx.api::<StatefulSet>(ns).get(name(&set.metadata)).await {
                Ok(fresh) => fresh,
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            if fresh.metadata.uid != set.metadata.uid || fresh.metadata.deletion_timestamp.is_some() {
                return Ok(());
            }
        }
        for change in changes {
            let result = match change {
                Ownership::AdoptPod(pod) => {
                    let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
                    owners.push(owner::controller_ref(set));
                    let fields = json!({ "ownerReferences": owners });
                    patch_metadata_as_seen(&self.ctx.api::<Pod>(ns), &pod.metadata, fields).await.map(|_| ())
                }
                Ownership::ReleasePod(pod) => {
                    let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
                    owners.retain(|o| o.uid != uid(&set.metadata));
                    let fields = json!({ "ownerReferences": owners });
                    patch_metadata_as_seen(&self.ctx.api::<Pod>(ns), &pod.metadata, fields).await.map(|_| ())
                }
                Ownership::AdoptRevision(revision) => {
                    let mut owners = revision.metadata.owner_references.clone().unwrap_or_default();
                    owners.push(owner::controller_ref(set));
                    let fields = json!({ "ownerReferences": owners });
                    let api = self.ctx.api::<ControllerRevision>(ns);
                    patch_metadata_as_seen(&api, &revision.metadata, fields).await.map(|_| ())
                }
            };
            ignore_not_found(result)?;
        }
        Ok(())
    }
}
