//! Raw netlink: nftables and conntrack messages.
