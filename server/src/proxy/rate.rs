//! Requests per second of each client: token buckets in a table of fixed size.
//!
//! A client may send a burst of `limits.clientRequestsPerSecond` requests. Its bucket refills at
//! that number per second. The bucket is stored as one number: the time at which it is full again.
//! The bucket of a client that has sent nothing for a second is full, and its place in the table is
//! free. The table therefore holds only the clients of the last second.
//!
//! A client's place is in one of [`WAYS`] slots that its address selects. When all of them are in
//! use, the bucket that is nearest to full is dropped for the new client. A dropped bucket counts
//! as full. Errors are always in favour of clients: however many addresses send requests, a client
//! within its limit is never refused.
use intelliproxy_core::Instant;

use crate::mix::mixed;

/// Number of slots in the table: 65 536 slots of 16 bytes take 1 MiB. The table holds the clients
/// of one second. A client is refused exactly at its limit, unless its bucket was dropped.
const SLOTS: usize = 1 << 16;
/// Number of slots that one client may use: a set of 128 bytes, two cache lines. With 32 768
/// clients a second, half the number of slots, 1 of 50 sets has more clients than slots and drops a
/// bucket.
const WAYS: usize = 8;
/// The time in which an empty bucket fills, nanoseconds.
const FILL_NANOS: u64 = 1_000_000_000;

/// The buckets of all clients.
#[derive(Debug)]
pub(super) struct RateTable {
    slots: Vec<Slot>,
    /// The cost of one request as refill time, nanoseconds.
    cost: u64,
    seed: u64,
}

/// The bucket of one client.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    client: u64,
    /// The time at which the bucket is full, nanoseconds; then the slot is free.
    full_at: u64,
}

impl RateTable {
    /// Returns a table in which every bucket is full. `per_second` is 1 to 1 000 000 requests;
    /// `seed` decides which clients share slots.
    pub(super) fn new(per_second: u32, seed: u64) -> Self {
        Self { slots: vec![Slot::default(); SLOTS], cost: cost(per_second), seed }
    }

    /// Applies another rate. Each bucket keeps its level, as a share of the requests of a second.
    pub(super) fn set_rate(&mut self, per_second: u32) {
        self.cost = cost(per_second);
    }

    /// Takes one request from a client's bucket. Returns false if the bucket was empty.
    pub(super) fn take(&mut self, now: Instant, client: u64) -> bool {
        let now = now.as_nanos();
        let first = self.first_slot(client);
        let slots = &mut self.slots[first..first + WAYS];
        let own = slots.iter().position(|slot| slot.client == client);
        let fullest = || slots.iter().enumerate().min_by_key(|(_, slot)| slot.full_at);
        let place = own.or_else(|| fullest().map(|(place, _)| place)).unwrap_or(0);
        let slot = &mut slots[place];
        let missing = if own.is_some() { slot.full_at.saturating_sub(now) } else { 0 };
        if missing + self.cost > FILL_NANOS {
            return false;
        }
        *slot = Slot { client, full_at: now + missing + self.cost };
        true
    }

    fn first_slot(&self, client: u64) -> usize {
        // Addresses of one network differ in few bits.
        (mixed(client ^ self.seed) as usize % (SLOTS / WAYS)) * WAYS
    }
}

const fn cost(per_second: u32) -> u64 {
    FILL_NANOS / if per_second == 0 { 1 } else { per_second as u64 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Token buckets without a bound on memory. For each client: the time until its bucket is full,
    /// and the time at which this was computed, both in nanoseconds.
    #[derive(Default)]
    struct Exact(BTreeMap<u64, (u64, u64)>);

    impl Exact {
        fn take(&mut self, now: u64, client: u64, per_second: u64) -> bool {
            let (missing, at) = self.0.entry(client).or_default();
            *missing = missing.saturating_sub(now - *at);
            *at = now;
            let cost = SECOND / per_second;
            let has_room = *missing + cost <= SECOND;
            *missing += if has_room { cost } else { 0 };
            has_room
        }
    }

    fn next(state: &mut u64) -> u64 {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 24
    }

    /// A burst of a second's requests is admitted, then one for each interval. A client that pauses
    /// for a second or longer may send one more burst, but not a larger one.
    #[test]
    fn a_burst_then_the_rate() {
        for per_second in [1, 3, 10, 1000, 1_000_000] {
            let mut table = RateTable::new(per_second, 7);
            let mut count = |at: u64| {
                (0..2 * per_second).filter(|_| table.take(Instant::from_nanos(at), 5)).count()
                    as u32
            };
            let interval = SECOND / u64::from(per_second);
            assert_eq!(count(0), per_second, "the burst");
            // Costs are rounded down to nanoseconds.
            assert_eq!(count(interval - 2), 0);
            assert_eq!(count(interval), 1);
            assert_eq!(count(4 * interval), 3.min(per_second));
            assert_eq!(count(100 * SECOND), per_second, "unused requests do not add up");
        }
    }

    /// A change of the rate keeps the levels: an empty bucket stays empty, a full one stays full.
    #[test]
    fn another_rate_keeps_the_levels() {
        let mut table = RateTable::new(2, 7);
        let at = Instant::from_nanos(SECOND);
        assert_eq!((0..5).filter(|_| table.take(at, 1)).count(), 2);
        table.set_rate(100);
        assert!(!table.take(at, 1));
        assert_eq!((0..500).filter(|_| table.take(at, 2)).count(), 100);
        let later = Instant::from_nanos(SECOND + SECOND / 2);
        assert_eq!((0..500).filter(|_| table.take(later, 1)).count(), 50);
    }

    /// A million addresses send one request each, at 20 000 requests a second, together with ten
    /// clients that send three times their limit. Clients within their limits are never refused.
    /// The ten get exactly as many as with unbounded memory, and the table does not grow.
    #[test]
    fn a_million_addresses() {
        let mut table = RateTable::new(10, 1);
        let mut exact = Exact::default();
        let (mut now, mut greedy_refused) = (SECOND, 0);
        for address in 0..1_000_000_u64 {
            now += SECOND / 20_000;
            assert!(table.take(Instant::from_nanos(now), 1_000 + address), "{address}");
            // Ten clients send 30 requests a second each: one such request for every 67 others.
            if address % 67 == 0 {
                let client = address / 67 % 10;
                let admitted = table.take(Instant::from_nanos(now), client);
                assert_eq!(admitted, exact.take(now, client, 10), "client {client} at {now}");
                greedy_refused += u32::from(!admitted);
            }
        }
        assert!(greedy_refused > 9_000, "{greedy_refused} of 14 925");
        assert_eq!((table.slots.len(), table.slots.capacity()), (SLOTS, SLOTS));
    }

    /// Far more addresses than slots send requests, in random order. No client within its exact
    /// limit is refused. Some that exceed it are admitted, because a dropped bucket counts as full.
    /// The bucket of a client far beyond its limit is never the one nearest to full.
    #[test]
    fn a_full_table_never_refuses_wrongly() {
        let mut table = RateTable::new(4, 3);
        let mut exact = Exact::default();
        let mut honest = vec![true; 300_000];
        let (mut state, mut refused, mut spared, mut greedy) = (1, 0, 0, 0);
        for step in 0..1_500_000_u64 {
            // 1.5 million requests of 300 000 addresses arrive within one second: five from each,
            // of which four are permitted.
            let now = SECOND + step * 667;
            let client = next(&mut state) % 300_000;
            let is_permitted = exact.take(now, client, 4);
            let is_admitted = table.take(Instant::from_nanos(now), client);
            honest[client as usize] &= is_permitted;
            assert!(is_admitted || !honest[client as usize], "client {client} at {now}");
            refused += u32::from(!is_admitted);
            if step % 100 == 0 {
                greedy += u32::from(table.take(Instant::from_nanos(now), 1 << 40));
            }
            spared += u32::from(is_admitted && !is_permitted);
        }
        assert!(refused > 0 && spared > 0, "{refused} refused, {spared} spared");
        assert!(greedy <= 8, "{greedy} of 15 000, where 4 and 4 more in a second are permitted");
    }
}
