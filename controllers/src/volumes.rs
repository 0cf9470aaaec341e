//! Persistent volumes: binds claims, makes host-path volumes for the built-in storage class, reclaims and protects.
//!
//! Two controllers, one a side: [`Claims`] writes claims (and reserves volumes for them), [`Volumes`] writes volumes.
//! A volume is handed to a claim by one conditional write of `spec.claimRef`, so no two claims get one volume; data is
//! removed only after the API server, asked afresh, says that the claim is gone.

pub mod binding;
pub mod directory;

use crate::{
    context::{self, Ctx},
    error::{Error, Result, ignore_not_found, is_already_exists},
    run::{Controller, Next, ObjectKey},
};
use async_trait::async_trait;
use binding::{ClaimPlan, PROVISIONER, View, VolumePlan, annotation};
use client::{Api, Change, Guard, Queue, Recorder, Store};
use directory::{Directory, Disk, Filesystem};
use k8s_openapi::{
    api::{
        core::v1::{
            HostPathVolumeSource, ObjectReference, PersistentVolume, PersistentVolumeClaim,
            PersistentVolumeSpec, Pod,
        },
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::PostParams;
use std::{collections::BTreeMap, sync::Arc};

const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Index of pods by the claims they use, of claims by their class.
const BY_CLAIM: &str = "claim";
const BY_CLASS: &str = "class";

fn claims_of(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes
        .filter_map(|v| {
            Some(claim_key(
                context::namespace(&pod.metadata),
                &v.persistent_volume_claim.as_ref()?.claim_name,
            ))
        })
        .collect()
}

fn claim_key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

fn class_of(claim: &PersistentVolumeClaim) -> Vec<String> {
    vec![claim.spec.as_ref().and_then(|s| s.storage_class_name.clone()).unwrap_or_default()]
}

pub struct Claims {
    ctx: Arc<Ctx>,
    recorder: Recorder,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    classes: Store<StorageClass>,
    pods: Store<Pod>,
    disk: Arc<dyn Disk>,
}

impl Claims {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        let (claims, volumes) = (ctx.informers.store(), ctx.informers.store());
        let (classes, pods) = (ctx.informers.store(), ctx.informers.store::<Pod>());
        pods.add_index(BY_CLAIM, claims_of);
        claims.add_index(BY_CLASS, class_of);
        let recorder = ctx.recorder("persistentvolume-controller");
        Self { ctx, recorder, claims, volumes, classes, pods, disk: Arc::new(Filesystem) }
    }

    /// With another place for directories, for tests.
    #[must_use]
    pub fn with_disk(self, disk: Arc<dyn Disk>) -> Self {
        Self { disk, ..self }
    }

    fn api(&self, claim: &PersistentVolumeClaim) -> Api<PersistentVolumeClaim> {
        self.ctx.api(context::namespace(&claim.metadata))
    }

    /// Pods that hold the claim: scheduled ones that have not ended.
    fn users(&self, key: &ObjectKey) -> impl Iterator<Item = Arc<Pod>> {
        let pods = self.pods.by_index(BY_CLAIM, &claim_key(&key.namespace, &key.name));
        pods.into_iter().filter(|p| !api::pod::is_terminal(p))
    }

    /// A claim being deleted goes when no scheduled pod uses it any more.
    async fn release(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> Result<()> {
        let finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|f| f == CLAIM_PROTECTION) {
            return Ok(());
        }
        let mut held = self.users(key).any(|p| api::pod::node_name(&p).is_some());
        if !held {
            // The cache may not have heard of a pod that runs on it.
            let api = self.ctx.api::<Pod>(&key.namespace);
            let own = claim_key(&key.namespace, &key.name);
            let uses = |p: &Pod| {
                api::pod::node_name(p).is_some() && !api::pod::is_terminal(p) && claims_of(p).contains(&own)
            };
            held = api.list(&Default::default()).await?.items.iter().any(uses);
        }
        if held && Guard::ClaimHeld.holds() {
            return Ok(());
        }
        let rest: Vec<String> = finalizers.into_iter().filter(|f| f != CLAIM_PROTECTION).collect();
        let fields = serde_json::json!({ "finalizers": rest });
        ignore_not_found(context::patch_metadata_as_seen(&self.api(claim), &claim.metadata, fields).await)?;
        Ok(())
    }

    /// The volume with its `claimRef` set to the claim; written unless it is so already.
    async fn reserve(&self, claim: &PersistentVolumeClaim, name: &str) -> Result<Option<PersistentVolume>> {
        let api = self.ctx.all::<PersistentVolume>();
        let Some(mut volume) = api.get_opt(name).await? else { return Ok(None) };
        match claim_ref(&volume) {
            Some(other) if !binding::names(other, claim) => return Ok(None),
            Some(own) if own.uid.is_some() && own.uid == claim.metadata.uid => return Ok(Some(volume)),
            _ => {}
        }
        let chosen = claim_ref(&volume).is_none();
        volume.spec.get_or_insert_default().claim_ref = Some(reference_to(claim));
        if chosen {
            let annotations = volume.metadata.annotations.get_or_insert_default();
            annotations.insert(binding::BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        }
        if !Guard::ReserveAsSeen.holds() {
            volume.metadata.resource_version = None;
        }
        Ok(Some(api.replace(name, &PostParams::default(), &volume).await?))
    }

    /// Completes the binding on the claim's side: spec, annotations, status.
    async fn complete(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Result<()> {
        let mut new = claim.clone();
        let spec = new.spec.get_or_insert_default();
        let annotations = new.metadata.annotations.get_or_insert_default();
        if spec.volume_name.is_none() {
            spec.volume_name = volume.metadata.name.clone();
            annotations.insert(binding::BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        }
        annotations.insert(binding::BIND_COMPLETED.to_owned(), "yes".to_owned());
        if annotation(volume.metadata.annotations.as_ref(), binding::PROVISIONED_BY) == Some(PROVISIONER) {
            annotations.insert(binding::CLAIM_PROVISIONER.to_owned(), PROVISIONER.to_owned());
        }
        let api = self.api(claim);
        let name = context::name(&claim.metadata);
        if new != *claim {
            new = api.replace(name, &PostParams::default(), &new).await?;
        }
        let mut status = new.status.clone().unwrap_or_default();
        let have = volume.spec.clone().unwrap_or_default();
        status.phase = Some("Bound".to_owned());
        status.access_modes = have.access_modes;
        status.capacity = have.capacity;
        self.write_status(&api, new, status).await
    }

    async fn write_status(
        &self,
        api: &Api<PersistentVolumeClaim>,
        mut claim: PersistentVolumeClaim,
        status: k8s_openapi::api::core::v1::PersistentVolumeClaimStatus,
    ) -> Result<()> {
        if claim.status.as_ref() == Some(&status) {
            return Ok(());
        }
        claim.status = Some(status);
        let name = context::name(&claim.metadata).to_owned();
        ignore_not_found(api.replace_status(&name, &PostParams::default(), &claim).await)?;
        Ok(())
    }

    async fn set_phase(&self, claim: &PersistentVolumeClaim, phase: &str) -> Result<()> {
        let mut status = claim.status.clone().unwrap_or_default();
        status.phase = Some(phase.to_owned());
        self.write_status(&self.api(claim), claim.clone(), status).await
    }

    /// Makes the directory, then the volume that points at it: a crash between leaves a directory that the next run
    /// takes over, because both are named by the claim's UID.
    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<PersistentVolume> {
        let name = format!("pvc-{}", context::uid(&claim.metadata));
        let directory = Directory::of(&self.ctx.config.volumes_dir, &name)?;
        self.disk.make(&directory).await?;
        let wanted = claim.spec.clone().unwrap_or_default();
        let capacity = wanted.resources.and_then(|r| r.requests).and_then(|r| r.get("storage").cloned());
        let annotations = BTreeMap::from([(binding::PROVISIONED_BY.to_owned(), PROVISIONER.to_owned())]);
        let volume = PersistentVolume {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                annotations: Some(annotations),
                ..Default::default()
            },
            spec: Some(PersistentVolumeSpec {
                access_modes: wanted.access_modes,
                capacity: capacity.map(|c| BTreeMap::from([("storage".to_owned(), c)])),
                claim_ref: Some(reference_to(claim)),
                host_path: Some(HostPathVolumeSource {
                    path: directory.path().to_string_lossy().into_owned(),
                    type_: Some("DirectoryOrCreate".to_owned()),
                }),
                mount_options: class.mount_options.clone(),
                persistent_volume_reclaim_policy: class.reclaim_policy.clone().or(Some("Delete".to_owned())),
                storage_class_name: class.metadata.name.clone(),
                volume_mode: Some("Filesystem".to_owned()),
                ..Default::default()
            }),
            status: None,
        };
        let api = self.ctx.all::<PersistentVolume>();
        match api.create(&PostParams::default(), &volume).await {
            Ok(made) => {
                let text = format!("Successfully provisioned volume {name}");
                self.recorder.event(&context::reference(claim), "Normal", "ProvisioningSucceeded", &text);
                Ok(made)
            }
            Err(error) if is_already_exists(&error) => Ok(api.get(&name).await?),
            Err(error) => Err(error.into()),
        }
    }
}

#[async_trait]
impl Controller for Claims {
    type Key = ObjectKey;
    const NAME: &'static str = "persistentvolumeclaim";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let added = queue.clone();
        self.claims.on_change(move |change| added.add(ObjectKey::of(&change.object().metadata)));
        let (added, claims) = (queue.clone(), self.claims.clone());
        let waiting = move |class: &str| {
            let of_class = claims.by_index(BY_CLASS, class);
            let unbound =
                of_class.into_iter().filter(|c| c.spec.as_ref().is_none_or(|s| s.volume_name.is_none()));
            unbound.for_each(|c| added.add(ObjectKey::of(&c.metadata)));
        };
        let (added, for_class) = (queue.clone(), waiting.clone());
        self.volumes.on_change(move |change| {
            let volume = change.object();
            if let Some(reference) = claim_ref(volume) {
                let part = |s: &Option<String>| s.clone().unwrap_or_default();
                added.add(ObjectKey::new(part(&reference.namespace), part(&reference.name)));
            } else {
                for_class(
                    volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default(),
                );
            }
        });
        self.classes.on_change(move |change| waiting(context::name(&change.object().metadata)));
        let added = queue.clone();
        self.pods.on_change(move |change| {
            let pod = change.object();
            let interesting = match change {
                Change::Applied { old: None, .. } | Change::Deleted(_) => true,
                Change::Applied { old: Some(old), new } => {
                    api::pod::is_terminal(old) != api::pod::is_terminal(new)
                        || api::pod::node_name(old) != api::pod::node_name(new)
                }
            };
            if interesting {
                let namespace = context::namespace(&pod.metadata);
                let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
                for claim in volumes.filter_map(|v| v.persistent_volume_claim.as_ref()) {
                    added.add(ObjectKey::new(namespace, claim.claim_name.clone()));
                }
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        if claim.metadata.deletion_timestamp.is_some() {
            self.release(key, &claim).await?;
            return Ok(Next::Wait);
        }
        let class = class_of(&claim).pop().filter(|c| !c.is_empty()).and_then(|c| self.classes.get("", &c));
        let volumes = self.volumes.list();
        let in_use = self.users(key).next().is_some();
        match binding::plan_claim(&claim, &View { volumes: &volumes, class, in_use }) {
            ClaimPlan::Bind { volume } => match self.reserve(&claim, &volume).await? {
                Some(volume) => self.complete(&claim, &volume).await?,
                None => return Err(Error::NotYet(format!("volume {volume} was taken meanwhile"))),
            },
            ClaimPlan::Provision { class } => {
                let volume = match self.provision(&claim, &class).await {
                    Ok(volume) => volume,
                    Err(error) => {
                        let text = format!("failed to provision volume: {}", error.chain());
                        self.recorder.event(
                            &context::reference(&*claim),
                            "Warning",
                            "ProvisioningFailed",
                            &text,
                        );
                        return Err(error);
                    }
                };
                self.complete(&claim, &volume).await?;
            }
            ClaimPlan::Wait { event } => {
                if let Some((type_, reason, message)) = event {
                    self.recorder.event(&context::reference(&*claim), type_, reason, &message);
                }
                self.set_phase(&claim, "Pending").await?;
            }
            ClaimPlan::Lost { reason, message } => {
                if claim.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Lost") {
                    self.recorder.event(&context::reference(&*claim), "Warning", reason, &message);
                }
                self.set_phase(&claim, "Lost").await?;
            }
        }
        Ok(Next::Wait)
    }
}

pub struct Volumes {
    ctx: Arc<Ctx>,
    recorder: Recorder,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    disk: Arc<dyn Disk>,
}

impl Volumes {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        let (claims, volumes) = (ctx.informers.store(), ctx.informers.store());
        let recorder = ctx.recorder("persistentvolume-controller");
        volumes.add_index(BY_CLAIM, |volume: &PersistentVolume| {
            let reference =
                claim_ref(volume).and_then(|r| Some((r.namespace.as_deref()?, r.name.as_deref()?)));
            reference.map(|(namespace, name)| claim_key(namespace, name)).into_iter().collect()
        });
        Self { ctx, recorder, claims, volumes, disk: Arc::new(Filesystem) }
    }

    /// With another place for directories, for tests.
    #[must_use]
    pub fn with_disk(self, disk: Arc<dyn Disk>) -> Self {
        Self { disk, ..self }
    }

    fn api(&self) -> Api<PersistentVolume> {
        self.ctx.all()
    }

    async fn set_phase(&self, volume: &PersistentVolume, phase: &str, message: Option<String>) -> Result<()> {
        let status = volume.status.clone().unwrap_or_default();
        if status.phase.as_deref() == Some(phase) && status.message == message {
            return Ok(());
        }
        let mut new = volume.clone();
        let status = new.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = message;
        let name = context::name(&volume.metadata);
        ignore_not_found(self.api().replace_status(name, &PostParams::default(), &new).await)?;
        Ok(())
    }

    /// Removes the data and the object of a volume whose claim is gone.
    async fn reclaim(&self, volume: &PersistentVolume, reference: &ObjectReference) -> Result<()> {
        let (namespace, name) = (reference.namespace.as_deref(), reference.name.as_deref());
        let claims: Api<PersistentVolumeClaim> = self.ctx.api(namespace.unwrap_or_default());
        if let Some(claim) = claims.get_opt(name.unwrap_or_default()).await?
            && binding::names(reference, &claim)
            && Guard::ReclaimAsked.holds()
        {
            return Err(Error::NotYet("the claim still lives".to_owned()));
        }
        let name = context::name(&volume.metadata);
        let ours =
            annotation(volume.metadata.annotations.as_ref(), binding::PROVISIONED_BY) == Some(PROVISIONER);
        let path = volume.spec.as_ref().and_then(|s| s.host_path.as_ref()).map(|h| h.path.as_str());
        let directory = Directory::of(&self.ctx.config.volumes_dir, name)?;
        if !ours || path != directory.path().to_str() {
            let text = format!(
                "reclaim policy Delete removes only volumes that {PROVISIONER} made; remove the data of {name:?} by hand"
            );
            self.recorder.event(&context::reference(volume), "Warning", "VolumeFailedDelete", &text);
            return self.set_phase(volume, "Failed", Some(text)).await;
        }
        self.set_phase(volume, "Released", None).await?;
        self.disk.remove(&directory).await?;
        // `set_phase` moved the resourceVersion on; the UID is what must still be the same.
        let params = kube::api::DeleteParams {
            preconditions: Some(kube::api::Preconditions {
                uid: volume.metadata.uid.clone(),
                resource_version: None,
            }),
            ..Default::default()
        };
        ignore_not_found(self.api().delete(name, &params).await)?;
        Ok(())
    }

    /// Takes back a reservation, of exactly the volume that was seen.
    async fn give_back(&self, volume: &PersistentVolume) -> Result<()> {
        let mut new = volume.clone();
        new.spec.get_or_insert_default().claim_ref = None;
        if let Some(annotations) = &mut new.metadata.annotations {
            annotations.remove(binding::BOUND_BY_CONTROLLER);
        }
        let name = context::name(&volume.metadata);
        let replaced = self.api().replace(name, &PostParams::default(), &new).await;
        Ok(ignore_not_found(replaced.map(|_| ()))?)
    }

    /// A volume being deleted goes when no claim is bound to it.
    async fn release(&self, volume: &PersistentVolume) -> Result<()> {
        let finalizers = volume.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|f| f == VOLUME_PROTECTION) {
            return Ok(());
        }
        let rest: Vec<String> = finalizers.into_iter().filter(|f| f != VOLUME_PROTECTION).collect();
        let fields = serde_json::json!({ "finalizers": rest });
        ignore_not_found(context::patch_metadata_as_seen(&self.api(), &volume.metadata, fields).await)?;
        Ok(())
    }
}

#[async_trait]
impl Controller for Volumes {
    type Key = ObjectKey;
    const NAME: &'static str = "persistentvolume";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let added = queue.clone();
        self.volumes.on_change(move |change| added.add(ObjectKey::of(&change.object().metadata)));
        let (added, volumes) = (queue.clone(), self.volumes.clone());
        self.claims.on_change(move |change| {
            let claim = change.object();
            let named = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref());
            named.into_iter().for_each(|name| added.add(ObjectKey::new("", name)));
            // Those reserved for it go on without it, or are free if it names another.
            if named.is_some() || matches!(change, Change::Deleted(_)) {
                let meta = &claim.metadata;
                let reserved =
                    volumes.by_index(BY_CLAIM, &claim_key(context::namespace(meta), context::name(meta)));
                reserved.iter().for_each(|v| added.add(ObjectKey::of(&v.metadata)));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(Next::Wait) };
        let reference = claim_ref(&volume).cloned();
        let claim = reference.as_ref().and_then(|r| {
            self.claims.get(r.namespace.as_deref().unwrap_or_default(), r.name.as_deref().unwrap_or_default())
        });
        match (binding::plan_volume(&volume, claim.as_deref()), reference) {
            (VolumePlan::Reclaim, Some(reference)) if volume.metadata.deletion_timestamp.is_none() => {
                self.reclaim(&volume, &reference).await?;
            }
            (VolumePlan::Phase("Bound"), _) => self.set_phase(&volume, "Bound", None).await?,
            (VolumePlan::GiveBack, _) => self.give_back(&volume).await?,
            (_, _) if volume.metadata.deletion_timestamp.is_some() => self.release(&volume).await?,
            (VolumePlan::Phase(phase), _) => self.set_phase(&volume, phase, None).await?,
            (VolumePlan::Reclaim, _) => {}
        }
        Ok(Next::Wait)
    }
}

fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

fn reference_to(claim: &PersistentVolumeClaim) -> ObjectReference {
    context::reference(claim)
}
