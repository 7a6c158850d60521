//! Affinity keys, which keep requests at one backend, and the order of the backends for each key.
//!
//! The order is that of rendezvous hashing (Thaler and Ravishankar 1998): each backend has a rank,
//! computed from a hash of the key and a hash of its name, and the backend with the highest rank
//! owns the key. If a backend leaves, only its own keys move; if one joins, it takes over only the
//! keys that it will own. The ranks depend only on key, name and weight, so they are the same after
//! a restart and in every proxy. A ring of points would find an owner in fewer steps, but a ring
//! must be built for each set of backends and weights. Computing 300 ranks takes a few
//! microseconds.
use crate::id::BackendId;

/// The key of a request that is to stay at one backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct AffinityKey {
    /// The hash of the key; see [`AffinityKey::of`].
    pub hash: u64,
    /// The backend that the key names, if it names one. It owns the key instead of the backend with
    /// the highest rank.
    pub owner: Option<BackendId>,
}

impl AffinityKey {
    /// The key with these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self { hash: hash(bytes), owner: None }
    }

    /// The key of a session with this number whose owner is `owner`.
    pub fn of_session(number: u64, owner: BackendId) -> Self {
        Self { hash: mixed(number), owner: Some(owner) }
    }
}

/// Returns a hash of the bytes: FNV-1a of 64 bits (Fowler, Noll and Vo), then mixed, since the high
/// bits of FNV-1a depend little on the last bytes. It must never change, because proxies of
/// different versions must agree.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    mixed(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold))
}

/// Combines two hashes; the order matters.
pub(crate) const fn combined(one: u64, other: u64) -> u64 {
    mixed(one.rotate_left(32) ^ mixed(other))
}

/// The rank of a backend for a key, computed from the hashes of both and the weight. The backend
/// with the highest rank owns the key. A backend with twice the weight owns twice as many keys
/// (Schindelhauer and Schomaker 2005).
pub(crate) fn rank(key: u64, name: u64, weight: u32) -> f64 {
    // Half a step keeps the number above 0 and below 1.
    let unit = ((combined(key, name) >> 11) as f64 + 0.5) * (1.0 / (1_u64 << 53) as f64);
    -f64::from(weight) / libm::log(unit)
}

/// Mixes the bits of a number, one to one (the finalizer of splitmix64, Steele, Lea and Flood
/// 2014).
const fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(key: u64, backends: &[(&str, u32)]) -> usize {
        let ranks = backends.iter().map(|(name, weight)| rank(key, hash(name.as_bytes()), *weight));
        let best = ranks.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
        best.expect("a backend").0
    }

    /// The hashes and ranks never change, since proxies of different versions must agree on the
    /// owner of a key.
    #[test]
    fn the_numbers_are_fixed() {
        assert_eq!(hash(b""), 0xc381_7c01_6ba4_ff30);
        assert_eq!(hash(b"alice"), 0x1a04_6f57_3e1e_5475);
        assert_eq!(combined(1, 2), 0x31d4_21fc_b662_c30e);
        let backends = [("a", 100), ("b", 100), ("c", 200)];
        let owners: Vec<usize> = (0..16_u8).map(|key| owner(hash(&[key]), &backends)).collect();
        assert_eq!(owners, [1, 0, 2, 0, 0, 2, 0, 0, 2, 0, 2, 0, 0, 1, 2, 0]);
    }

    /// Each of five backends owns its share of 20 000 keys by weight, within a twentieth of the
    /// share.
    #[test]
    fn keys_are_spread_by_weight() {
        let backends = [("a", 100), ("b", 100), ("c", 50), ("d", 200), ("e", 550)];
        let mut counts = [0_u32; 5];
        for key in 0..20_000_u32 {
            counts[owner(hash(&key.to_le_bytes()), &backends)] += 1;
        }
        for ((name, weight), count) in backends.iter().zip(counts) {
            let share = f64::from(*weight) / 1000.0 * 20_000.0;
            assert!((f64::from(count) - share).abs() < share / 20.0 + 60.0, "{name}: {counts:?}");
        }
    }

    /// If a backend leaves, only its own keys move. They spread over all remaining backends.
    #[test]
    fn only_keys_of_a_removed_backend_move() {
        let names: Vec<String> = (0..10).map(|number| format!("b{number}")).collect();
        let all: Vec<(&str, u32)> = names.iter().map(|name| (name.as_str(), 100)).collect();
        let rest = &all[..9];
        let mut heirs = [0_u32; 9];
        for key in 0..10_000_u32 {
            let key = hash(&key.to_le_bytes());
            let (before, after) = (owner(key, &all), owner(key, rest));
            if before == 9 {
                heirs[after] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert!(heirs.iter().all(|count| (70..160).contains(count)), "{heirs:?}");
    }
}
