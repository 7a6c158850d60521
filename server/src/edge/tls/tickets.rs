//! Tickets, with which a client resumes its session without a full handshake (RFC 8446 section
//! 4.6.1, RFC 5077). The server stores nothing: a ticket is the session's encrypted state.
//!
//! The key changes every [`ROTATE`]. The previous key still opens tickets, so that a ticket is
//! valid for at least that time. An upgrade passes both keys to the new process.
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};

/// Time for which a key issues tickets.
const ROTATE: Duration = Duration::from_secs(6 * 3600);
/// Length of a key's name in bytes. Each ticket begins with the name of its key.
const NAME_LEN: usize = 16;
/// Longer tickets are not from this proxy: the largest part of its own is a client's certificates.
const TICKET_BYTES_MAX: usize = 64 * 1024;

/// The ticket keys of a process. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Tickets {
    keys: Arc<Mutex<Keys>>,
}

/// The ticket keys for the process after an upgrade.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TicketKeys {
    /// The current key and the previous one.
    keys: Vec<([u8; NAME_LEN], [u8; 32])>,
    /// The time at which the first one ceases to make tickets, seconds since 1970.
    until: u64,
}

struct Keys {
    /// The current key and the previous one; empty before the first ticket.
    all: Vec<Key>,
    /// The time at which the first one ceases to make tickets, seconds since 1970.
    until: u64,
}

struct Key {
    name: [u8; NAME_LEN],
    secret: [u8; 32],
    key: LessSafeKey,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

impl Key {
    fn new(name: [u8; NAME_LEN], secret: [u8; 32]) -> Option<Self> {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).ok()?);
        Some(Self { name, secret, key })
    }

    fn random() -> Option<Self> {
        let (mut name, mut secret) = ([0; NAME_LEN], [0; 32]);
        let random = SystemRandom::new();
        random.fill(&mut name).and_then(|()| random.fill(&mut secret)).ok()?;
        Self::new(name, secret)
    }
}

impl Keys {
    /// Generates a new key if one is due. If the system provides no randomness, the old keys stay.
    fn rotate(&mut self, now: u64) {
        if now < self.until && !self.all.is_empty() {
            return;
        }
        let Some(key) = Key::random() else { return };
        // After a whole period without tickets, the current key is too old to open any.
        let keeps = now < self.until + ROTATE.as_secs();
        self.all.truncate(usize::from(keeps));
        self.all.insert(0, key);
        self.until = now + ROTATE.as_secs();
    }
}

impl Default for Tickets {
    fn default() -> Self {
        Self { keys: Arc::new(Mutex::new(Keys { all: Vec::new(), until: 0 })) }
    }
}

impl Tickets {
    /// Continues with the keys of the previous process.
    pub(crate) fn continuing(keys: &TicketKeys) -> Self {
        let all = keys.keys.iter().filter_map(|(name, secret)| Key::new(*name, *secret));
        Self { keys: Arc::new(Mutex::new(Keys { all: all.collect(), until: keys.until })) }
    }

    /// The keys for the next process.
    pub(crate) fn keys(&self) -> TicketKeys {
        let Ok(keys) = self.keys.lock() else { return TicketKeys::default() };
        let all = keys.all.iter().map(|key| (key.name, key.secret)).collect();
        TicketKeys { keys: all, until: keys.until }
    }

    fn encrypt(&self, now: u64, purpose: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
        let mut keys = self.keys.lock().ok()?;
        keys.rotate(now);
        let Key { name, key, .. } = keys.all.first()?;
        let mut nonce = [0; NONCE_LEN];
        // A counter would reveal the number of clients.
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        let aad = Aad::from([name, purpose].concat());
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed).ok()?;
        Some([name, &nonce[..], &sealed].concat())
    }

    fn decrypt(&self, now: u64, purpose: &[u8], ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > TICKET_BYTES_MAX {
            return None;
        }
        let mut keys = self.keys.lock().ok()?;
        keys.rotate(now);
        let (name, rest) = ticket.split_at_checked(NAME_LEN)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let Key { key, .. } = keys.all.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let aad = Aad::from([name, purpose].concat());
        let mut plain = sealed.to_vec();
        let len = key.open_in_place(nonce, aad, &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

/// Issues and opens the tickets of listeners with the same `ca` and `optional` in `clientAuth`. It
/// does not open tickets of other listeners, whose clients may not have sent a certificate.
pub(super) struct Ticketer {
    pub(super) tickets: Tickets,
    /// A digest of the CA file and of `optional`; empty without `clientAuth`.
    pub(super) purpose: Vec<u8>,
}

impl std::fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticketer")
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // Valid until the key after the next one.
        2 * ROTATE.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.tickets.encrypt(seconds(), &self.purpose, plain)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.tickets.decrypt(seconds(), &self.purpose, ticket)
    }
}

/// The time of day, seconds since 1970.
pub(super) fn seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: u64 = ROTATE.as_secs();

    /// A ticket can be opened in the period of its key and in the next period, by this process and
    /// the next one. It must be unchanged and have the same purpose.
    #[test]
    fn tickets_last_for_two_periods() {
        let tickets = Tickets::default();
        let ticket = tickets.encrypt(1_000, b"a", b"state").expect("a ticket");
        let later = tickets.encrypt(1_000 + PERIOD - 1, b"a", b"state").expect("a ticket");
        assert_eq!(ticket[..NAME_LEN], later[..NAME_LEN], "one key");
        let open = |tickets: &Tickets, now, purpose: &[u8]| tickets.decrypt(now, purpose, &ticket);
        assert_eq!(open(&tickets, 1_000, b"a").as_deref(), Some(&b"state"[..]));
        assert_eq!(open(&tickets, 1_000, b"b"), None, "another purpose");
        let successor = Tickets::continuing(&tickets.keys());
        assert_eq!(open(&successor, 1_000 + PERIOD, b"a").as_deref(), Some(&b"state"[..]));
        let next = successor.encrypt(1_000 + PERIOD, b"a", b"state").expect("a ticket");
        assert_ne!(ticket[..NAME_LEN], next[..NAME_LEN], "another key");
        let text = serde_json::to_string(&successor.keys()).expect("JSON");
        let third = Tickets::continuing(&serde_json::from_str(&text).expect("keys"));
        assert!(open(&third, 1_000 + 2 * PERIOD - 1, b"a").is_some());
        assert_eq!(open(&third, 1_000 + 2 * PERIOD, b"a"), None);
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert_eq!(tickets.decrypt(1_000, b"a", &changed), None, "{at}");
            assert_eq!(tickets.decrypt(1_000, b"a", &ticket[..at]), None, "{at}");
        }
        assert_eq!(tickets.decrypt(1_000, b"a", &[0; TICKET_BYTES_MAX + 1]), None);
    }

    /// A key that was not used for longer than a period opens no tickets, even if the system clock
    /// jumps.
    #[test]
    fn old_keys_are_forgotten() {
        let tickets = Tickets::default();
        let ticket = tickets.encrypt(1_000, b"", b"state").expect("a ticket");
        assert_eq!(tickets.decrypt(1_000 + 2 * PERIOD, b"", &ticket), None);
        assert_eq!(tickets.decrypt(1_000, b"", &ticket), None);
        assert_eq!(tickets.keys().keys.len(), 1);
    }
}
