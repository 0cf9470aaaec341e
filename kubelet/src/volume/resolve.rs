//! What each volume of a pod has to be. Pure; errors are the words of event FailedMount.

use super::{File, Files, HostType, Plan, PlanKind, is_inside};
use crate::{
    downward::{self, Addresses},
    objects::{Kind, Objects},
};
use client::Guard;
use k8s_openapi::{
    api::core::v1::{
        DownwardAPIVolumeFile, KeyToPath, PersistentVolume, PersistentVolumeClaim, Pod,
        ServiceAccountTokenProjection, Volume,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use std::collections::BTreeMap;

/// Mode of files when a volume says nothing.
const DEFAULT_MODE: i32 = 0o644;
/// Lifetime of a projected token when the spec says nothing (the API's default).
const DEFAULT_TOKEN_SECONDS: i64 = 3600;

/// Claims by name, with the volume each is bound to.
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
pub type Claims = BTreeMap<String, (PersistentVolumeClaim, Option<PersistentVolume>)>;
/// Tokens by (volume, path in it).
pub(crate) type Tokens = BTreeMap<(String, String), String>;

/// A token a projected volume needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenRequest {
    pub(crate) volume: String,
    pub(crate) path: String,
    pub(crate) audience: Option<String>,
    pub(crate) expiration_seconds: i64,
}

pub(crate) fn token_requests(pod: &Pod) -> Vec<TokenRequest> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let parts = volumes.flat_map(|volume| {
        let sources = volume.projected.iter().flat_map(|p| p.sources.iter().flatten());
        sources.filter_map(move |part| Some((volume, part.service_account_token.as_ref()?)))
    });
    let one = |(volume, token): (&Volume, &ServiceAccountTokenProjection)| TokenRequest {
        volume: volume.name.clone(),
        path: token.path.clone(),
        audience: token.audience.clone().filter(|a| !a.is_empty()),
        expiration_seconds: token.expiration_seconds.unwrap_or(DEFAULT_TOKEN_SECONDS),
    };
    parts.map(one).collect()
}

/// Names of the claims a pod's volumes use (a generic ephemeral volume's is `<pod>-<volume>`).
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
pub fn claim_names(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_name(pod, volume)).collect()
}

fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (_, Some(_)) => Some(format!("{}-{}", pod.metadata.name.as_deref()?, volume.name)),
        _ => None,
    }
}

pub(crate) struct Sources<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) objects: &'a Objects,
    pub(crate) claims: &'a Claims,
    pub(crate) tokens: &'a Tokens,
    pub(crate) addresses: &'a Addresses,
    pub(crate) allocatable: &'a BTreeMap<String, Quantity>,
}

pub(crate) fn resolve(sources: &Sources<'_>) -> Result<Vec<Plan>, String> {
    let spec = sources.pod.spec.as_ref();
    let group =
        spec.and_then(|spec| spec.security_context.as_ref()?.fs_group).and_then(|g| u32::try_from(g).ok());
    let volumes = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .map(|volume| {
            let kind = resolve_one(sources, volume)
                .map_err(|why| format!("MountVolume.SetUp failed for volume {:?} : {why}", volume.name))?;
            let group = group.filter(|_| !matches!(kind, PlanKind::Host { .. }));
            Ok(Plan { name: volume.name.clone(), kind, group })
        })
        .collect()
}

fn resolve_one(sources: &Sources<'_>, volume: &Volume) -> Result<PlanKind, String> {
    if let Some(source) = &volume.empty_dir {
        let size = source.size_limit.as_ref().map(|q| api::quantity::of(Some(q)).value());
        let size = size.and_then(|size| u64::try_from(size).ok()).filter(|size| *size > 0);
        return Ok(match source.medium.as_deref() {
            Some("Memory") => PlanKind::Memory { size_bytes: size },
            _ => PlanKind::EmptyDir,
        });
    }
    if let Some(source) = &volume.host_path {
        let type_ = host_type(source.type_.as_deref().unwrap_or_default())?;
        return Ok(PlanKind::Host { path: source.path.clone().into(), type_, read_only: false });
    }
    if let Some(claim) = claim_name(sources.pod, volume) {
        let read_only = volume.persistent_volume_claim.as_ref().is_some_and(|c| c.read_only == Some(true));
        return resolve_claim(sources, &claim, read_only);
    }
    let mut files = FileSet { sources, volume: &volume.name, files: Files::new(), mode: DEFAULT_MODE };
    let plugin = if let Some(source) = &volume.config_map {
        files.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        files.object(Kind::ConfigMap, &source.name, source.items.as_deref(), source.optional)?;
        "kubernetes.io~configmap"
    } else if let Some(source) = &volume.secret {
        files.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        files.object(Kind::Secret, name, source.items.as_deref(), source.optional)?;
        "kubernetes.io~secret"
    } else if let Some(source) = &volume.downward_api {
        files.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        files.downward(source.items.as_deref().unwrap_or_default())?;
        "kubernetes.io~downward-api"
    } else if let Some(source) = &volume.projected {
        files.mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for part in source.sources.iter().flatten() {
            if let Some(source) = &part.config_map {
                files.object(Kind::ConfigMap, &source.name, source.items.as_deref(), source.optional)?;
            }
            if let Some(source) = &part.secret {
                files.object(Kind::Secret, &source.name, source.items.as_deref(), source.optional)?;
            }
            if let Some(source) = &part.downward_api {
                files.downward(source.items.as_deref().unwrap_or_default())?;
            }
            if let Some(source) = &part.service_account_token {
                files.token(source)?;
            }
            if part.cluster_trust_bundle.is_some() || part.pod_certificate.is_some() {
                return Err("this kind of projected source is not supported".to_owned());
            }
        }
        "kubernetes.io~projected"
    } else {
        return Err("this type of volume is not supported by minik8s".to_owned());
    };
    Ok(PlanKind::Files { plugin, files: files.files })
}

fn host_type(text: &str) -> Result<HostType, String> {
    Ok(match text {
        "" => HostType::Any,
        "DirectoryOrCreate" => HostType::DirectoryOrCreate,
        "Directory" => HostType::Directory,
        "FileOrCreate" => HostType::FileOrCreate,
        "File" => HostType::File,
        "Socket" => HostType::Socket,
        "CharDevice" => HostType::CharDevice,
        "BlockDevice" => HostType::BlockDevice,
        other => return Err(format!("hostPath type {other:?} is unknown")),
    })
}

fn resolve_claim(sources: &Sources<'_>, name: &str, read_only: bool) -> Result<PlanKind, String> {
    let volume = bound_volume(sources.claims, name)?;
    let volume_name = volume.metadata.name.as_deref().unwrap_or_default();
    let spec = volume.spec.as_ref();
    let (path, type_) = match spec.map(|spec| (&spec.host_path, &spec.local)) {
        Some((Some(source), _)) => (&source.path, host_type(source.type_.as_deref().unwrap_or_default())?),
        Some((_, Some(source))) => (&source.path, HostType::Directory),
        _ => return Err(format!("the type of PersistentVolume {volume_name:?} is not supported by minik8s")),
    };
    Ok(PlanKind::Host { path: path.into(), type_, read_only })
}

/// The volume of a claim, when each names the other.
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
pub fn bound_volume<'a>(claims: &'a Claims, name: &str) -> Result<&'a PersistentVolume, String> {
    let Some((claim, volume)) = claims.get(name) else {
        return Err(format!("persistentvolumeclaim {name:?} not found"));
    };
    let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let (true, Some(volume)) = (bound, volume) else {
        return Err(format!("PersistentVolumeClaim {name:?} is not bound"));
    };
    let spec = volume.spec.as_ref();
    let ours = spec.and_then(|spec| spec.claim_ref.as_ref()).is_some_and(|r| r.uid == claim.metadata.uid);
    if !ours && Guard::VolumeNamesClaim.holds() {
        let volume_name = volume.metadata.name.as_deref().unwrap_or_default();
        return Err(format!("PersistentVolume {volume_name:?} is bound to another claim"));
    }
    Ok(volume)
}

/// Files of one volume being gathered.
struct FileSet<'a> {
    sources: &'a Sources<'a>,
    volume: &'a str,
    files: Files,
    mode: i32,
}

impl FileSet<'_> {
    fn add(&mut self, path: &str, content: Vec<u8>, mode: Option<i32>) -> Result<(), String> {
        if !is_inside(path) {
            return Err(format!("path {path:?} must be relative and must not contain '..'"));
        }
        let mode = u32::try_from(mode.unwrap_or(self.mode)).unwrap_or(0o644) & 0o777;
        self.files.insert(path.to_owned(), File { content, mode, owner: None });
        Ok(())
    }

    fn object(
        &mut self,
        kind: Kind,
        name: &str,
        items: Option<&[KeyToPath]>,
        optional: Option<bool>,
    ) -> Result<(), String> {
        let optional = optional == Some(true);
        let Some(data) = self.sources.objects.data(kind, name) else {
            return if optional { Ok(()) } else { Err(kind.not_found(name)) };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            return data.iter().try_for_each(|(key, value)| self.add(key, value.clone(), None));
        };
        for item in items {
            match data.get(&item.key) {
                Some(value) => self.add(&item.path, value.clone(), item.mode)?,
                None if optional => {}
                None => {
                    return Err(format!(
                        "references non-existent {} key: {}",
                        kind.name().to_lowercase(),
                        item.key
                    ));
                }
            }
        }
        Ok(())
    }

    fn downward(&mut self, items: &[DownwardAPIVolumeFile]) -> Result<(), String> {
        let sources = self.sources;
        for item in items {
            let text = match (&item.field_ref, &item.resource_field_ref) {
                (Some(field), _) => downward::field(sources.pod, &field.field_path, sources.addresses)?,
                (_, Some(resource)) => downward::resource(sources.pod, "", resource, sources.allocatable)?,
                _ => continue,
            };
            self.add(&item.path, text.into_bytes(), item.mode)?;
        }
        Ok(())
    }

    fn token(&mut self, source: &ServiceAccountTokenProjection) -> Result<(), String> {
        let key = (self.volume.to_owned(), source.path.clone());
        let token = self.sources.tokens.get(&key).ok_or("no service account token was issued")?.clone();
        let context = self.sources.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        // Readable for exactly those who need it: the fsGroup, else the pod's one user, else root (KEP-1205).
        let group = context.and_then(|c| c.fs_group).is_some();
        let user = one_user(self.sources.pod);
        let mode = if group { Some(0o640) } else { user.map(|_| 0o600) };
        self.add(&source.path, token.into_bytes(), mode)?;
        if let (false, Some(user), Some(file)) = (group, user, self.files.get_mut(&source.path)) {
            file.owner = Some(user);
        }
        Ok(())
    }
}

/// The user all containers of the pod run as, when there is one and only one.
fn one_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let default = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let own = |c: &k8s_openapi::api::core::v1::Container| {
        c.security_context.as_ref().and_then(|c| c.run_as_user).or(default)
    };
    let mut users = spec.init_containers.iter().flatten().chain(&spec.containers).map(own);
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}
