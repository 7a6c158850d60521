//! Affinity keys (`routing.affinity`), which keep requests at one backend: reads the key from a
//! request's head, and stores a session's backend in a cookie.
//!
//! The value of the cookie is 32 hexadecimal digits: the session's number, and a mark of its
//! backend. The mark depends on the number and on the backend's name. Every proxy with the same
//! backend names understands it, even after a restart. The policy chooses the backend for the first
//! request of a session. If that backend becomes unusable, the session moves to another one and
//! gets a new cookie.
use std::net::IpAddr;

use intelliproxy_core::{AffinityBy, AffinityKey, AffinityRules, BackendId, Lease};

use super::session::Hop;
use super::upstreams::Upstreams;
use crate::http::field::Name;
use crate::http::head::RequestHead;
use crate::mix::mixed;

/// The rules of `routing.affinity`, and the numbers of new sessions.
#[derive(Debug)]
pub(crate) struct Affinity {
    by: AffinityBy,
    /// The name of the cookie or of the field.
    name: String,
    /// The seed of the session numbers, which differs between instances.
    seed: u64,
    /// Number of sessions begun so far.
    begun: u64,
}

/// The key of one exchange.
#[derive(Debug)]
pub(crate) struct Sticky {
    origin: Origin,
    /// The Set-Cookie line of the response; empty for none.
    line: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Origin {
    /// A key whose hash determines the owner.
    Hashed(AffinityKey),
    /// The session that the client named, if it named one.
    Session { named: Option<Session>, is_secure: bool },
}

/// The contents of a cookie.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Session {
    number: u64,
    mark: u64,
}

impl Affinity {
    /// Returns `None` if requests have no keys. `seed` must differ between instances, and `begun`
    /// is the number of sessions begun before.
    pub(crate) fn new(rules: &AffinityRules, seed: u64, begun: u64) -> Option<Self> {
        // A cookie must not reveal the seed, which also determines the ids and groups of requests.
        let seed = mixed(!seed);
        Some(Self { by: rules.by?, name: rules.name().to_owned(), seed, begun })
    }

    /// The number of sessions begun so far.
    pub(crate) const fn begun(&self) -> u64 {
        self.begun
    }

    /// Returns the key of a request, if it has one. `hop` must already know the client that a
    /// trusted hop named.
    #[cold]
    pub(crate) fn key(&self, head: &RequestHead<'_, '_>, hop: &Hop) -> Option<Box<Sticky>> {
        let origin = match self.by {
            AffinityBy::Cookie => {
                let named = cookies(head, &self.name).find_map(Session::parse);
                Origin::Session { named, is_secure: is_secure(head, hop) }
            }
            AffinityBy::Header => {
                let mut fields = head.fields.iter();
                let is_it = |name: &str| name.eq_ignore_ascii_case(&self.name);
                let (_, _, value) =
                    fields.find(|(name, _, value)| is_it(name) && !value.is_empty())?;
                Origin::Hashed(AffinityKey::of(value))
            }
            AffinityBy::ClientAddress => Origin::Hashed(key_of_address(hop.client().ip())),
        };
        Some(Box::new(Sticky { origin, line: String::new() }))
    }

    /// Stores the backend of `lease` in the response's cookie, if the session is new or must leave
    /// its backend. A trial does not bind a session to its backend.
    #[cold]
    pub(crate) fn name_backend(
        &mut self,
        sticky: &mut Sticky,
        lease: &Lease,
        upstreams: &Upstreams,
    ) {
        sticky.line.clear();
        let Origin::Session { named, is_secure } = sticky.origin else { return };
        let owner = named.and_then(|named| upstreams.owner_of(named.number, named.mark));
        let stays = owner.is_some_and(|it| it == lease.backend() || !upstreams.has_left(it));
        if stays || lease.is_trial() || self.by != AffinityBy::Cookie {
            return;
        }
        let number = owner.and(named).map_or_else(
            || {
                self.begun += 1;
                mixed(self.seed ^ mixed(self.begun))
            },
            |named| named.number,
        );
        let Some(mark) = upstreams.mark_of(number, lease.backend()) else { return };
        let (name, secure) = (&self.name, if is_secure { "; Secure" } else { "" });
        sticky.line = format!(
            "Set-Cookie: {name}={number:016x}{mark:016x}; Path=/; HttpOnly; SameSite=Lax{secure}\r\n"
        );
    }
}

impl Sticky {
    /// Returns the key for the router: `None` for a session that names no backend of the pool.
    #[cold]
    pub(crate) fn key(&self, upstreams: &Upstreams) -> Option<AffinityKey> {
        match self.origin {
            Origin::Hashed(key) => Some(key),
            Origin::Session { named, .. } => {
                let Session { number, mark } = named?;
                let owner: BackendId = upstreams.owner_of(number, mark)?;
                Some(AffinityKey::of_session(number, owner))
            }
        }
    }

    /// Returns the Set-Cookie line of the response; empty for none.
    pub(crate) fn line(&self) -> &str {
        &self.line
    }
}

impl Session {
    fn parse(value: &[u8]) -> Option<Self> {
        let is_ours = value.len() == 32 && value.iter().all(u8::is_ascii_hexdigit);
        let text = std::str::from_utf8(value).ok().filter(|_| is_ours)?;
        let (number, mark) = text.split_at(16);
        let number = u64::from_str_radix(number, 16).ok()?;
        Some(Self { number, mark: u64::from_str_radix(mark, 16).ok()? })
    }
}

/// Returns the values of the cookies with this name (RFC 6265 section 5.4), in all Cookie fields.
fn cookies<'a>(head: &'a RequestHead<'_, 'a>, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let fields = head.fields.iter().filter(|(name, ..)| name.eq_ignore_ascii_case("cookie"));
    let pairs = fields.flat_map(|(_, _, value)| value.split(|byte| *byte == b';'));
    pairs.filter_map(move |pair| {
        pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::trim_ascii)
    })
}

/// Whether the client uses https, to this proxy or to the trusted hop before it.
fn is_secure(head: &RequestHead<'_, '_>, hop: &Hop) -> bool {
    let said = head.fields.values(Name::XForwardedProto).next().filter(|_| hop.is_trusted);
    match said {
        Some(proto) => proto.eq_ignore_ascii_case(b"https"),
        None => hop.fields.contains("\r\nX-Forwarded-Proto: https"),
    }
}

/// The key of a client: its IPv4 address, or the IPv6 network of 64 bits that one client usually
/// has.
fn key_of_address(ip: IpAddr) -> AffinityKey {
    match ip.to_canonical() {
        IpAddr::V4(ip) => AffinityKey::of(&ip.octets()),
        IpAddr::V6(ip) => AffinityKey::of(&ip.octets()[..8]),
    }
}
