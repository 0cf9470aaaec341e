//! Owner references: who controls an object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::{Metadata, Resource};

/// The one owner with `controller: true`.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))
}

/// A controlling reference to `owner`, which must have been stored (it has a name and a UID).
pub fn controller_ref<O: Resource + Metadata<Ty = ObjectMeta>>(owner: &O) -> OwnerReference {
    OwnerReference { controller: Some(true), ..owner_ref(owner) }
}

/// A plain owner reference that blocks the owner's foreground deletion.
pub fn owner_ref<O: Resource + Metadata<Ty = ObjectMeta>>(owner: &O) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: O::API_VERSION.to_owned(),
        kind: O::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: Some(true),
    }
}

/// Whether `owner` (by UID) controls the object with `meta`.
pub fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    match (controller_of(meta), &owner.uid) {
        (Some(controller), Some(uid)) => controller.uid == *uid,
        _ => false,
    }
}

/// Whether any owner reference names this UID.
pub fn is_owned_by(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner| owner.uid == uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::StatefulSet;

    #[test]
    fn controllers() {
        let set = StatefulSet {
            metadata: ObjectMeta { name: Some("kubia".into()), uid: Some("u".into()), ..Default::default() },
            ..Default::default()
        };
        let reference = controller_ref(&set);
        assert_eq!((reference.api_version.as_str(), reference.kind.as_str()), ("apps/v1", "StatefulSet"));
        let plain = OwnerReference { uid: "v".into(), ..Default::default() };
        let pod = ObjectMeta { owner_references: Some(vec![plain, reference]), ..Default::default() };
        assert!(is_controlled_by(&pod, &set.metadata));
        assert!(is_owned_by(&pod, "v") && !is_owned_by(&pod, "w"));
        assert!(controller_of(&ObjectMeta::default()).is_none());
    }
}
