//! The TLS layer of a socket. Ciphertext passes between the system and the layer, plaintext between
//! the layer and the proxy.
//!
//! The layer may hold plaintext when the system has no more bytes. The socket counts as readable as
//! long as either has bytes.
//!
//! The layout hints are explained in `proxy/mod.rs`.
use std::io::{self, IoSlice, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use mio::Registry;
use mio::net::TcpStream;

use super::{Moved, Socket};
use crate::config::ListenTls;
use crate::proxy::{ClientIdentity, ConnId};
use crate::reactor::transfer::send_all;
use crate::tls::{Layer, TlsFault};

/// Size of the shared buffer for received ciphertext, bytes.
const SCRATCH: usize = 64 * 1024;
/// The minimum size of a read, bytes. A smaller read would cost a whole system call too.
const READ_LEAST: usize = 4096;
/// The maximum number of reads in a row for a handshake.
const HANDSHAKE_READS_MAX: usize = 4;

/// The number of bytes in which a record of the largest size is complete, with its header and tag.
const RECORD_MAX: usize = 5 + 16 * 1024 + 256;

/// Space for ciphertext that was read, of one connection after another, and the work of decrypting
/// it (`budget.rs`).
#[derive(Debug, Default)]
pub(in crate::reactor) struct Scratch {
    space: Vec<u8>,
    pub(in crate::reactor) work: u64,
}

/// A TLS layer and what its socket must still do for it.
#[derive(Debug)]
pub(in crate::reactor) struct Secured {
    layer: Layer,
    /// The entry of the configuration, for a client.
    rules: Option<Arc<ListenTls>>,
    /// Whether the stream is connected, as the handshake requires.
    is_linked: bool,
    /// Whether the stream is to be ended after the waiting output.
    is_ending: bool,
    /// The fault of the layer after its handshake.
    fault: Option<TlsFault>,
}

impl Secured {
    pub(super) const fn new(layer: Layer, rules: Option<Arc<ListenTls>>) -> Self {
        Self { layer, rules, is_linked: false, is_ending: false, fault: None }
    }

    /// The entry of the configuration, for a client.
    pub(in crate::reactor) fn rules(&self) -> Option<&ListenTls> {
        self.rules.as_deref()
    }

    /// The client named by a PROXY protocol header.
    pub(in crate::reactor) fn source(&self) -> Option<SocketAddr> {
        self.layer.source()
    }

    /// Takes the fault of the layer after its handshake.
    pub(in crate::reactor) const fn take_fault(&mut self) -> Option<TlsFault> {
        self.fault.take()
    }

    /// The identity of a client that has shown a certificate.
    pub(in crate::reactor) fn identity(&self) -> Option<ClientIdentity> {
        self.layer.identity()
    }
}

/// A step of a client's handshake, with the layer of its socket. Another thread takes a long one
/// (`handshakes/steps.rs`): a key exchange and a signature take 0.1 to 1 ms.
#[derive(Debug)]
pub(in crate::reactor) struct Step {
    pub(in crate::reactor) conn: ConnId,
    secured: Box<Secured>,
    /// The bytes that have arrived.
    bytes: Vec<u8>,
    failure: Option<(TlsFault, String)>,
}

impl Step {
    /// Takes the step. Called once.
    pub(in crate::reactor) fn take(&mut self) {
        let taken = self.secured.layer.take(&std::mem::take(&mut self.bytes), &mut []);
        self.failure = taken.err().map(failure);
    }
}

/// The reason of a failed handshake, and its text.
fn failure(error: impl Into<TlsFault> + ToString) -> (TlsFault, String) {
    let wrong = error.to_string();
    (error.into(), wrong)
}

/// The state of a handshake after a step.
#[derive(Debug, Eq, PartialEq)]
pub(in crate::reactor) enum Shaken {
    /// The handshake waits for the peer.
    Waits,
    /// More bytes can be read.
    Continues,
    /// The connection is open.
    Done,
    /// The handshake failed, for this reason. The text has more detail.
    Failed(TlsFault, String),
}

impl Shaken {
    /// After a read without bytes.
    fn after(moved: Moved) -> Self {
        match moved {
            Moved::Bytes(_) | Moved::Blocked => Self::Waits,
            Moved::Ended => Self::Failed(TlsFault::Ended, "the peer has left".to_owned()),
            Moved::Failed => Self::Failed(TlsFault::Broken, "the connection broke".to_owned()),
        }
    }
}

impl Socket {
    /// Records that the stream is connected. Returns whether a handshake follows.
    pub(in crate::reactor) fn begin_handshake(&mut self) -> bool {
        self.secured.as_mut().is_some_and(|secured| {
            secured.is_linked = true;
            secured.layer.is_handshaking()
        })
    }

    /// Whether a handshake is in progress.
    pub(in crate::reactor) fn is_handshaking(&self) -> bool {
        let is_linked = || self.secured.as_ref().is_some_and(|secured| secured.is_linked);
        self.is_connecting && (self.is_stepping || is_linked())
    }

    /// Whether the next step of a client's handshake is short: it has no signature and no certificate
    /// of the client and, with TLS 1.3, no key exchange.
    pub(in crate::reactor) fn has_short_step(&self) -> bool {
        let rules = self.secured.as_ref().and_then(|secured| secured.rules());
        self.is_answered && rules.is_some_and(|rules| rules.client_auth.is_none())
    }

    /// Begins the next step of a client's handshake with what has arrived. Until
    /// [`end_step`](Self::end_step), the socket has no layer.
    ///
    /// # Errors
    /// The state of the handshake, if there is no step to take.
    pub(in crate::reactor) fn begin_step(
        &mut self,
        scratch: &mut Scratch,
        registry: &Registry,
    ) -> Result<Step, Shaken> {
        self.flush_secured(registry);
        if !self.is_readable {
            return Err(Shaken::Waits);
        }
        scratch.space.resize(SCRATCH, 0);
        match self.receive(&mut scratch.space[..READ_LEAST]) {
            Moved::Bytes(count) => {
                let secured = self.secured.take().ok_or(Shaken::Waits)?;
                self.is_stepping = true;
                let bytes = scratch.space[..count].to_vec();
                Ok(Step { conn: self.conn, secured, bytes, failure: None })
            }
            other => Err(Shaken::after(other)),
        }
    }

    /// Takes the layer back after a step.
    pub(in crate::reactor) fn end_step(&mut self, step: Step, registry: &Registry) -> Shaken {
        self.is_stepping = false;
        let secured = self.secured.insert(step.secured);
        self.is_answered |= secured.layer.has_answered();
        let is_over = !secured.layer.is_handshaking();
        let has_more = secured.layer.has_input() || secured.layer.has_ended();
        // After a failure, the peer gets the alert.
        self.flush_secured(registry);
        if let Some((fault, wrong)) = step.failure {
            return Shaken::Failed(fault, wrong);
        }
        if is_over {
            self.is_connecting = false;
            // Bytes or the end may have come with the last message of the handshake.
            self.is_readable |= has_more;
            return Shaken::Done;
        }
        if self.is_readable { Shaken::Continues } else { Shaken::Waits }
    }

    /// Continues the handshake with a backend with what has arrived.
    pub(in crate::reactor) fn shake(
        &mut self,
        scratch: &mut Scratch,
        registry: &Registry,
    ) -> Shaken {
        let space = &mut scratch.space;
        space.resize(SCRATCH, 0);
        for _ in 0..HANDSHAKE_READS_MAX {
            self.flush_secured(registry);
            let Some(secured) = &self.secured else { return Shaken::Done };
            if !secured.layer.is_handshaking() {
                self.is_connecting = false;
                // Bytes or the end may have come with the last message of the handshake.
                self.is_readable |= secured.layer.has_input() || secured.layer.has_ended();
                return Shaken::Done;
            }
            if !self.is_readable {
                return Shaken::Waits;
            }
            match self.receive(&mut space[..READ_LEAST]) {
                Moved::Bytes(count) => {
                    let Some(secured) = &mut self.secured else { return Shaken::Done };
                    if let Err(error) = secured.layer.take(&space[..count], &mut []) {
                        // The peer gets the alert.
                        self.flush_secured(registry);
                        let (fault, wrong) = failure(error);
                        return Shaken::Failed(fault, wrong);
                    }
                }
                other => return Shaken::after(other),
            }
        }
        Shaken::Continues
    }

    /// Reads plaintext: first from the layer, then from newly received bytes.
    #[inline(never)]
    pub(super) fn read_secured(&mut self, space: &mut [u8], scratch: &mut Scratch) -> Moved {
        scratch.space.resize(SCRATCH, 0);
        let most = space.len().clamp(READ_LEAST, SCRATCH);
        let mut received = 0;
        // Of more bytes than a record has, some were records without plaintext. They can be many.
        while received < RECORD_MAX {
            let Some(secured) = &mut self.secured else { return Moved::Failed };
            if secured.layer.has_ended() {
                self.is_readable = false;
                return Moved::Ended;
            }
            let taken = if secured.layer.has_input() {
                // The system may also have more.
                self.is_readable = true;
                secured.layer.take(&[], space)
            } else {
                match self.receive(&mut scratch.space[..most]) {
                    Moved::Bytes(count) => {
                        received += count;
                        let Some(secured) = &mut self.secured else { return Moved::Failed };
                        let taken = secured.layer.take(&scratch.space[..count], space);
                        scratch.work += secured.layer.take_work();
                        taken
                    }
                    // The peer's bytes ended without close_notify, so some may be missing.
                    Moved::Ended => return Moved::Failed,
                    moved => return moved,
                }
            };
            let Some(secured) = &mut self.secured else { return Moved::Failed };
            let has_output = secured.layer.has_output();
            self.is_readable |= secured.layer.has_input() || secured.layer.has_ended();
            match taken {
                Ok(count) => {
                    // While a write waits, the rest of it goes out with the next one, which counts
                    // its bytes.
                    if has_output && self.is_writable {
                        self.send_secured();
                    }
                    if count > 0 {
                        return Moved::Bytes(count);
                    }
                    if !self.is_readable {
                        return Moved::Blocked;
                    }
                }
                Err(error) => {
                    secured.fault = Some(TlsFault::from(error));
                    // The peer gets the alert.
                    self.send_secured();
                    self.is_readable = false;
                    return Moved::Failed;
                }
            }
        }
        Moved::Blocked
    }

    /// Encrypts and sends bytes.
    #[inline(never)]
    pub(super) fn write_secured(&mut self, bytes: &[u8], is_last: bool) -> Moved {
        let (stream, Some(secured)) = self.parts() else { return Moved::Failed };
        match secured.layer.write(bytes, &mut Sink { stream, is_last }) {
            Ok(count) => {
                // If output is left, the system's buffer is full, and new room causes an edge.
                self.is_writable = !secured.layer.has_output();
                Moved::Bytes(count)
            }
            Err(error) => self.note_unsent(&error),
        }
    }

    fn has_secured_output(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.layer.has_output())
    }

    /// Sends the layer's own output: handshake messages, an alert, or close_notify.
    #[cold]
    pub(in crate::reactor) fn flush_secured(&mut self, registry: &Registry) {
        if !self.is_linked() || !self.has_secured_output() || !self.is_writable {
            return;
        }
        if !self.send_secured() {
            // If the poll cannot watch for writes, the rest is sent with the next write.
            let _ = self.watch_writes(registry);
        }
    }

    fn is_linked(&self) -> bool {
        self.secured.as_ref().is_some_and(|secured| secured.is_linked)
    }

    /// Sends output of the layer. Returns whether none is left.
    #[cold]
    fn send_secured(&mut self) -> bool {
        let (stream, Some(secured)) = self.parts() else { return true };
        let sent = secured.layer.flush(&mut Sink { stream, is_last: false });
        let is_ending = secured.is_ending;
        match sent {
            Ok(true) => {
                if is_ending {
                    self.shut();
                }
                true
            }
            Ok(false) => {
                self.is_writable = false;
                false
            }
            Err(error) => {
                // The next read or write finds the connection broken.
                self.note_unsent(&error);
                true
            }
        }
    }

    /// Sends close_notify and then ends the stream. If the system accepts no more bytes now, this
    /// happens when it does again.
    #[cold]
    pub(super) fn end_secured(&mut self, registry: &Registry) {
        let Some(secured) = &mut self.secured else { return };
        if !secured.is_linked {
            return;
        }
        if !std::mem::replace(&mut secured.is_ending, true) && !self.is_connecting {
            secured.layer.end();
        }
        if !self.send_secured() {
            let _ = self.watch_writes(registry);
        }
    }
}

/// The stream, as the sink of the layer.
struct Sink<'s> {
    stream: &'s TcpStream,
    is_last: bool,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        send_all(self.stream, pieces, self.is_last)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
