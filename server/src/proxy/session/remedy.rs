//! The remedy for an exchange whose upstream failed: a pure function of the facts. `failure.rs`
//! collects the facts and carries the remedy out.
use crate::http::UpstreamError;
use crate::proxy::notice::RemedyTaken;

/// Remedy for a failed upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Remedy {
    /// Try the same backend over a new connection, without blame: the backend closed a kept
    /// connection just when it was reused, or had sent bytes on it before the request.
    Redial,
    /// Try another backend. This one is blamed, unless the proxy's own system failed.
    Retry,
    /// Close the client's connection without a response and without blame. The backend closed a
    /// kept connection just when it was reused, and only the client may repeat the request. Clients
    /// expect such an end of a kept connection (RFC 9112 section 9.3.1).
    Close,
    /// Do not blame the backend, which gave up waiting for the client. The client gets 408, or its
    /// response is cut.
    Excuse,
    /// Send the error to the client. The backend is blamed, unless the proxy's own system failed.
    Answer,
    /// Blame the backend and cut the client's response, which was sent in part. The end is a clean
    /// one if the framing shows the cut, otherwise a reset.
    Truncate,
}

impl From<Remedy> for RemedyTaken {
    fn from(remedy: Remedy) -> Self {
        match remedy {
            Remedy::Redial => Self::Redialled,
            Remedy::Excuse => Self::Excused,
            Remedy::Retry => Self::Retried,
            Remedy::Close => Self::Closed,
            Remedy::Answer => Self::Answered,
            Remedy::Truncate => Self::Truncated,
        }
    }
}

/// The facts of a failed upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) error: UpstreamError,
    /// Whether any byte of the final response was forwarded.
    pub(crate) has_begun_answer: bool,
    /// Whether any byte arrived from this upstream for this request.
    pub(crate) has_seen_answer: bool,
    /// Whether any byte of the request was written to the upstream.
    pub(crate) has_sent: bool,
    /// Whether all sent bytes can be sent again.
    pub(crate) can_replay: bool,
    /// Whether the request is idempotent (RFC 9110 section 9.2.2).
    pub(crate) is_idempotent: bool,
    /// Whether the backend ended the connection while the client kept it waiting.
    pub(crate) is_client_late: bool,
    /// Whether the connection had carried an exchange before.
    pub(crate) is_reused: bool,
    /// Whether the request is the first of its client's connection.
    pub(crate) is_first: bool,
    /// Whether the connection is bound to the client (`bound.rs`).
    pub(crate) is_bound: bool,
    /// Backends that may still be tried after this one.
    pub(crate) attempts_left: usize,
}

/// Returns the remedy for a failure.
pub(crate) const fn remedy(failure: &Failure) -> Remedy {
    if failure.is_client_late
        && matches!(failure.error, UpstreamError::Cut | UpstreamError::Truncated)
    {
        return Remedy::Excuse;
    }
    if failure.has_begun_answer {
        return Remedy::Truncate;
    }
    // RFC 9112 section 9.3.1: a proxy may repeat only a request that was not processed or is
    // idempotent, and only before any response. An idle connection on which bytes arrive before the
    // request is as useless as one that has ended.
    let is_cut = matches!(failure.error, UpstreamError::Cut | UpstreamError::Unsolicited);
    let is_unconnected = matches!(
        failure.error,
        UpstreamError::Refused
            | UpstreamError::Unreachable
            | UpstreamError::Handshake(_)
            | UpstreamError::Exhausted
            | UpstreamError::ConnectTimeout
    );
    let is_safe = !failure.has_seen_answer
        && failure.can_replay
        && (is_unconnected || is_cut)
        && (failure.is_idempotent || !failure.has_sent);
    let is_stale = is_cut && failure.is_reused;
    // No other connection is authenticated as this client.
    let is_safe = is_safe && !failure.is_bound;
    if !is_safe {
        let is_close = is_stale && !failure.has_seen_answer && !failure.is_first;
        return if is_close { Remedy::Close } else { Remedy::Answer };
    }
    if is_stale {
        return Remedy::Redial;
    }
    if failure.attempts_left > 0 { Remedy::Retry } else { Remedy::Answer }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CUT: Failure = Failure {
        error: UpstreamError::Cut,
        has_begun_answer: false,
        has_seen_answer: false,
        has_sent: true,
        can_replay: true,
        is_idempotent: true,
        is_client_late: false,
        is_reused: false,
        is_first: true,
        is_bound: false,
        attempts_left: 2,
    };

    /// Starts from a request that may be retried, changes some facts in each row, and checks the
    /// remedy.
    #[test]
    fn only_what_is_safe_is_retried() {
        let post = Failure { is_idempotent: false, ..CUT };
        let rows = [
            ("an idempotent request that was cut", CUT, Remedy::Retry),
            ("on a reused connection", Failure { is_reused: true, ..CUT }, Remedy::Redial),
            ("with a part passed on", Failure { has_begun_answer: true, ..CUT }, Remedy::Truncate),
            ("with a part seen", Failure { has_seen_answer: true, ..CUT }, Remedy::Answer),
            ("with its bytes gone", Failure { can_replay: false, ..CUT }, Remedy::Answer),
            ("for the last time", Failure { attempts_left: 0, ..CUT }, Remedy::Answer),
            ("POST that was sent", post, Remedy::Answer),
            ("POST on a reused connection", Failure { is_reused: true, ..post }, Remedy::Answer),
            (
                "POST on a reused connection, not the client's first",
                Failure { is_reused: true, is_first: false, ..post },
                Remedy::Close,
            ),
            (
                "the same with a part seen",
                Failure { is_reused: true, is_first: false, has_seen_answer: true, ..post },
                Remedy::Answer,
            ),
            (
                "a body that was not kept, on a reused connection, not the client's first",
                Failure { is_reused: true, is_first: false, can_replay: false, ..CUT },
                Remedy::Close,
            ),
            (
                "on the client's own connection",
                Failure { is_reused: true, is_first: false, is_bound: true, ..CUT },
                Remedy::Close,
            ),
            (
                "POST on a fresh connection, not the client's first",
                Failure { is_first: false, ..post },
                Remedy::Answer,
            ),
            ("POST that was not sent", Failure { has_sent: false, ..post }, Remedy::Retry),
            (
                "POST not sent on a reused connection",
                Failure { has_sent: false, is_reused: true, ..post },
                Remedy::Redial,
            ),
            (
                "POST refused",
                Failure { error: UpstreamError::Refused, has_sent: false, ..post },
                Remedy::Retry,
            ),
            (
                "POST on a reused connection that brought bytes before it was sent",
                Failure {
                    error: UpstreamError::Unsolicited,
                    has_sent: false,
                    is_reused: true,
                    ..post
                },
                Remedy::Redial,
            ),
            (
                "bytes on a fresh connection before the request",
                Failure { error: UpstreamError::Unsolicited, has_sent: false, ..CUT },
                Remedy::Retry,
            ),
            (
                "POST for which the proxy has no descriptor",
                Failure { error: UpstreamError::Exhausted, has_sent: false, ..post },
                Remedy::Retry,
            ),
            (
                "while the client kept it waiting",
                Failure { is_client_late: true, ..CUT },
                Remedy::Excuse,
            ),
            (
                "a part while the client took nothing",
                Failure {
                    error: UpstreamError::Truncated,
                    is_client_late: true,
                    has_begun_answer: true,
                    ..CUT
                },
                Remedy::Excuse,
            ),
            (
                "silence while the client took nothing",
                Failure { error: UpstreamError::HeadTimeout, is_client_late: true, ..CUT },
                Remedy::Answer,
            ),
            ("garbage", Failure { error: UpstreamError::MalformedHead, ..CUT }, Remedy::Answer),
            ("silence", Failure { error: UpstreamError::HeadTimeout, ..CUT }, Remedy::Answer),
        ];
        for (name, failure, expected) in rows {
            assert_eq!(remedy(&failure), expected, "{name}");
        }
    }
}
