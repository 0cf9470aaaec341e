//! Numbers that are handed out once: a subnet's addresses, a range of ports.

use std::{collections::HashSet, fmt, net::Ipv4Addr};

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnet {
    base: u32,
    prefix: u8,
}

impl Subnet {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("service CIDR {text:?} {why}");
        let (address, prefix) = text.split_once('/').ok_or_else(|| wrong("has no prefix length"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong("is not an IPv4 network"))?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong("has a prefix length that is no number"))?;
        // As Kubernetes: at most 2^20 addresses; and the first ten are promised.
        if !(12..=28).contains(&prefix) {
            return Err(wrong("must be between /12 and /28"));
        }
        let base = u32::from(address);
        if base & (u32::MAX >> prefix) != 0 {
            return Err(wrong("has address bits beyond its prefix"));
        }
        Ok(Self { base, prefix })
    }

    pub(super) fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    pub(super) fn at(self, offset: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.base + offset)
    }

    /// `None` for what is outside, and for the network's own and broadcast addresses.
    pub(super) fn offset(self, address: Ipv4Addr) -> Option<u32> {
        let offset = u32::from(address).checked_sub(self.base)?;
        (1..self.size() - 1).contains(&offset).then_some(offset)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// Which offsets of a range are taken.
#[derive(Debug)]
pub(super) struct Pool {
    taken: HashSet<u32>,
    /// Those that may be handed out without being asked for: `first..end`, the upper band from `band` on first.
    first: u32,
    band: u32,
    end: u32,
}

impl Pool {
    /// Without the network's own and broadcast addresses, and without the ten that are promised.
    pub(super) fn addresses(size: u32) -> Self {
        let band = (size / 16).clamp(16, 256).min(size - 1);
        Self { taken: HashSet::new(), first: 11, band, end: size - 1 }
    }

    pub(super) fn ports(size: u32) -> Self {
        let band = if size < 16 { 0 } else { (size / 32).clamp(16, 128).min(size) };
        Self { taken: HashSet::new(), first: 0, band, end: size }
    }

    /// False if it is taken.
    pub(super) fn take(&mut self, offset: u32) -> bool {
        self.taken.insert(offset)
    }

    pub(super) fn free(&mut self, offset: u32) {
        self.taken.remove(&offset);
    }

    /// A free one at random from the upper band, else the lowest free of the lower band.
    pub(super) fn any(&mut self) -> Option<u32> {
        let upper = self.end.saturating_sub(self.band);
        let start = if upper == 0 { 0 } else { fastrand::u32(..upper) };
        let candidates =
            (0..upper).map(|i| self.band + (start + i) % upper).chain(self.first..self.band.min(self.end));
        let mut free = candidates.filter(|offset| !self.taken.contains(offset));
        let offset = free.next()?;
        drop(free);
        self.taken.insert(offset);
        Some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_strictly() {
        assert_eq!(Subnet::parse("10.96.0.0/16").unwrap().to_string(), "10.96.0.0/16");
        for bad in
            ["10.96.0.0", "10.96.0.0/", "10.96.0.1/16", "10.96.0.0/8", "10.96.0.0/29", "fd00::/108", "x/16"]
        {
            assert!(Subnet::parse(bad).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn offsets_leave_out_the_network_and_broadcast_addresses() {
        let net = Subnet::parse("10.96.0.0/24").unwrap();
        let offset = |text: &str| net.offset(text.parse().unwrap());
        assert_eq!(offset("10.96.0.0"), None);
        assert_eq!(offset("10.96.0.1"), Some(1));
        assert_eq!(offset("10.96.0.254"), Some(254));
        assert_eq!(offset("10.96.0.255"), None);
        assert_eq!(offset("10.95.255.255"), None);
        assert_eq!(offset("10.96.1.1"), None);
        assert_eq!(net.at(10).to_string(), "10.96.0.10");
    }

    #[test]
    fn a_pool_hands_out_each_number_once_the_upper_band_first() {
        let mut pool = Pool::addresses(64);
        let upper: Vec<u32> = (0..63 - 16).map(|_| pool.any().unwrap()).collect();
        assert!(upper.iter().all(|o| (16..63).contains(o)));
        let lower: Vec<u32> = (11..16).map(|_| pool.any().unwrap()).collect();
        assert_eq!(lower, [11, 12, 13, 14, 15]);
        assert_eq!(pool.any(), None);
        pool.free(40);
        assert_eq!(pool.any(), Some(40));
        assert_eq!((Pool::addresses(1 << 16).band, Pool::ports(2768).band), (256, 86));
        let mut one = Pool::ports(1);
        assert_eq!((one.any(), one.any()), (Some(0), None));
    }
}
