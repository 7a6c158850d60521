//! Two layers, a client's and a server's, that exchange bytes in memory.
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedProtocolVersion};

use super::*;
use crate::tls::TlsFault;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS12, &rustls::version::TLS13];

const SITE: (&[u8], &[u8]) =
    (include_bytes!("../testing/site.pem"), include_bytes!("../testing/site.key"));
const EXPIRED: (&[u8], &[u8]) =
    (include_bytes!("../testing/expired.pem"), include_bytes!("../testing/expired.key"));
const CA: &[u8] = include_bytes!("../testing/ca.pem");

fn server(version: &'static SupportedProtocolVersion) -> Layer {
    server_with(version, SITE)
}

fn server_with(version: &'static SupportedProtocolVersion, files: (&[u8], &[u8])) -> Layer {
    server_by(ring::default_provider(), version, files)
}

fn server_by(
    provider: CryptoProvider,
    version: &'static SupportedProtocolVersion,
    (chain, key): (&[u8], &[u8]),
) -> Layer {
    let chain = CertificateDer::pem_slice_iter(chain);
    let chain = chain.map(|one| one.expect("a certificate")).collect();
    let key = PrivateKeyDer::from_pem_slice(key).expect("a key");
    let config = ServerConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    Layer::server(&config.into()).expect("a layer")
}

fn client(name: &'static str) -> Layer {
    client_with(name, CA)
}

/// A client that trusts this authority.
fn client_with(name: &'static str, authority: &[u8]) -> Layer {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(authority);
    roots.add(root.expect("a certificate")).expect("a root");
    let config = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_protocol_versions(&VERSIONS)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Layer::client(&config.into(), name.try_into().expect("a name")).expect("a layer")
}

/// A sink with room for a limited number of bytes.
struct Bounded {
    bytes: Vec<u8>,
    room: usize,
}

impl Bounded {
    fn new(room: usize) -> Self {
        Self { bytes: Vec::new(), room }
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.room -= count;
        self.bytes.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn output(layer: &mut Layer) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert!(layer.flush(&mut bytes).expect("a sink"));
    bytes
}

/// Exchanges bytes in pieces of this size until both handshakes are complete and no output waits.
#[track_caller]
fn shake(client: &mut Layer, server: &mut Layer, size: usize) {
    for _ in 0..8 {
        for piece in output(client).chunks(size) {
            assert_eq!(server.take(piece, &mut []), Ok(0));
        }
        for piece in output(server).chunks(size) {
            assert_eq!(client.take(piece, &mut []), Ok(0));
        }
    }
    assert!(!client.is_handshaking());
    assert!(!server.is_handshaking());
}

fn pair(version: &'static SupportedProtocolVersion) -> (Layer, Layer) {
    let (mut client, mut server) = (client("a.test"), server(version));
    shake(&mut client, &mut server, usize::MAX);
    (client, server)
}

fn text(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 7 + at) as u8).collect()
}

/// Encrypts all bytes.
fn encrypt(layer: &mut Layer, mut plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !plain.is_empty() {
        let count = layer.write(plain, &mut bytes).expect("a sink");
        assert!(count > 0 && count <= BATCH_MAX, "{count}");
        plain = &plain[count..];
    }
    bytes
}

/// Decrypts ciphertext in pieces of `size`, with `space` bytes for plaintext in each call.
fn decrypt(layer: &mut Layer, cipher: &[u8], size: usize, space: usize) -> Vec<u8> {
    let (mut plain, mut space) = (Vec::new(), vec![0; space]);
    for piece in cipher.chunks(size) {
        let count = layer.take(piece, &mut space).expect("valid");
        plain.extend_from_slice(&space[..count]);
        while layer.has_input() {
            let count = layer.take(&[], &mut space).expect("valid");
            assert!(count > 0, "what waits is progress");
            plain.extend_from_slice(&space[..count]);
        }
    }
    plain
}

/// A server has answered once its key exchange and signature are made. With TLS 1.3, a request for
/// another key exchange comes before that if the client has chosen one that the server lacks.
#[test]
fn servers_answer_a_hello() {
    let kx_groups = vec![ring::kx_group::SECP384R1];
    let other = CryptoProvider { kx_groups, ..ring::default_provider() };
    let [old, new] = VERSIONS;
    for (mut server, flights) in [
        (server(old), 1),
        (server(new), 1),
        (server_by(other.clone(), old, SITE), 1),
        (server_by(other, new, SITE), 2),
    ] {
        let mut client = client("a.test");
        for flight in 1..=flights {
            assert!(!server.has_answered());
            assert_eq!(server.take(&output(&mut client), &mut []), Ok(0));
            assert!(server.has_output());
            assert_eq!(server.has_answered(), flight == flights, "{flight} of {flights}");
            assert_eq!(client.take(&output(&mut server), &mut []), Ok(0));
        }
        shake(&mut client, &mut server, usize::MAX);
    }
}

/// Bytes arrive as sent, in both directions and both versions, for several sizes of ciphertext
/// pieces and of the space for plaintext.
#[test]
fn bytes_arrive_as_sent() {
    for version in VERSIONS {
        for size in [1, 1000, 4096, 4097, usize::MAX] {
            for space in [100, 65_536] {
                let (mut client, mut server) = (client("a.test"), server(version));
                shake(&mut client, &mut server, size);
                for length in [1, 16_385, 40_000] {
                    let plain = text(length);
                    let cipher = encrypt(&mut client, &plain);
                    assert!(decrypt(&mut server, &cipher, size, space) == plain, "{size} {space}");
                    let cipher = encrypt(&mut server, &plain);
                    assert!(decrypt(&mut client, &cipher, size, space) == plain, "{size} {space}");
                }
            }
        }
    }
}

/// A handshake succeeds however its bytes are split in two.
#[test]
fn handshakes_may_arrive_in_any_two_pieces() {
    for version in VERSIONS {
        let mut length = 0;
        for at in 0.. {
            let (mut client, mut server) = (client("a.test"), server(version));
            for _ in 0..4 {
                let bytes = output(&mut client);
                length = length.max(bytes.len());
                let (first, second) = bytes.split_at(at.min(bytes.len()));
                assert_eq!(server.take(first, &mut []), Ok(0));
                assert_eq!(server.take(second, &mut []), Ok(0));
                let bytes = output(&mut server);
                length = length.max(bytes.len());
                let (first, second) = bytes.split_at(at.min(bytes.len()));
                assert_eq!(client.take(first, &mut []), Ok(0));
                assert_eq!(client.take(second, &mut []), Ok(0));
            }
            assert!(!client.is_handshaking() && !server.is_handshaking(), "{at}");
            if at > length {
                break;
            }
        }
        assert!(length > 200, "{length}");
    }
}

/// A sink that accepts only parts gets all bytes once and in order. Bytes count as sent in
/// proportion, and all of them count exactly when all ciphertext is sent.
#[test]
fn blocked_writes_count_in_proportion() {
    let (mut client, mut server) = pair(VERSIONS[1]);
    let plain = text(150_000);
    let (mut left, mut cipher) = (&plain[..], Vec::new());
    let mut waits = 0;
    while !left.is_empty() {
        let mut sink = Bounded::new(10_000);
        match server.write(left, &mut sink) {
            Ok(count) => {
                assert!(count > 0 && count <= left.len());
                left = &left[count..];
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                waits += 1;
            }
        }
        cipher.extend(sink.bytes);
        // At most one batch is encrypted ahead of the counted bytes.
        let counted = plain.len() - left.len();
        assert!(cipher.len() + BATCH_MAX > counted && counted + BATCH_MAX > cipher.len());
    }
    assert!(!server.has_output(), "all of it has left when all of it counts");
    assert!(decrypt(&mut client, &cipher, 1000, 5000) == plain);
    let error = server.write(b"x", &mut Bounded::new(0)).expect_err("no room");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let mut rest = Bounded::new(1000);
    assert!(server.flush(&mut rest).expect("room"));
    // Bytes sent meanwhile are counted by the next write and are not sent again.
    assert_eq!(server.write(b"x", &mut Bounded::new(0)).expect("sent"), 1);
    assert_eq!(decrypt(&mut client, &rest.bytes, 1000, 100), b"x");
    assert!(waits < 5, "{waits}");
}

/// Plaintext without space is kept, and only as much ciphertext as necessary is decrypted.
#[test]
fn what_has_no_space_waits() {
    let (mut client, mut server) = pair(VERSIONS[1]);
    let plain = text(60_000);
    let cipher = encrypt(&mut client, &plain);
    assert_eq!(server.take(&cipher, &mut []), Ok(0));
    assert!(server.has_input());
    assert!(server.waiting <= 2 * 16_384, "{}", server.waiting);
    assert!(decrypt(&mut server, &[0; 0], 1, 9000).is_empty(), "no pieces");
    let mut space = vec![0; 70_000];
    let count = server.take(&[], &mut space).expect("valid");
    assert_eq!((count, server.has_input()), (plain.len(), false));
    assert!(space[..count] == plain);
    assert_eq!(server.held.capacity(), 0, "its memory is returned");
}

/// The end is seen only after all earlier bytes, and only with close_notify.
#[test]
fn ends_are_announced() {
    for version in VERSIONS {
        let (mut client, mut server) = pair(version);
        let mut cipher = encrypt(&mut client, b"last");
        client.end();
        cipher.extend(output(&mut client));
        assert_eq!(server.take(&cipher, &mut []), Ok(0));
        assert!(!server.has_ended(), "bytes come before the end");
        let mut space = [0; 100];
        assert_eq!(server.take(&[], &mut space), Ok(4));
        assert_eq!(&space[..4], b"last");
        assert!(server.has_ended());
        // The other direction stays open.
        let cipher = encrypt(&mut server, b"response");
        assert_eq!(decrypt(&mut client, &cipher, 9, 9), b"response");
        assert!(!client.has_ended());
        // Bytes after the end are ignored.
        assert_eq!(server.take(b"garbage behind the end", &mut space), Ok(0));
        assert!(server.has_ended());
    }
}

/// Garbage, plain HTTP, changed bytes and a wrong name are errors, and the peer gets an alert. They
/// never cause a panic.
#[test]
fn faults_are_errors_with_alerts() {
    for garbage in [&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], &[0; 100], &[0x16, 3, 1, 0xff, 0xff]]
    {
        let mut server = server(VERSIONS[1]);
        let result = server.take(garbage, &mut []);
        assert!(result.is_err() || server.is_handshaking());
        if result.is_err() {
            let alert = output(&mut server);
            assert_eq!(alert.first(), Some(&0x15), "{alert:?}");
        }
        // Later bytes change nothing.
        assert!(server.take(garbage, &mut []).is_err() || server.is_handshaking());
    }
    let hello = output(&mut client("a.test"));
    for at in 0..hello.len() {
        let mut changed = hello.clone();
        changed[at] ^= 0x41;
        let mut server = server(VERSIONS[1]);
        let _ = server.take(&changed, &mut []);
        assert!(server.is_handshaking());
    }
    let (mut client, mut server) = pair(VERSIONS[1]);
    let mut cipher = encrypt(&mut client, b"bytes");
    *cipher.last_mut().expect("a tag") ^= 1;
    let mut space = [0; 100];
    assert_eq!(server.take(&cipher, &mut space), Err(rustls::Error::DecryptError));
    assert!(server.has_output(), "an alert");
    let (mut client, mut server) = (self::client("c.test"), self::server(VERSIONS[1]));
    server.take(&output(&mut client), &mut []).expect("a hello");
    let result = client.take(&output(&mut server), &mut []);
    assert!(matches!(result, Err(rustls::Error::InvalidCertificate(_))), "{result:?}");
    let result = server.take(&output(&mut client), &mut []);
    assert!(matches!(result, Err(rustls::Error::AlertReceived(_))), "{result:?}");
}

/// An idle layer uses little memory, even after large records.
#[test]
fn a_resting_layer_is_small() {
    let (mut client, mut server) = pair(VERSIONS[1]);
    let cipher = encrypt(&mut client, &text(100_000));
    let _ = decrypt(&mut server, &cipher, usize::MAX, 65_536);
    let cipher = encrypt(&mut server, &text(100_000));
    assert_eq!(decrypt(&mut client, &cipher, usize::MAX, 65_536).len(), 100_000);
    assert_eq!(server.held.capacity(), 0);
    assert!(!server.has_grown && !client.has_grown);
    // A record that comes in pieces enlarges the library's buffer as well.
    let cipher = encrypt(&mut client, &text(16_384));
    let mut pieces = cipher.chunks(4000).peekable();
    while let Some(piece) = pieces.next() {
        let mut space = vec![0; 65_536];
        server.take(piece, &mut space).expect("valid");
        assert_eq!(server.has_grown, pieces.peek().is_some());
    }
    assert!(size_of::<Layer>() <= 2048, "{}", size_of::<Layer>());
}

/// The work of records is counted by their number and length, in whatever pieces they arrive: tiny
/// and empty records cost more than their bytes.
#[test]
fn records_are_work() {
    for version in VERSIONS {
        for (length, count) in [(16_384, 1), (1, 1000)] {
            for size in [1, 3, 4096, usize::MAX] {
                let (mut client, mut server) = pair(version);
                server.take_work();
                let cipher: Vec<u8> =
                    (0..count).flat_map(|_| encrypt(&mut client, &text(length))).collect();
                let _ = decrypt(&mut server, &cipher, size, 65_536);
                let expected = count * RECORD_WORK + cipher.len() as u64;
                assert_eq!(server.take_work(), expected, "{length} {size}");
                assert_eq!(server.take_work(), 0);
                assert!(!server.records.is_within());
            }
        }
    }
}

/// A client refuses a certificate with another name, of an unknown issuer, or that has expired, and
/// names the fault. It refuses what is not TLS, too. Nothing is open afterwards.
#[test]
fn clients_name_the_fault_of_a_server() {
    for version in VERSIONS {
        for (name, authority, of_server, expected) in [
            ("a.test", CA, SITE, None),
            ("x.wild.test", CA, SITE, None),
            ("b.test", CA, SITE, Some(TlsFault::WrongName)),
            ("x.y.wild.test", CA, SITE, Some(TlsFault::WrongName)),
            ("127.0.0.1", CA, SITE, Some(TlsFault::WrongName)),
            ("a.test", EXPIRED.0, SITE, Some(TlsFault::UnknownIssuer)),
            ("a.test", CA, EXPIRED, Some(TlsFault::Expired)),
        ] {
            let mut client = client_with(name, authority);
            let mut server = server_with(version, of_server);
            server.take(&output(&mut client), &mut []).expect("a hello");
            let result = client.take(&output(&mut server), &mut []);
            assert_eq!(result.err().map(TlsFault::from), expected, "{name}");
            assert_eq!(client.is_handshaking(), expected.is_some() || version == VERSIONS[0]);
            assert!(client.has_output(), "the rest of the handshake, or an alert");
        }
    }
    let rows: [(&[u8], TlsFault); 9] = [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], TlsFault::NotTls),
        (&[0; 100], TlsFault::NotTls),
        (&[0x15, 3, 3, 0, 2, 2, 40], TlsFault::Refused),
        (&[0x15, 3, 3, 0, 2, 2, 70], TlsFault::NothingInCommon),
        (&[0x15, 3, 3, 0, 2, 2, 116], TlsFault::CertificateRequired),
        (&[0x15, 3, 3, 0, 2, 2, 48], TlsFault::CertificateRefused),
        (&[0x15, 3, 3, 0, 2, 2, 112], TlsFault::UnknownName),
        (&[0x15, 3, 3, 0, 2, 2, 120], TlsFault::OtherProtocol),
        (&[0x16, 3, 3, 0, 4, 99, 0, 0, 0], TlsFault::Malformed),
    ];
    for (garbage, expected) in rows {
        let mut client = client("a.test");
        let _ = output(&mut client);
        let result = client.take(garbage, &mut []);
        assert_eq!(result.err().map(TlsFault::from), Some(expected), "{garbage:?}");
        assert!(client.is_handshaking());
    }
}

/// Wherever a server's bytes are cut, in its handshake or in a response, the end does not count as
/// announced.
#[test]
fn a_cut_is_no_end() {
    for version in VERSIONS {
        let flight = {
            let (mut client, mut server) = (client("a.test"), server(version));
            server.take(&output(&mut client), &mut []).expect("a hello");
            output(&mut server).len()
        };
        for at in 0..flight {
            let (mut client, mut server) = (client("a.test"), server(version));
            server.take(&output(&mut client), &mut []).expect("a hello");
            let bytes = output(&mut server);
            assert_eq!(client.take(&bytes[..at.min(bytes.len() - 1)], &mut []), Ok(0), "{at}");
            assert!(client.is_handshaking() && !client.has_ended());
        }
        let (_, mut server) = pair(version);
        let mut response = encrypt(&mut server, b"HTTP/1.0 200 OK\r\n\r\nbody");
        server.end();
        response.extend(output(&mut server));
        for at in 0..=response.len() {
            let (mut client, mut server) = pair(version);
            let mut response = encrypt(&mut server, b"HTTP/1.0 200 OK\r\n\r\nbody");
            server.end();
            response.extend(output(&mut server));
            let mut space = [0; 100];
            client.take(&response[..at], &mut space).expect("valid");
            assert_eq!(client.has_ended(), at == response.len(), "{at}");
        }
    }
}
