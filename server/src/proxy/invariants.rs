//! Checks the invariants of LIFECYCLE.md, for every test that drives a proxy.
use super::Proxy;
use super::conn::{Conn, Upstream};

impl Proxy {
    /// Compares the connection table with the pool and the counts. For tests, since the time is
    /// linear in the number of connections.
    ///
    /// # Panics
    /// An invariant of LIFECYCLE.md does not hold.
    pub fn check_invariants(&self) {
        let (mut clients, mut leases, mut idle, mut displaced) = (0, 0, 0, 0);
        let (mut refused, mut counted, mut visits) = (0, 0, 0);
        for (id, conn) in self.table.iter() {
            match conn {
                Conn::Client(session) => {
                    clients += 1;
                    refused += usize::from(session.is_refused());
                    counted += usize::from(session.is_counted());
                    visits += u64::from(session.has_visit());
                    leases += usize::from(session.has_lease());
                    displaced += usize::from(
                        session.lease().is_some_and(|l| self.upstreams.is_displaced(l.id())),
                    );
                    let bound = session.bound().map(|bound| bound.conn);
                    assert!(
                        bound.is_none() || session.upstream_conn().is_none(),
                        "I10: a client's own connection is the one that it uses"
                    );
                    if let Some(upstream) = session.upstream_conn().or(bound) {
                        let entry = self.table.get(upstream).map(|entry| &entry.conn);
                        let owner = match entry {
                            Some(Conn::Upstream(upstream)) => upstream.session,
                            _ => None,
                        };
                        assert_eq!(owner, Some(id), "I1: a session's upstream is its own");
                    }
                }
                Conn::Upstream(upstream) => {
                    let Upstream { backend, attempt, session, .. } = *upstream;
                    idle += usize::from(session.is_none());
                    let is_current = self.upstreams.is_current(backend, attempt);
                    assert!(is_current || session.is_some(), "I7: the pool has no displaced one");
                }
                Conn::Probe(probe) => {
                    let is_current = self.upstreams.is_current(probe.backend, probe.attempt);
                    assert!(is_current, "I7: no probe is of a backend that left or moved");
                }
            }
        }
        assert_eq!(clients, self.clients, "I2: every client is counted");
        assert_eq!(refused, self.refused, "I2: so is every one that was turned away");
        let of_clients = self.shared.per_client.connections();
        assert_eq!(counted, of_clients, "I11: a counted connection is counted for its address");
        assert_eq!(visits, self.shared.access.open(), "I12: every exchange gets its record");
        self.upstreams.check_invariants(leases, displaced, idle);
    }
}
