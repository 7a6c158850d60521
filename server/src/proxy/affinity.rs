//! Affinity keys (`routing.affinity`), which keep requests at one backend: reads the key from a
//! request's head, and stores a session's backend in a cookie.
//!
//! The value of the cookie is 32 hexadecimal digits: the session's number, and a mark of its
//! backend. The mark depends on the number and on the backend's name. Every proxy with the same
//! backend names understands it, even after a restart. The policy chooses the backend for the first
//! request of a session. If that backend becomes unusable, the session moves to another one and
//! gets a new cookie.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;

use intelliproxy_core::{AffinityBy, AffinityKey, AffinityRules, BackendId, Lease};

use super::upstreams::Upstreams;
use crate::http::head::RequestHead;

/// Maximum number of sessions that a request may name. Further ones are ignored.
const NAMED_MAX: usize = 8;

/// The rules of `routing.affinity`, and the numbers of new sessions.
#[derive(Debug)]
pub(crate) struct Affinity {
    by: AffinityBy,
    /// The name of the cookie or of the field.
    name: String,
    /// The seed of the session numbers, which differs between instances and must not show in them.
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

#[derive(Debug)]
enum Origin {
    /// A key whose hash determines the owner.
    Hashed(AffinityKey),
    /// The sessions that the client names. Cookies with other paths or domains, or of another
    /// application, may have the same name.
    Session { named: Vec<Session>, is_secure: bool },
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
        Some(Self { by: rules.by?, name: rules.name().to_owned(), seed, begun })
    }

    /// The number of sessions begun so far.
    pub(crate) const fn begun(&self) -> u64 {
        self.begun
    }

    /// Returns the key of a request, if it has one. `client` and `is_secure` are the address of the
    /// client, possibly named by a trusted hop, and whether it uses https.
    #[cold]
    pub(crate) fn key(
        &self,
        head: &RequestHead<'_, '_>,
        client: IpAddr,
        is_secure: bool,
    ) -> Option<Box<Sticky>> {
        let origin = match self.by {
            AffinityBy::Cookie => {
                let named = cookies(head, &self.name).filter_map(Session::parse);
                let named = named.take(NAMED_MAX).collect();
                Origin::Session { named, is_secure }
            }
            AffinityBy::Header => {
                let mut fields = head.fields.iter();
                let is_it = |name: &str| name.eq_ignore_ascii_case(&self.name);
                let (_, _, value) =
                    fields.find(|(name, _, value)| is_it(name) && !value.is_empty())?;
                Origin::Hashed(AffinityKey::of(value))
            }
            AffinityBy::ClientAddress => Origin::Hashed(key_of_address(client)),
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
        let Origin::Session { is_secure, .. } = sticky.origin else { return };
        let known = sticky.known(upstreams);
        let stays = known.is_some_and(|(_, it)| it == lease.backend() || !upstreams.has_left(it));
        if stays || lease.is_trial() || self.by != AffinityBy::Cookie {
            return;
        }
        let number = known.map_or_else(|| self.new_number(), |(number, _)| number);
        let Some(mark) = upstreams.mark_of(number, lease.backend()) else { return };
        let (name, secure) = (&self.name, if is_secure { "; Secure" } else { "" });
        sticky.line = format!(
            "Set-Cookie: {name}={number:016x}{mark:016x}; Path=/; HttpOnly; SameSite=Lax{secure}\r\n"
        );
    }

    /// Returns the number of a new session. A hash hides the seed: clients that know it could
    /// choose the groups of their requests.
    fn new_number(&mut self) -> u64 {
        self.begun += 1;
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.seed);
        hasher.write_u64(self.begun);
        hasher.finish()
    }
}

impl Sticky {
    /// Returns the key for the router: `None` for a session that names no backend of the pool.
    #[cold]
    pub(crate) fn key(&self, upstreams: &Upstreams) -> Option<AffinityKey> {
        match self.origin {
            Origin::Hashed(key) => Some(key),
            Origin::Session { .. } => {
                let (number, owner) = self.known(upstreams)?;
                Some(AffinityKey::of_session(number, owner))
            }
        }
    }

    /// Returns the number and the owner of the first session that names a backend of the pool.
    fn known(&self, upstreams: &Upstreams) -> Option<(u64, BackendId)> {
        let Origin::Session { named, .. } = &self.origin else { return None };
        let owned = |one: &Session| Some((one.number, upstreams.owner_of(one.number, one.mark)?));
        named.iter().find_map(owned)
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

/// The key of a client: its IPv4 address, or the IPv6 network of 64 bits that one client usually
/// has.
fn key_of_address(ip: IpAddr) -> AffinityKey {
    match ip.to_canonical() {
        IpAddr::V4(ip) => AffinityKey::of(&ip.octets()),
        IpAddr::V6(ip) => AffinityKey::of(&ip.octets()[..8]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mix::mixed;

    /// Returns the number that [`mixed`] turns into this one.
    fn unmixed(number: u64) -> u64 {
        // The inverses of the two factors, modulo 2^64.
        let mut bits = number ^ number >> 31 ^ number >> 62;
        bits = bits.wrapping_mul(0x3196_42b2_d24d_8ec3);
        bits = (bits ^ bits >> 27 ^ bits >> 54).wrapping_mul(0x96de_1b17_3f11_9089);
        (bits ^ bits >> 30 ^ bits >> 60).wrapping_sub(0x9e37_79b9_7f4a_7c15)
    }

    /// The first number of a proxy does not reveal its seed: neither by undoing the mixing of bits,
    /// which is one to one, nor by a smaller number of steps.
    #[test]
    fn a_number_hides_the_seed() {
        let seed = 0x1234_5678_9abc_def0;
        assert_eq!(unmixed(mixed(seed)), seed);
        let rules = AffinityRules { by: Some(AffinityBy::Cookie), ..AffinityRules::default() };
        let mut affinity = Affinity::new(&rules, seed, 0).expect("keys");
        let number = affinity.new_number();
        let begun = mixed(1);
        let guesses = [number, unmixed(number), unmixed(number) ^ begun, number ^ begun];
        for guess in guesses.into_iter().flat_map(|guess| [guess, unmixed(guess)]) {
            assert!(guess != seed && !guess != seed, "{guess:x}");
        }
        assert_ne!(affinity.new_number(), number);
    }
}
