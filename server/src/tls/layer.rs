//! One TLS connection, as client or server. It converts between ciphertext and plaintext in memory.
//!
//! | bytes | method | bound of the stored bytes |
//! |---|---|---|
//! | ciphertext from the peer | [`Layer::take`] | one record, and bytes for which the caller has no space |
//! | plaintext for the caller | [`Layer::take`] | bytes for which the caller has no space |
//! | plaintext from the caller | [`Layer::write`] | nothing is stored |
//! | ciphertext for the peer | [`Layer::write`], [`Layer::flush`] | [`BATCH_MAX`] and the messages of the handshake |
//!
//! The peer decides how large its records are, and a small one costs as much as a large one. So the
//! layer counts its work, by which the driver bounds the time of one connection.
//!
//! If the peer's bytes end without its close_notify, an attacker on the path may have cut them.
//! [`Layer::has_ended`] distinguishes the two cases.
use std::io::{self, ErrorKind, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use ring::digest;
use rustls::pki_types::ServerName;
use rustls::{
    ClientConfig, ClientConnection, Connection, ProtocolVersion, ServerConfig, ServerConnection,
};

use super::Facts;
use crate::http::head::Parsed;
use crate::http::proxy_protocol;
use crate::proxy::ClientIdentity;

/// The maximum number of plaintext bytes that are encrypted before the ciphertext is sent: four
/// records of the largest size, which one system call sends.
const BATCH_MAX: usize = 64 * 1024;
/// The number of ciphertext bytes above which rustls has enlarged its input buffer.
const GROWN: usize = 4096;
/// The work of a record beside its bytes, in bytes. A record of 1 byte takes 0.22 us, as long as the
/// decryption of 1500 bytes (measured with rustls alone, records of 1 and 4096 bytes). Chosen: half
/// of that, because a byte is also copied and sent.
const RECORD_WORK: u64 = 700;

/// A TLS connection without its socket.
#[derive(Debug)]
pub(crate) struct Layer {
    connection: Connection,
    /// Ciphertext that waits until the caller has taken the plaintext before it.
    held: Vec<u8>,
    /// Plaintext bytes that wait for the caller.
    waiting: usize,
    /// Whether the library's input buffer may still have the size of a large record.
    has_grown: bool,
    /// Whether the peer has sent close_notify.
    has_ended: bool,
    /// The records that the peer has begun.
    records: Records,
    /// The work since the last [`take_work`](Self::take_work).
    work: u64,
    /// The received part of a PROXY protocol header, while one is expected.
    header: Option<Vec<u8>>,
    /// The client named by such a header.
    source: Option<SocketAddr>,
    /// The fault in the peer's bytes. After it, no bytes are used in either direction.
    fault: Option<rustls::Error>,
    batch: Batch,
}

/// Encrypted plaintext of the caller that is not completely sent.
#[derive(Debug, Default)]
struct Batch {
    /// Bytes of plaintext.
    taken: usize,
    /// Bytes of it that were reported to the caller as sent.
    counted: usize,
    /// Bytes of its ciphertext that were sent.
    sent: usize,
}

impl Layer {
    /// Creates the server side.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub(crate) fn server(config: &Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        ServerConnection::new(Arc::clone(config)).map(|one| Self::new(one.into()))
    }

    /// Creates the client side, for the server of this name.
    ///
    /// # Errors
    /// The configuration is invalid.
    pub(crate) fn client(
        config: &Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, rustls::Error> {
        ClientConnection::new(Arc::clone(config), name).map(|one| Self::new(one.into()))
    }

    fn new(mut connection: Connection) -> Self {
        connection.set_buffer_limit(Some(BATCH_MAX));
        Self {
            connection,
            held: Vec::new(),
            waiting: 0,
            has_grown: false,
            has_ended: false,
            records: Records::default(),
            work: 0,
            header: None,
            source: None,
            fault: None,
            batch: Batch::default(),
        }
    }

    /// Expects a header of the PROXY protocol before the peer's handshake.
    pub(crate) fn after_header(self) -> Self {
        Self { header: Some(Vec::new()), ..self }
    }

    /// The client named by a PROXY protocol header.
    pub(crate) const fn source(&self) -> Option<SocketAddr> {
        self.source
    }

    /// Takes ciphertext from the peer and decrypts it into `space`, as far as there is room.
    /// Returns the number of plaintext bytes. The rest is kept: [`has_input`](Self::has_input) is
    /// then true, and the next call should pass no new bytes.
    ///
    /// # Errors
    /// The peer breaks the protocol, fails verification, or has sent an alert. An alert for the
    /// peer may be waiting in the output.
    pub(crate) fn take(&mut self, bytes: &[u8], space: &mut [u8]) -> Result<usize, rustls::Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let taken = self.take_valid(bytes, space);
        self.fault = taken.as_ref().err().cloned();
        taken
    }

    fn take_valid(&mut self, bytes: &[u8], space: &mut [u8]) -> Result<usize, rustls::Error> {
        if self.header.is_some() {
            let rest = self.take_header(bytes)?;
            return if self.header.is_none() { self.take_valid(&rest, space) } else { Ok(0) };
        }
        self.work += self.records.count(bytes) * RECORD_WORK + bytes.len() as u64;
        let mut filled = self.read(space);
        if self.held.is_empty() {
            let rest = self.decrypt(bytes, space, &mut filled)?;
            self.held.extend_from_slice(rest);
            return Ok(filled);
        }
        let mut held = std::mem::take(&mut self.held);
        held.extend_from_slice(bytes);
        let rest = self.decrypt(&held, space, &mut filled)?.len();
        if rest > 0 {
            held.drain(..held.len() - rest);
            self.held = held;
        }
        Ok(filled)
    }

    /// Returns the work of [`take`](Self::take) since the last call. A byte of ciphertext counts as
    /// 1, a record as more.
    pub(crate) const fn take_work(&mut self) -> u64 {
        std::mem::replace(&mut self.work, 0)
    }

    /// Encrypts bytes and sends the ciphertext to `sink`, after what already waits. Returns how
    /// many of the bytes count as sent: all of a batch once its ciphertext is sent, otherwise a
    /// part in proportion. The next call must begin with the bytes that do not count yet.
    ///
    /// # Errors
    /// Those of the sink; `WouldBlock` if no byte counts as sent; `BrokenPipe` if the connection
    /// has failed.
    pub(crate) fn write(&mut self, bytes: &[u8], sink: &mut dyn Write) -> io::Result<usize> {
        if self.fault.is_some() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        loop {
            if self.batch.taken == 0 {
                let had_output = self.has_output();
                let taken = self.connection.writer().write(bytes)?;
                if taken == 0 && !had_output {
                    // rustls accepts no more, because the limit of its keys is reached.
                    return Err(ErrorKind::BrokenPipe.into());
                }
                self.batch = Batch { taken, ..Batch::default() };
            }
            let is_sent = self.send(sink)?;
            let Batch { taken, counted, sent } = self.batch;
            let counts = if is_sent {
                self.batch = Batch::default();
                taken
            } else {
                let left = self.output_len().ok_or(ErrorKind::BrokenPipe)?;
                self.batch.counted = taken * sent / (sent + left).max(1);
                self.batch.counted
            };
            match counts - counted {
                0 if !is_sent => return Err(ErrorKind::WouldBlock.into()),
                // Earlier bytes had used up the room for a batch.
                0 if taken == 0 && !bytes.is_empty() => {}
                news => return Ok(news.min(bytes.len())),
            }
        }
    }

    /// Sends waiting ciphertext. Returns whether all of it is sent.
    ///
    /// # Errors
    /// Those of the sink, but not `WouldBlock`.
    pub(crate) fn flush(&mut self, sink: &mut dyn Write) -> io::Result<bool> {
        // The bytes of a batch are counted by `write`.
        self.send(sink)
    }

    /// Adds close_notify to the output; no bytes may be written afterwards. After a fault, the
    /// alert has already ended the output.
    pub(crate) fn end(&mut self) {
        if self.fault.is_none() {
            self.connection.send_close_notify();
        }
    }

    /// The identity of a client that has presented a certificate; known after the handshake.
    pub(crate) fn identity(&self) -> Option<ClientIdentity> {
        let certificate = self.connection.peer_certificates()?.first()?;
        let subject = Facts::read(certificate)?.subject;
        let digest = digest::digest(&digest::SHA256, certificate);
        let fingerprint = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(ClientIdentity { subject, fingerprint })
    }

    /// Whether bytes from the peer remain that [`take`](Self::take) may return.
    pub(crate) fn has_input(&self) -> bool {
        self.waiting > 0 || !self.held.is_empty()
    }

    /// Whether ciphertext waits for the peer.
    pub(crate) fn has_output(&self) -> bool {
        self.connection.wants_write()
    }

    /// Whether the peer has ended its side with close_notify, and all earlier bytes were taken.
    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended && self.waiting == 0
    }

    /// Whether the handshake is incomplete.
    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the server has made its key exchange and signature, so that the next messages of the
    /// client can complete the handshake. Valid until the output is sent. A request for another key
    /// exchange (HelloRetryRequest) does not count: the client's second hello takes as long as a
    /// first one.
    pub(crate) fn has_answered(&self) -> bool {
        // rustls promises the group only after the handshake, but knows it when the server has made
        // its part. TLS 1.2 has no such request.
        let is_old = self.connection.protocol_version() == Some(ProtocolVersion::TLSv1_2);
        (is_old && self.has_output()) || self.connection.negotiated_key_exchange_group().is_some()
    }

    /// Takes bytes of the header that precedes the handshake. Returns the bytes after it.
    fn take_header(&mut self, bytes: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let Some(header) = &mut self.header else { return Ok(bytes.to_vec()) };
        header.extend_from_slice(bytes);
        match proxy_protocol::parse(header) {
            Ok(Parsed::Complete(found)) => {
                let rest = header.split_off(found.len);
                self.source = found.source;
                self.header = None;
                Ok(rest)
            }
            Ok(Parsed::Partial) => Ok(Vec::new()),
            Err(error) => Err(rustls::Error::General(error.to_string())),
        }
    }

    /// Decrypts bytes into the rest of `space`. Returns the bytes for which it has no room.
    fn decrypt<'b>(
        &mut self,
        mut bytes: &'b [u8],
        space: &mut [u8],
        filled: &mut usize,
    ) -> Result<&'b [u8], rustls::Error> {
        self.has_grown |= bytes.len() > GROWN || self.records.is_within();
        // After close_notify the peer sends nothing that counts.
        while !bytes.is_empty() && !self.has_ended {
            if self.connection.read_tls(&mut bytes).is_err() {
                if self.waiting > 0 {
                    return Ok(bytes);
                }
                // A handshake message is larger than rustls permits.
                return Err(rustls::Error::General("message too large".to_owned()));
            }
            let state = self.connection.process_new_packets()?;
            self.waiting = state.plaintext_bytes_to_read();
            self.has_ended = state.peer_has_closed();
            *filled += self.read(&mut space[*filled..]);
        }
        if self.has_grown {
            // The library makes its buffer small again when it is about to read, unless a part of a
            // record is in it.
            let _ = self.connection.read_tls(&mut NothingYet);
            self.has_grown = self.records.is_within();
        }
        Ok(&[])
    }

    /// Moves waiting plaintext into `space`. Returns the number of bytes.
    fn read(&mut self, space: &mut [u8]) -> usize {
        if self.waiting == 0 || space.is_empty() {
            return 0;
        }
        let count = io::Read::read(&mut self.connection.reader(), space).unwrap_or(0);
        debug_assert!(count > 0, "waiting bytes can be read");
        self.waiting = self.waiting.saturating_sub(count);
        count
    }

    fn send(&mut self, sink: &mut dyn Write) -> io::Result<bool> {
        while self.connection.wants_write() {
            match self.connection.write_tls(sink) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.batch.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The number of ciphertext bytes that wait for the peer; `None` after an error in the peer's
    /// bytes.
    fn output_len(&mut self) -> Option<usize> {
        // All input was processed on arrival, so this has no effect.
        self.connection.process_new_packets().ok().map(|state| state.tls_bytes_to_write())
    }
}

/// Counts the records in the ciphertext of a peer, by the length in each record's header (RFC 8446
/// section 5.1).
#[derive(Debug, Default)]
struct Records {
    /// Bytes of the current record that have not arrived.
    left: usize,
    /// Bytes of the current header that have arrived.
    header: usize,
    /// The length in the header, as far as it has arrived.
    length: usize,
}

impl Records {
    const HEADER: usize = 5;

    /// Whether a part of a record has arrived.
    const fn is_within(&self) -> bool {
        self.left > 0 || self.header > 0
    }

    /// Returns the number of records whose headers end in these bytes.
    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut count = 0;
        loop {
            let passed = self.left.min(bytes.len());
            self.left -= passed;
            bytes = &bytes[passed..];
            let Some((&byte, rest)) = bytes.split_first() else { return count };
            bytes = rest;
            self.header += 1;
            if self.header > Self::HEADER - 2 {
                self.length = self.length << 8 | usize::from(byte);
            }
            if self.header == Self::HEADER {
                count += 1;
                *self = Self { left: self.length, ..Self::default() };
            }
        }
    }
}

/// A source that has no bytes now.
struct NothingYet;

impl io::Read for NothingYet {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
mod tests;
