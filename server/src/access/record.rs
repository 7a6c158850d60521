//! One line of the access log as plain data, and a block of such lines. A new field also needs
//! `visit.rs`, which sets it, and `edge/access/format.rs`, which writes it.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use intelliproxy_core::{Instant, RouteReason};

use crate::http::head::Version;

/// The facts about one exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record {
    /// The time of the request's first byte.
    pub(crate) started: Instant,
    /// The client; port 0 behind a trusted hop, where it is unknown.
    pub(crate) client: SocketAddr,
    /// The version of a valid request. For other requests it is `None`, and the version is a text.
    pub(crate) version: Option<Version>,
    /// The status of the final response; 0 if the client got none.
    pub(crate) status: u16,
    /// Bytes of the request that were read, its head included.
    pub(crate) received: u64,
    /// Bytes of the response that the client's connection accepted, heads included.
    pub(crate) sent: u64,
    /// The part of these bytes that belongs to heads, including interim ones.
    pub(crate) heads: u64,
    /// From the start to the end of the request's head.
    pub(crate) head: Span,
    /// The wait for a backend with room.
    pub(crate) queue: Span,
    /// Time until the connection to the backend was open or had failed; missing if an idle
    /// connection was reused.
    pub(crate) connect: Span,
    /// From the last dispatch to the response's head, or to the end of an attempt without one. The
    /// wait for the client is excluded.
    pub(crate) backend: Span,
    /// From the start to the response's head.
    pub(crate) first_byte: Span,
    /// From the start to the end.
    pub(crate) total: Span,
    /// Attempts: one for each chosen backend, and one for each repetition over a new connection.
    pub(crate) tries: u16,
    pub(crate) why: Why,
    pub(crate) ending: Ending,
    /// The lengths of the texts, in the order of [`Text`].
    pub(super) lengths: [u32; Text::COUNT],
}

impl Record {
    pub(super) const EMPTY: Self = Self {
        started: Instant::ZERO,
        client: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        version: None,
        status: 0,
        received: 0,
        sent: 0,
        heads: 0,
        head: Span::NONE,
        queue: Span::NONE,
        connect: Span::NONE,
        backend: Span::NONE,
        first_byte: Span::NONE,
        total: Span::NONE,
        tries: 0,
        why: Why::None,
        ending: Ending::ClientLeft,
        lengths: [0; Text::COUNT],
    };
}

/// A time that may be missing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Span(u64);

impl Span {
    pub(crate) const NONE: Self = Self(u64::MAX);

    pub(crate) const fn of(time: Duration) -> Self {
        Self(time.as_nanos() as u64)
    }

    /// Returns the nanoseconds, or `None` if the time is missing.
    pub(crate) const fn nanos(self) -> Option<u64> {
        if self.0 == u64::MAX { None } else { Some(self.0) }
    }
}

/// A text of a record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Text {
    Method,
    Target,
    /// The version as sent; only for requests without a valid head.
    Version,
    RequestId,
    TraceParent,
    Referer,
    UserAgent,
    /// The last backend's name.
    Backend,
    /// The last failure, even if another attempt followed.
    Error,
}

impl Text {
    pub(super) const COUNT: usize = 9;
}

/// The rule by which the request got its last backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Why {
    /// No backend was chosen.
    None,
    /// The backend's connection belongs to this client (`http/authentication.rs`).
    Bound,
    Route(RouteReason),
}

impl Why {
    /// Returns the word in the log, or `None` without a backend.
    pub(crate) const fn word(self) -> Option<&'static str> {
        Some(match self {
            Self::None => return None,
            Self::Bound => "bound",
            Self::Route(reason) => reason.name(),
        })
    }
}

/// The end of an exchange. `server/docs/logs.md` explains each word.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ending {
    /// The response is complete, and the client's connection accepted it.
    Complete,
    /// The client ended or broke its connection before it had the complete response.
    ClientLeft,
    /// The client sent or accepted nothing for too long.
    ClientTimeout,
    /// The request broke a rule.
    ClientError,
    /// Too many clients were connected.
    Refused,
    /// Every backend and the queue were full, or no backend had room in time.
    Queue,
    /// No backend could be tried.
    NoBackend,
    /// The connection to the backend could not be made.
    ConnectFailed,
    /// The backend sent or accepted nothing for too long.
    BackendTimeout,
    /// The backend ended its connection before the response was complete.
    BackendCut,
    /// The backend's response was invalid.
    BackendError,
    /// The client's connection was closed without a response, so that the client repeats the
    /// request.
    Closed,
    /// A tunnel was silent for too long.
    Idle,
    /// The proxy was stopped.
    Stopped,
}

impl Ending {
    /// Returns the word in the log.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::ClientLeft => "client_left",
            Self::ClientTimeout => "client_timeout",
            Self::ClientError => "client_error",
            Self::Refused => "refused",
            Self::Queue => "queue",
            Self::NoBackend => "no_backend",
            Self::ConnectFailed => "connect_failed",
            Self::BackendTimeout => "backend_timeout",
            Self::BackendCut => "backend_cut",
            Self::BackendError => "backend_error",
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Stopped => "stopped",
        }
    }
}

/// A block of records with their texts.
#[derive(Debug, Default)]
pub(crate) struct Records {
    records: Vec<Record>,
    texts: Vec<u8>,
    /// The bytes in use.
    bytes: usize,
}

impl Records {
    /// Adds a record with its texts, which follow each other in the order of [`Text`].
    pub(super) fn push(&mut self, record: &Record, texts: &[u8]) {
        debug_assert_eq!(record.lengths.iter().sum::<u32>() as usize, texts.len());
        self.records.push(*record);
        self.texts.extend_from_slice(texts);
        self.bytes += size_of::<Record>() + texts.len();
    }

    /// Returns the number of records.
    pub(crate) const fn len(&self) -> usize {
        self.records.len()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the bytes in use.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Removes all records and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.texts.clear();
        self.bytes = 0;
    }

    /// Returns each record with its texts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Record, Texts<'_>)> {
        let mut rest = &self.texts[..];
        self.records.iter().map(move |record| {
            let mut texts = [&[][..]; Text::COUNT];
            for (text, length) in texts.iter_mut().zip(record.lengths) {
                let (own, others) = rest.split_at_checked(length as usize).unwrap_or((rest, &[]));
                (*text, rest) = (own, others);
            }
            (record, Texts(texts))
        })
    }
}

/// The texts of one record; a missing one is empty.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Texts<'r>([&'r [u8]; Text::COUNT]);

impl<'r> Texts<'r> {
    pub(crate) const fn get(&self, text: Text) -> &'r [u8] {
        self.0[text as usize]
    }
}
