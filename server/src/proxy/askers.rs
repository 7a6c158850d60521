//! Sorts requests into groups by client and by path. With these groups the router separates errors
//! of a backend from errors that one client or path causes. Groups depend on the proxy's seed, so
//! that no client can choose its group.
use std::net::IpAddr;

use intelliproxy_core::Asker;

/// The number of bytes of a path that determine its group.
const PATH_MAX: usize = 256;

/// Hashes addresses and paths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Askers {
    seed: u64,
}

impl Askers {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed: mixed(seed, 0x6173_6b65_7273) }
    }

    /// Returns the group of a client by its address. For IPv6 this is the network of 64 bits that
    /// one client usually has.
    pub(crate) fn client(&self, ip: IpAddr) -> u8 {
        let number = match ip.to_canonical() {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        group(mixed(self.seed, number))
    }

    /// Returns the group of a path without its query. The loop reads eight bytes at a time, since
    /// it runs for every request.
    pub(crate) fn target(&self, path: &[u8]) -> u8 {
        const LOW: u64 = u64::from_le_bytes([1; 8]);
        const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
        let path = &path[..path.len().min(PATH_MAX)];
        let mut hash = self.seed;
        let (words, rest) = path.as_chunks();
        for word in words {
            let word = u64::from_le_bytes(*word);
            // The lowest set bit belongs to the first `?`.
            let other = word ^ u64::from_le_bytes([b'?'; 8]);
            let marks = other.wrapping_sub(LOW) & !other & HIGH;
            if marks != 0 {
                let before = (marks & marks.wrapping_neg()) >> 7;
                return group(mixed(hash, word & (before - 1)));
            }
            hash = mixed(hash, word);
        }
        let mut last = 0;
        for (place, &byte) in rest.iter().take_while(|byte| **byte != b'?').enumerate() {
            last |= u64::from(byte) << (8 * place);
        }
        group(mixed(hash, last))
    }
}

/// One round of a multiplicative hash with the high half folded in.
const fn mixed(hash: u64, word: u64) -> u64 {
    let product = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    product ^ product >> 32
}

const fn group(hash: u64) -> u8 {
    ((hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % Asker::GROUPS as u64) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Equal requests are in one group, whatever their query. Different requests are spread over
    /// all groups: each group gets between half and one and a half times its share. Another seed
    /// gives other groups.
    #[test]
    fn groups_are_spread() {
        let askers = Askers::new(1);
        assert_eq!(askers.target(b"/a/b?x=1"), askers.target(b"/a/b"));
        assert_eq!(askers.target(b""), askers.target(b"?"));
        for len in 0..=17 {
            let path = &b"/some/longer/path"[..len];
            for query in [&b"?"[..], b"?a", b"?a=b&c=d&e=f", b"??", b"?\xff\x3e\x40"] {
                assert_eq!(askers.target(&[path, query].concat()), askers.target(path));
            }
        }
        let client =
            |askers: &Askers, number: u32| askers.client(IpAddr::from(number.to_be_bytes()));
        let target =
            |askers: &Askers, number: u32| askers.target(format!("/items/{number}").as_bytes());
        type Kind<'a> = &'a dyn Fn(&Askers, u32) -> u8;
        let kinds: [Kind<'_>; 2] = [&client, &target];
        for kind in kinds {
            let mut counts = [0_i32; Asker::GROUPS];
            for number in 0..6400 {
                counts[usize::from(kind(&askers, number))] += 1;
            }
            assert!(counts.iter().all(|count| (50..150).contains(count)), "{counts:?}");
            let other = Askers::new(2);
            let same = (0..640).filter(|number| kind(&askers, *number) == kind(&other, *number));
            assert!(same.count() < 40);
        }
        let v6 = |text: &str| askers.client(text.parse().expect("an address"));
        assert_eq!(v6("2001:db8::1"), v6("2001:db8::2"));
        assert_eq!(v6("::ffff:10.0.0.1"), v6("10.0.0.1"));
    }
}
