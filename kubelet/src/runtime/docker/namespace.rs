//! Network namespaces of pods: whether a process has one of its own, and work inside it.

use std::{
    fs, io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// A sandbox's first act is to leave the machine's namespace; a machine that needs longer for it has other troubles.
const LEAVE: Duration = Duration::from_secs(10);
/// Between two looks. The Engine has just said that the program runs: one or two looks are enough.
const LOOK: Duration = Duration::from_millis(1);

/// Whether the process is in another network namespace than ours.
pub(super) fn is_own(pid: u32) -> io::Result<bool> {
    Ok(fs::read_link(format!("/proc/{pid}/ns/net"))? != fs::read_link("/proc/self/ns/net")?)
}

/// Waits until it is. An error when it ends before that.
pub(super) async fn until_own(pid: u32) -> io::Result<()> {
    let end = Instant::now() + LEAVE;
    while !is_own(pid)? {
        if Instant::now() > end {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it stays in the machine's network namespace",
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Does `work` on a thread that has entered the process's network namespace, and ends with it: never one of the
/// runtime's. What `work` opens belongs to that namespace for good. It must come to an end by itself.
pub(super) async fn inside<T: Send + 'static>(
    pid: u32,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let enter_and_work = move || {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/net"))?;
        let network = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), network)?;
        let _sockets_are_driven_by = runtime.enter();
        work()
    };
    std::thread::Builder::new().name("pod-network".to_owned()).spawn(move || {
        // Nobody may be waiting any more.
        let _ = sender.send(enter_and_work());
    })?;
    receiver.await.map_err(io::Error::other)?
}
