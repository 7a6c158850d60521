//! The fuzz target for TLS: arbitrary bytes from a peer, and two layers that exchange bytes in
//! arbitrary pieces with arbitrary room.
use std::io::{self, ErrorKind, Write};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

use super::Source;
use crate::tls::{Facts, Layer, OcspFacts};

/// The input is used three times: as a certificate, as the bytes of a client in steps of the first
/// byte, and as the steps of two layers.
///
/// # Panics
/// If bytes arrive that were not sent or arrive in another order, if some are missing although no
/// byte was changed on the way, or if an end is seen that was not sent.
pub fn tls(data: &[u8]) {
    if let Some(facts) = Facts::read(data) {
        assert!(facts.subject.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
    }
    let _ = OcspFacts::read(data);
    let mut source = Source::new(data);
    let version: &SupportedProtocolVersion =
        if source.byte() & 1 == 0 { &rustls::version::TLS12 } else { &rustls::version::TLS13 };
    let step = 1 + usize::from(source.byte());
    let mut server = server(version);
    for piece in source.rest.chunks(step) {
        if server.take(piece, &mut [0; 100]).is_err() {
            let mut output = Vec::new();
            assert!(server.flush(&mut output).is_ok_and(|is_all| is_all));
            // Handshake messages may precede the alert.
            assert!(output.first().is_none_or(|kind| (20..=22).contains(kind)));
            break;
        }
    }
    assert!(server.is_handshaking(), "nothing here knows the keys");
    Pair::new(version).run(&mut source);
}

fn server(version: &'static SupportedProtocolVersion) -> Layer {
    let chain = CertificateDer::from_pem_slice(include_bytes!("../tls/testing/site.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("../tls/testing/site.key"));
    let (Ok(chain), Ok(key)) = (chain, key) else { unreachable!("they are in the repository") };
    let builder = ServerConfig::builder_with_provider(ring::default_provider().into());
    let builder = builder.with_protocol_versions(&[version]).map(|it| it.with_no_client_auth());
    let config = builder.and_then(|it| it.with_single_cert(vec![chain], key));
    let layer = config.and_then(|config| Layer::server(&config.into()));
    layer.unwrap_or_else(|error| unreachable!("{error}"))
}

fn client() -> Layer {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(include_bytes!("../tls/testing/ca.pem"));
    assert!(root.is_ok_and(|root| roots.add(root).is_ok()), "it is in the repository");
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
    let versions =
        builder.with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12]);
    let config = versions.map(|it| it.with_root_certificates(roots).with_no_client_auth());
    let name = "a.test".try_into().unwrap_or_else(|_| unreachable!("a name"));
    let layer = config.and_then(|config| Layer::client(&Arc::new(config), name));
    layer.unwrap_or_else(|error| unreachable!("{error}"))
}

/// One direction of a connection: the sender's position, the bytes on the way, and the receiver's
/// position.
#[derive(Debug, Default)]
struct Way {
    /// Bytes that the sender wants to send.
    wanted: usize,
    /// Number of these that count as sent.
    counted: usize,
    /// Whether the sender has ended its side.
    is_ended: bool,
    /// Ciphertext on the way.
    wire: Vec<u8>,
    /// Plaintext bytes that have arrived.
    arrived: usize,
    /// Whether ciphertext was changed, so that the receiver may fail.
    is_changed: bool,
    has_failed: bool,
}

/// The byte of a stream at a position.
const fn byte_at(at: usize) -> u8 {
    (at ^ at >> 8) as u8
}

/// A sink with room for a limited number of bytes.
struct Bounded<'w> {
    wire: &'w mut Vec<u8>,
    room: usize,
}

impl Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.room -= count;
        self.wire.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Pair {
    /// Client and server.
    layers: [Layer; 2],
    /// The direction from the client, and that from the server.
    ways: [Way; 2],
}

impl Pair {
    fn new(version: &'static SupportedProtocolVersion) -> Self {
        Self { layers: [client(), server(version)], ways: [Way::default(), Way::default()] }
    }

    fn run(mut self, source: &mut Source<'_>) {
        for _ in 0..4 {
            self.send(0, usize::MAX);
            self.deliver(0, usize::MAX, 0);
            self.send(1, usize::MAX);
            self.deliver(1, usize::MAX, 0);
        }
        assert!(self.layers.iter().all(|layer| !layer.is_handshaking()));
        while !source.rest.is_empty() {
            let (what, size) = (source.byte(), 7 * usize::from(source.byte()));
            let from = usize::from(what & 1);
            match what >> 1 & 7 {
                0 | 1 if !self.ways[from].is_ended => self.ways[from].wanted += 8 * size,
                2 | 3 => self.send(from, 4 * size),
                4 | 5 => self.deliver(from, 4 * size, usize::from(source.byte())),
                6 if self.ways[from].counted == self.ways[from].wanted => self.end(from),
                7 if what & 0xf0 == 0xf0 => {
                    let Way { wire, is_changed, .. } = &mut self.ways[from];
                    if let Some(byte) = wire.get_mut(size) {
                        *byte ^= 1;
                        *is_changed = true;
                    }
                }
                _ => {}
            }
        }
        for from in [0, 1] {
            self.send(from, usize::MAX);
            self.deliver(from, usize::MAX, 70_000);
            let Way { wanted, counted, is_ended, arrived, is_changed, .. } = self.ways[from];
            // A changed byte ends both directions.
            if !self.ways.iter().any(|way| way.is_changed) {
                assert_eq!((counted, arrived), (wanted, wanted));
                assert_eq!(self.layers[1 - from].has_ended(), is_ended);
            } else if !is_changed {
                assert!(arrived <= wanted);
            }
        }
    }

    fn end(&mut self, from: usize) {
        if !self.ways[from].is_ended && !self.ways[1 - from].has_failed {
            self.layers[from].end();
            self.ways[from].is_ended = true;
        }
    }

    /// Lets one side send as much as the wire has room for.
    fn send(&mut self, from: usize, room: usize) {
        let Way { wanted, counted, wire, .. } = &mut self.ways[from];
        let mut sink = Bounded { wire, room };
        while *counted < *wanted {
            let bytes: Vec<u8> = (*counted..*wanted).map(byte_at).collect();
            match self.layers[from].write(&bytes, &mut sink) {
                Ok(count) => {
                    assert!(count > 0 && count <= bytes.len());
                    *counted += count;
                }
                Err(_) => break,
            }
        }
        let _ = self.layers[from].flush(&mut sink);
    }

    /// Delivers some bytes from the wire to a receiver with this much space.
    fn deliver(&mut self, from: usize, count: usize, space: usize) {
        // rustls asserts that no fault follows its own close_notify.
        if self.ways[1 - from].is_ended && self.ways[from].is_changed {
            return;
        }
        let Way { wire, arrived, has_failed, is_ended, .. } = &mut self.ways[from];
        let receiver = &mut self.layers[1 - from];
        let count = count.min(wire.len());
        let mut piece: Vec<u8> = wire.drain(..count).collect();
        let mut space = vec![0; space];
        while !*has_failed {
            match receiver.take(&piece, &mut space) {
                Ok(count) => {
                    assert!(
                        space[..count]
                            .iter()
                            .enumerate()
                            .all(|(at, b)| *b == byte_at(*arrived + at))
                    );
                    *arrived += count;
                    assert!(!receiver.has_ended() || *is_ended, "no end was sent");
                    if count == 0 || !receiver.has_input() {
                        break;
                    }
                }
                Err(_) => {
                    *has_failed = true;
                    let is_told = self.ways[1 - from].has_failed || self.ways[1 - from].is_changed;
                    assert!(self.ways[from].is_changed || is_told, "a fault without a cause");
                    return;
                }
            }
            piece.clear();
        }
    }
}
