//! What nobody owns any more. Containers of pods that are gone get a worker that ends them (`PodWorkers::adopt_orphan`), and
//! a worker removes its own dead containers; what is left is directories. Images are the user's: none is ever removed.

use crate::{node_context::Context, volume};

/// Removes the directories of pods that `is_known` does not know. Runs beside everything else: a directory is removed only
/// when no worker has it, and a new pod has a new uid.
pub(crate) fn sweep(context: &Context, is_known: impl Fn(&str) -> bool) {
    let pods = context.config.data_dir.join("pods");
    let unknown: Vec<_> = std::fs::read_dir(&pods)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|uid| !is_known(uid)))
        .map(|entry| entry.path())
        .collect();
    for dir in unknown {
        match volume::tear_down(&dir) {
            Ok(()) => tracing::debug!(dir = %dir.display(), "removed the directory of a pod that is gone"),
            Err(error) => tracing::warn!(%error, dir = %dir.display(), "removing a pod's directory failed"),
        }
    }
}
