//! Keys of requests, and the caches of backends. A request whose key a backend has served recently
//! costs less work there, as in a language model server that keeps the state of a common prefix.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::check;

/// The keys of requests, and the cache of each backend.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Cache {
    /// Number of different keys.
    #[serde(deserialize_with = "check::count")]
    pub keys: u32,
    /// Exponent of Zipf's law: key k is drawn in proportion to `1 / k^skew`. With 0 all keys are
    /// equally frequent.
    #[serde(deserialize_with = "check::amount")]
    pub skew: f64,
    /// Number of keys in the cache of a backend. The least recently used key is evicted.
    #[serde(deserialize_with = "check::count")]
    pub size: u32,
    /// The part of its work that remains for a request whose key is in the cache.
    #[serde(deserialize_with = "check::share")]
    pub hit: f64,
}

impl Default for Cache {
    fn default() -> Self {
        Self { keys: 1000, skew: 0.0, size: 250, hit: 0.25 }
    }
}

impl Cache {
    /// Returns the key for a draw from 0 up to but not including 1: the inverse of Zipf's law as a
    /// continuous distribution.
    pub(super) fn key(&self, draw: f64) -> u64 {
        let last = f64::from(self.keys) + 1.0;
        let rest = 1.0 - self.skew;
        let at = if rest.abs() < 1e-9 {
            libm::exp(draw * libm::log(last))
        } else {
            libm::pow(1.0 + draw * (libm::pow(last, rest) - 1.0), 1.0 / rest)
        };
        (at as u64).clamp(1, u64::from(self.keys))
    }
}

/// The cache of one backend: the most recently served keys.
#[derive(Debug)]
pub(super) struct Kept {
    size: usize,
    hit: f64,
    /// The time of the last use of each key, as a count of uses.
    used: BTreeMap<u64, u64>,
    /// The keys by that time.
    by_use: BTreeMap<u64, u64>,
    uses: u64,
}

impl Kept {
    pub(super) fn new(cache: &Cache) -> Self {
        let (used, by_use) = (BTreeMap::new(), BTreeMap::new());
        Self { size: cache.size as usize, hit: cache.hit, used, by_use, uses: 0 }
    }

    /// Returns the part of the work that remains for a request with this key.
    pub(super) fn factor(&self, key: u64) -> f64 {
        if self.used.contains_key(&key) { self.hit } else { 1.0 }
    }

    /// Records that the backend serves this key.
    pub(super) fn keep(&mut self, key: u64) {
        self.uses += 1;
        if let Some(before) = self.used.insert(key, self.uses) {
            self.by_use.remove(&before);
        }
        self.by_use.insert(self.uses, key);
        if self.used.len() > self.size
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.used.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys are drawn by Zipf's law. With skew 0 all are equally frequent. With skew 1 each
    /// doubling of the key number is about equally frequent.
    #[test]
    fn keys_follow_zipf() {
        let counts = |skew| {
            let cache = Cache { keys: 15, skew, ..Cache::default() };
            let mut counts = [0_u32; 4];
            for draw in 0..10_000 {
                let key = cache.key((f64::from(draw) + 0.5) / 10_000.0);
                assert!((1..=15).contains(&key));
                counts[key.ilog2() as usize] += 1;
            }
            counts
        };
        assert!(counts(1.0).iter().all(|count| count.abs_diff(2500) < 30), "{:?}", counts(1.0));
        for (octave, count) in counts(0.0).into_iter().enumerate() {
            assert!(count.abs_diff((1 << octave) * 10_000 / 15) < 30, "{:?}", counts(0.0));
        }
    }

    /// A cache of two keys keeps the two that were used last.
    #[test]
    fn the_oldest_key_leaves() {
        let mut kept = Kept::new(&Cache { size: 2, hit: 0.5, ..Cache::default() });
        for key in [1, 2, 1, 3] {
            kept.keep(key);
        }
        assert_eq!([1, 2, 3].map(|key| kept.factor(key)), [0.5, 1.0, 0.5]);
    }
}
