//! The handover from a running process to its successor: the listeners and the learned state.
//! `upgrade.rs` starts the successor.
//!
//! The successor's stdin is one end of a pair of sockets. Over it the successor gets the listeners
//! as descriptors (SCM_RIGHTS). It reports when it is ready, and accepts clients after its
//! predecessor has sent [`GO`]:
//!
//! | from | bytes |
//! |---|---|
//! | predecessor | the length of the text (8 bytes, little endian), with the descriptors |
//! | predecessor | the text: JSON with each descriptor's address and entry, and the state |
//! | successor | [`READY`] |
//! | predecessor | [`GO`] |
//!
//! An abandoned successor has therefore accepted no client. If the predecessor ends before it sends
//! [`GO`], the successor also ends.
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::listen::{BoundListener, Place};
use super::tls::TicketKeys;
use crate::config::Listen;
use crate::plain::os_error_text;

/// The maximum number of descriptors in one message (SCM_MAX_FD of Linux).
pub(crate) const LISTENERS_MAX: usize = 253;
/// The longest text, bytes. The limit of a state file is the same.
const TEXT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The successor is ready to accept clients.
const READY: u8 = b'r';
/// The successor may accept clients.
const GO: u8 = b'g';

/// The listeners and the learned state of a running process.
#[derive(Debug, Default)]
pub(crate) struct Handover {
    /// The listeners for clients.
    pub(crate) listeners: Vec<(OwnedFd, Place)>,
    /// The listeners of the admin pages.
    pub(crate) admin_listeners: Vec<(OwnedFd, Place)>,
    /// The policy's learned state, as JSON; `None` if it learns nothing.
    pub(crate) learned: Option<String>,
    /// The keys of TLS tickets.
    pub(crate) tickets: Option<TicketKeys>,
}

/// The text sent with the descriptors.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Text {
    listeners: Vec<(SocketAddr, Listen)>,
    admin_listeners: Vec<(SocketAddr, Listen)>,
    learned: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tickets: Option<TicketKeys>,
}

/// The listeners and the state that a process received at its start.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// The listeners for clients.
    pub(crate) listeners: Vec<BoundListener>,
    /// The listeners of the admin pages.
    pub(crate) admin_listeners: Vec<BoundListener>,
    /// The policy's learned state, as JSON; `None` if it learns nothing.
    pub(crate) learned: Option<String>,
    /// The keys of TLS tickets.
    pub(crate) tickets: Option<TicketKeys>,
    /// The connection to the process that sent them; `None` if the service manager did.
    pub(crate) predecessor: Option<Predecessor>,
}

/// A successor's connection to its predecessor, until the successor may accept clients.
#[derive(Debug)]
pub(crate) struct Predecessor {
    stream: UnixStream,
}

impl Predecessor {
    /// Reports that this process is ready, and waits until the predecessor lets it accept clients.
    ///
    /// # Errors
    /// One line: the predecessor has ended, sent nothing in time, or sent another byte.
    pub(crate) fn report_ready(mut self) -> Result<(), String> {
        let mut word = [0];
        let go = self.stream.write_all(&[READY]).and_then(|()| self.stream.read_exact(&mut word));
        go.map_err(|error| format!("not taking over: {}", os_error_text(&error)))?;
        if word == [GO] { Ok(()) } else { Err("not taking over: an unknown word".to_owned()) }
    }
}

impl Handover {
    /// Sends everything to the successor, and waits until it is ready. Then lets it accept clients
    /// if `may_go` returns true.
    ///
    /// # Errors
    /// The system's error; `UnexpectedEof` if the successor has ended, `WouldBlock` if it sent
    /// nothing for `time`.
    pub(super) fn pass_on(
        self,
        mut stream: UnixStream,
        time: Duration,
        may_go: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        stream.set_write_timeout(Some(time))?;
        stream.set_read_timeout(Some(time))?;
        let mut sockets = Vec::new();
        let mut take = |all: Vec<(OwnedFd, Place)>| {
            let (owned, places): (Vec<OwnedFd>, Vec<Place>) = all.into_iter().unzip();
            sockets.extend(owned);
            places.into_iter().map(|place| (place.address, place.entry)).collect()
        };
        let (listeners, admin_listeners) = (take(self.listeners), take(self.admin_listeners));
        let text =
            Text { listeners, admin_listeners, learned: self.learned, tickets: self.tickets };
        let text = serde_json::to_vec(&text)?;
        send(&stream, text.len() as u64, &sockets)?;
        stream.write_all(&text)?;
        let mut word = [0];
        stream.read_exact(&mut word)?;
        if word != [READY] {
            return Err(io::Error::other("an unknown reply"));
        }
        // As late as possible: after the next byte there are two processes that accept clients.
        if !may_go() {
            return Err(io::Error::other("this process stops"));
        }
        stream.write_all(&[GO])
    }

    /// Takes everything from the predecessor.
    ///
    /// # Errors
    /// One line: the predecessor is of another version, has ended, or sent nothing for `time`.
    pub(crate) fn take(stream: UnixStream, time: Duration) -> Result<Taken, String> {
        let fail = |error: io::Error| format!("cannot take over: {}", os_error_text(&error));
        let take = |stream: &UnixStream| {
            stream.set_read_timeout(Some(time))?;
            stream.set_write_timeout(Some(time))?;
            let (length, sockets) = receive(stream)?;
            let mut text = String::new();
            stream.take(length).read_to_string(&mut text)?;
            Ok((text, sockets))
        };
        let (text, sockets) = take(&stream).map_err(fail)?;
        let text: Text = serde_json::from_str(&text).map_err(|error| fail(error.into()))?;
        let (said, came) = (text.listeners.len() + text.admin_listeners.len(), sockets.len());
        // The system drops descriptors beyond the limit of open files.
        if said != came {
            return Err(format!("cannot take over: {came} of {said} listeners arrived"));
        }
        let of = |(socket, (address, entry)): (OwnedFd, (SocketAddr, Listen))| BoundListener {
            socket: TcpListener::from(socket),
            place: Place { address, entry },
        };
        let mut sockets = sockets.into_iter();
        let listeners = sockets.by_ref().take(text.listeners.len());
        Ok(Taken {
            listeners: listeners.zip(text.listeners).map(of).collect(),
            admin_listeners: sockets.zip(text.admin_listeners).map(of).collect(),
            learned: text.learned,
            tickets: text.tickets,
            predecessor: Some(Predecessor { stream }),
        })
    }
}

/// Sends the length of the text with the descriptors.
fn send(stream: &UnixStream, length: u64, sockets: &[OwnedFd]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(io::Error::other(format!("more than {LISTENERS_MAX} listeners")));
    }
    let length = length.to_le_bytes();
    // Descriptors travel only with at least one byte.
    // An empty socket accepts a message of 8 bytes completely.
    sendmsg(stream, &[IoSlice::new(&length)], &mut control, SendFlags::empty())?;
    Ok(())
}

fn receive(stream: &UnixStream) -> io::Result<(u64, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(LISTENERS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut length = [0; 8];
    // A process that this one starts, such as its own successor, must not inherit the listeners.
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let message = recvmsg(stream, &mut [IoSliceMut::new(&mut length)], &mut control, flags)?;
    let mut sockets = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            sockets.extend(rights);
        }
    }
    if message.bytes < length.len() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let length = u64::from_le_bytes(length);
    if length > TEXT_BYTES_MAX {
        return Err(io::Error::other("the message has no valid length"));
    }
    Ok((length, sockets))
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::thread;

    use super::*;
    use crate::edge::listen::ConfiguredListeners;

    const TIME: Duration = Duration::from_secs(30);

    fn handover(entries: &[Listen], learned: Option<&str>) -> Handover {
        let all = ConfiguredListeners::bind(entries, &[]).expect("free ports");
        let owned = |bound: BoundListener| (OwnedFd::from(bound.socket), bound.place);
        let listeners = all.bound.into_iter().map(owned).collect();
        let admin = ConfiguredListeners::bind(&["127.0.0.1:0".into()], &[]).expect("a free port");
        let admin_listeners = admin.bound.into_iter().map(owned).collect();
        Handover { listeners, admin_listeners, learned: learned.map(str::to_owned), tickets: None }
    }

    /// Listeners arrive with their places, and accept clients that connected before. The state
    /// arrives unchanged, even one of 1 MiB. Afterwards the successor may accept clients.
    #[test]
    fn everything_arrives() {
        let entry = Listen { proxy_protocol: true, .."127.0.0.1:0".into() };
        let state = "x".repeat(1 << 20);
        for (entries, learned) in
            [(vec![entry, "127.0.0.2:0".into()], Some(&*state)), (vec!["localhost:0".into()], None)]
        {
            let handover = handover(&entries, learned);
            let places: Vec<Place> = handover.listeners.iter().map(|(_, p)| p.clone()).collect();
            let client = TcpStream::connect(places[0].address).expect("a listener");
            let (own, other) = UnixStream::pair().expect("sockets");
            let admin = handover.admin_listeners[0].1.clone();
            let sender = thread::spawn(move || handover.pass_on(own, TIME, || true));
            let taken = Handover::take(other, TIME).expect("a handover");
            let at: Vec<Place> = taken.listeners.iter().map(|own| own.place.clone()).collect();
            assert_eq!((at, taken.learned.as_deref()), (places, learned));
            let of_admin = &taken.admin_listeners[0];
            assert_eq!((&of_admin.place, taken.admin_listeners.len()), (&admin, 1));
            assert_eq!(of_admin.socket.local_addr().expect("bound"), admin.address);
            taken.predecessor.expect("it waits").report_ready().expect("it may go");
            sender.join().expect("no panic").expect("it was ready");
            let listener = &taken.listeners[0].socket;
            listener.set_nonblocking(false).expect("a socket");
            let (_, peer) = listener.accept().expect("a client waits");
            assert_eq!(peer, client.local_addr().expect("connected"));
        }
    }

    /// If the predecessor stops before the end of the handover, the successor does not serve.
    #[test]
    fn one_that_stops_has_no_successor() {
        let (own, other) = UnixStream::pair().expect("sockets");
        let sender = thread::spawn(move || Handover::default().pass_on(own, TIME, || false));
        let taken = Handover::take(other, TIME).expect("a handover");
        let error = taken.predecessor.expect("it waits").report_ready().expect_err("it stops");
        assert!(error.starts_with("not taking over: "), "{error}");
        let error = sender.join().expect("no panic").expect_err("it stops");
        assert_eq!(error.to_string(), "this process stops");
        let (own, mut other) = UnixStream::pair().expect("sockets");
        other.write_all(b"x").expect("room");
        let error = Predecessor { stream: own }.report_ready().expect_err("not the word");
        assert_eq!(error, "not taking over: an unknown word");
    }

    /// The predecessor gets an error if the successor ends or sends nothing. The successor gets one
    /// if the predecessor ends, or if its text is of another version.
    #[test]
    fn each_side_notices_the_others_end() {
        let (own, other) = UnixStream::pair().expect("sockets");
        drop(other);
        let go = || true;
        let error = Handover::default().pass_on(own, TIME, go).expect_err("it has ended");
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof));
        let (own, _other) = UnixStream::pair().expect("sockets");
        let short = Duration::from_millis(10);
        let error = Handover::default().pass_on(own, short, go).expect_err("it is silent");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let (own, other) = UnixStream::pair().expect("sockets");
        drop(own);
        let error = Handover::take(other, TIME).expect_err("it has ended");
        assert!(error.starts_with("cannot take over: "), "{error}");
        let (own, other) = UnixStream::pair().expect("sockets");
        send(&own, 2, &[]).expect("room");
        (&own).write_all(b"{}").expect("room");
        let error = Handover::take(other, TIME).expect_err("another version");
        assert!(error.starts_with("cannot take over: missing field"), "{error}");
    }
}
