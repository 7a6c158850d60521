//! The clients that give way: one when `limits.clients` are connected and a new one waits, all in
//! excess when a new configuration has lowered that limit.
//!
//! | standing | meaning | gives way |
//! |---|---|---|
//! | silent | has sent no complete request head since it connected, or since the head began | first, after 5 s |
//! | kept | is between two exchanges, or was sent the end of its connection | next, after 1 s |
//! | busy | has an exchange, a tunnel, a partly written response, or unread bytes | never |
//!
//! Within one standing the client that has waited longest goes first. Standings change with every
//! request, so they are checked only when room is needed. Each client has one entry in a heap. Its
//! time is never later than the real start of the client's wait. When an entry at the front has an
//! outdated standing or time, it is removed and added again with the current ones. This costs
//! nothing per request, O(log n) per check, and a bounded number of checks per call. A client that
//! was silent at its last check is checked again when its 5 s have passed.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use intelliproxy_core::Instant;

use super::conn::{Conn, ConnTable};
use super::id::ConnId;
use super::session::Standing;
use super::{Notice, Proxy};

/// Time after which a client without a complete head gives way.
const SILENT_GRACE: Duration = Duration::from_secs(5);
/// Idle time between two exchanges after which a client gives way.
const KEPT_GRACE: Duration = Duration::from_secs(1);
/// The maximum number of entries checked in one call.
const LOOKS_MAX: usize = 1024;
/// The number of checks that cost as much as closing a client.
const LOOKS_PER_CLOSE: usize = 8;
/// Wait before the next call if one call was not enough.
const LOOKS_REST: Duration = Duration::from_millis(10);
/// The shortest time between two notices about clients that gave way.
const NOTICE_EVERY: Duration = Duration::from_secs(1);

/// Every client, by the earliest time since which it may have been waiting.
#[derive(Debug, Default)]
pub(super) struct GiveWay {
    silent: BinaryHeap<Reverse<(Instant, ConnId)>>,
    kept: BinaryHeap<Reverse<(Instant, ConnId)>>,
    /// The earliest time at which a client may give way.
    looks_from: Instant,
    /// Number of clients that gave way and were not yet reported.
    untold: u64,
    notice_from: Instant,
}

impl GiveWay {
    /// Adds a new client; `clients` are connected.
    pub(super) fn add(&mut self, now: Instant, conn: ConnId, clients: usize, table: &ConnTable) {
        // Entries of closed clients are dropped when they outnumber the others.
        if self.silent.len() + self.kept.len() > 2 * clients + 64 {
            self.silent.retain(|Reverse((_, conn))| table.get(*conn).is_some());
            self.kept.retain(|Reverse((_, conn))| table.get(*conn).is_some());
        }
        // Its standing is checked after `KEPT_GRACE`, the shorter of the two times.
        self.kept.push(Reverse((now, conn)));
        self.looks_from = self.looks_from.min(now + KEPT_GRACE);
    }

    /// Removes and returns the client that gives way next. Makes at most `looks` checks, and
    /// subtracts them from `looks`.
    fn take(&mut self, now: Instant, looks: &mut usize, table: &ConnTable) -> Option<ConnId> {
        // The first round moves silent clients from `kept` to `silent`. The next rounds take the
        // client from `silent`, otherwise from `kept`.
        for (is_silent, takes) in [(false, false), (true, true), (false, true)] {
            let grace = if is_silent { SILENT_GRACE } else { KEPT_GRACE };
            loop {
                let heap = if is_silent { &mut self.silent } else { &mut self.kept };
                let Some(&Reverse((at, conn))) = heap.peek() else { break };
                if at + grace > now {
                    break;
                }
                if *looks == 0 {
                    self.looks_from = now + LOOKS_REST;
                    return None;
                }
                *looks -= 1;
                let standing = standing(table, conn, now);
                let is_first = match standing {
                    Some(Standing::Silent { since }) => is_silent && since <= at,
                    Some(Standing::Kept { since }) => !is_silent && since <= at,
                    Some(Standing::Busy) | None => false,
                };
                if is_first && !takes {
                    break;
                }
                heap.pop();
                match standing {
                    _ if is_first => return Some(conn),
                    Some(Standing::Silent { since }) => self.silent.push(Reverse((since, conn))),
                    Some(Standing::Kept { since }) => self.kept.push(Reverse((since, conn))),
                    Some(Standing::Busy) => self.kept.push(Reverse((now, conn))),
                    None => {}
                }
            }
        }
        let first = |heap: &BinaryHeap<Reverse<(Instant, ConnId)>>, grace| {
            heap.peek().map_or(Instant::FAR_FUTURE, |&Reverse((at, _))| at + grace)
        };
        self.looks_from = first(&self.silent, SILENT_GRACE).min(first(&self.kept, KEPT_GRACE));
        None
    }
}

/// Returns a client's standing; `None` if it no longer exists.
fn standing(table: &ConnTable, conn: ConnId, now: Instant) -> Option<Standing> {
    let entry = table.get(conn)?;
    match &entry.conn {
        // Its last bytes are not read yet.
        Conn::Client(_) if entry.is_unread => Some(Standing::Busy),
        Conn::Client(session) => Some(session.standing(now)),
        Conn::Upstream(_) | Conn::Probe(_) => None,
    }
}

impl Proxy {
    /// If the bound on clients is reached, closes a client that gives way, for one that waits to be
    /// accepted. Returns whether there is room. The driver must carry out the actions before it
    /// accepts: until then it holds the sockets of the closed clients.
    #[cold]
    pub fn make_room(&mut self, now: Instant) -> bool {
        if self.shared.is_stopping {
            return false;
        }
        let has_room = self.give_way_until(now, self.room.clients_max.saturating_sub(1));
        if has_room {
            self.report_given_way(now);
        }
        has_room
    }

    /// Returns the time before which [`make_room`](Self::make_room) finds no room, unless a client
    /// leaves.
    pub fn makes_room_from(&self) -> Instant {
        if self.shared.is_stopping { Instant::FAR_FUTURE } else { self.give_way.looks_from }
    }

    /// Returns the number of clients that are connected and were not refused.
    pub(super) const fn admitted(&self) -> usize {
        self.clients - self.refused
    }

    /// Returns the time at which clients beyond a lowered limit may give way; `None` without such
    /// clients.
    #[inline]
    pub(super) fn excess_timeout(&self) -> Option<Instant> {
        let has_excess = self.admitted() > self.room.clients_max && !self.shared.is_stopping;
        has_excess.then_some(self.give_way.looks_from)
    }

    /// Closes idle clients beyond a lowered limit, even if no new client waits.
    #[cold]
    pub(super) fn close_excess(&mut self, now: Instant) {
        if self.excess_timeout().is_some() {
            self.give_way_until(now, self.room.clients_max);
            self.report_given_way(now);
        }
    }

    /// Closes clients that give way until `most` are left. Returns whether that was possible now.
    fn give_way_until(&mut self, now: Instant, most: usize) -> bool {
        let mut looks = LOOKS_MAX;
        while self.admitted() > most {
            if now < self.give_way.looks_from {
                return false;
            }
            let Some(conn) = self.give_way.take(now, &mut looks, &self.table) else { return false };
            if let Some(session) = self.table.session_mut(conn) {
                debug_assert!(!session.has_lease(), "one with an exchange never gives way");
                session.handle_way_given(false);
            }
            self.serve(now, conn);
            self.give_way.untold += 1;
            looks = looks.saturating_sub(LOOKS_PER_CLOSE);
        }
        true
    }

    fn report_given_way(&mut self, now: Instant) {
        if self.give_way.untold > 0 && self.give_way.notice_from <= now {
            self.give_way.notice_from = now + NOTICE_EVERY;
            let count = std::mem::take(&mut self.give_way.untold);
            let full = self.full();
            self.notify(Notice::ClientsGaveWay { count, full });
        }
    }
}
