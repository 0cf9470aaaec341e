//! What every kind with `spec` and `status` does alike.

/// Functions of `Kind` for an object with optional `spec` and `status`: a client sets the one, `/status` the other, and
/// a change of the spec raises the generation.
macro_rules! spec_and_status {
    ($object:ty) => {
        spec_and_status!($object, no generation);
        fn generation_changed(new: &$object, old: &$object) -> Option<bool> {
            Some(new.spec != old.spec)
        }
    };
    // As above, for a kind whose `/status` changes no metadata.
    ($object:ty, status alone) => {
        fn prepare_create(object: &mut $object) {
            object.status = Some(Default::default());
        }
        fn prepare_update(new: &mut $object, old: &$object) {
            new.status = old.status.clone();
        }
        fn prepare_status_update(new: &mut $object, old: &$object) {
            new.spec = old.spec.clone();
            crate::kinds::shared::object_meta::keep(&mut new.metadata, &old.metadata);
        }
    };
    ($object:ty, no generation) => {
        fn prepare_create(object: &mut $object) {
            object.status = Some(Default::default());
        }
        fn prepare_update(new: &mut $object, old: &$object) {
            new.status = old.status.clone();
        }
        fn prepare_status_update(new: &mut $object, old: &$object) {
            new.spec = old.spec.clone();
        }
    };
}

pub(in crate::kinds) use spec_and_status;
