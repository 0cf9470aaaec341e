//! Raw netlink to netfilter: nftables and conntrack messages, with no binary and no C library.
//! Links, addresses and routes go through the `rtnetlink` crate instead; [`errno`] is what it was told.

pub(crate) mod batch;
pub(crate) mod conntrack;
pub(crate) mod nftables;
pub(crate) mod socket;

use rustix::io::Errno;

/// What the kernel answered to a route request, if it was the kernel that failed it.
pub(crate) fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            Some(Errno::from_raw_os_error(message.raw_code().saturating_neg()))
        }
        _ => None,
    }
}

/// What the kernel said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// CAP_NET_ADMIN is missing.
    #[error("not permitted to change the kernel's network tables (CAP_NET_ADMIN is needed)")]
    NotPermitted,
    #[error("{what}: {errno}")]
    Kernel { what: &'static str, errno: Errno },
    /// The kernel's answer has not the expected form.
    #[error("unexpected answer of the kernel: {0}")]
    Answer(&'static str),
}

impl Error {
    pub(crate) fn new(what: &'static str, errno: Errno) -> Self {
        match errno {
            Errno::PERM | Errno::ACCESS => Error::NotPermitted,
            errno => Error::Kernel { what, errno },
        }
    }

    /// Whether the object that was asked for is not there.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Error::Kernel { errno: Errno::NOENT, .. })
    }
}
