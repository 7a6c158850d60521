//! The access that requests have to a backend.
/// The access that requests have to a backend. Requests go to the backends with the lowest value
/// that any has.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Access {
    /// No restriction.
    Free,
    /// New or returned, and at the limit of its slow start.
    Slow,
    /// It requested a pause.
    Held,
    /// Its requests failed: it gets none, or one at a time.
    Ejected,
    /// Its pings or its connections failed.
    Down,
    /// It has the maximum number of requests in flight: it gets none, even if all others are down.
    Full,
    /// It is out of service, by its mode or a weight of 0: it gets none.
    Drained,
    /// It is not configured.
    #[default]
    Gone,
}
