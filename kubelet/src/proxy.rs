//! Service addresses to endpoints (nftables).
