//! Sends messages to the service manager with the protocol of sd_notify(3), which systemd and
//! others support.
//!
//! | message | when |
//! |---|---|
//! | `READY=1` | the listeners accept clients; a reload has ended |
//! | `RELOADING=1` | a reload begins (`Type=notify-reload`) |
//! | `WATCHDOG=1` | every half of `WATCHDOG_USEC`, by the serving thread itself |
//! | `MAINPID=N` | an upgrade: process N serves now |
//! | `STOPPING=1` | the proxy stops |
//!
//! No crate is used, because a message is a single datagram without a reply. While the manager has
//! no room, a watchdog message is dropped. Any other message waits for room, but not for long,
//! because the serving thread waits with it.
use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;
use std::{env, process};

use intelliproxy_core::Instant;
use log::warn;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use rustix::time::{ClockId, clock_gettime};

/// The settings in the environment of a service.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    /// The manager's socket: a path, or a name that begins with `@`.
    pub(crate) socket: Option<OsString>,
    /// The maximum time between two watchdog messages, microseconds.
    pub(crate) watchdog_usec: Option<OsString>,
    /// The process that must send the watchdog messages; any process if absent.
    pub(crate) watchdog_pid: Option<OsString>,
}

impl Environment {
    /// The environment of this process.
    pub(crate) fn current() -> Self {
        Self {
            socket: env::var_os("NOTIFY_SOCKET"),
            watchdog_usec: env::var_os("WATCHDOG_USEC"),
            watchdog_pid: env::var_os("WATCHDOG_PID"),
        }
    }

    /// Half of the time within which the manager expects a watchdog message.
    fn watchdog_interval(&self) -> Option<Duration> {
        let text = |value: &Option<OsString>| value.as_ref()?.to_str()?.parse::<u64>().ok();
        let is_ours = match &self.watchdog_pid {
            Some(_) => text(&self.watchdog_pid) == Some(u64::from(process::id())),
            None => true,
        };
        let interval = Duration::from_micros(text(&self.watchdog_usec)? / 2);
        (is_ours && !interval.is_zero()).then_some(interval)
    }
}

/// The longest wait for a manager that has no room for a message.
const PATIENCE: Duration = Duration::from_millis(200);

/// The connection to the service manager. Without one, nothing is sent.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    socket: Option<UnixDatagram>,
    watchdog: Option<Watchdog>,
    /// The longest wait for room.
    patience: Duration,
    /// Whether there was no room after a wait. Until a message is sent there is no other wait.
    is_deaf: Cell<bool>,
}

/// The schedule of watchdog messages.
#[derive(Debug)]
struct Watchdog {
    interval: Duration,
    next: Instant,
}

impl Notifier {
    /// Connects to the manager that the environment names. A failure is logged.
    pub(crate) fn new(environment: &Environment, now: Instant) -> Self {
        let Some(name) = environment.socket.as_ref().filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        match connect(name.as_bytes()) {
            Ok(socket) => Self {
                socket: Some(socket),
                watchdog: environment
                    .watchdog_interval()
                    .map(|interval| Watchdog { interval, next: now }),
                patience: PATIENCE,
                is_deaf: Cell::new(false),
            },
            Err(error) => {
                warn!(
                    "NOTIFY_SOCKET {}: {error}: the service manager gets no messages",
                    name.display()
                );
                Self::default()
            }
        }
    }

    /// Reports that the proxy accepts clients, or that a reload has ended.
    pub(crate) fn ready(&self) {
        self.send("READY=1");
    }

    /// Reports that a reload has begun. [`ready`](Self::ready) reports its end.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    /// Reports that the proxy stops.
    pub(crate) fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Reports that process `pid` serves now. From then on that process sends messages, and this
    /// one does not.
    pub(crate) fn succeeded_by(&mut self, pid: u32) {
        self.send(&format!("MAINPID={pid}"));
        *self = Self::default();
    }

    /// Sends a watchdog message if one is due.
    pub(crate) fn handle_turn(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|at| at <= now) {
            self.send_at_once("WATCHDOG=1");
            if let Some(watchdog) = &mut self.watchdog {
                watchdog.next = now + watchdog.interval;
            }
        }
    }

    /// The time of the next watchdog message.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.watchdog.as_ref().map(|watchdog| watchdog.next)
    }

    /// Sends a message, and waits for room if necessary. Serving continues if the manager does not
    /// read or has ended.
    fn send(&self, message: &str) {
        if self.send_at_once(message) || self.is_deaf.get() {
            return;
        }
        if let (Some(socket), Ok(time)) = (&self.socket, Timespec::try_from(self.patience)) {
            // If this fails, the second attempt fails, too.
            let _ = retry_on_intr(|| poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&time)));
            self.is_deaf.set(!self.send_at_once(message));
        }
    }

    /// Sends a message if there is room. Returns whether nothing is left to do.
    fn send_at_once(&self, message: &str) -> bool {
        let Some(socket) = &self.socket else { return true };
        let result = socket.send(message.as_bytes());
        let is_done = !result.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        if is_done {
            self.is_deaf.set(false);
        }
        is_done
    }
}

fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.connect_addr(&address(name)?)?;
    Ok(socket)
}

fn address(name: &[u8]) -> io::Result<SocketAddr> {
    match name {
        #[cfg(target_os = "linux")]
        [b'@', name @ ..] => {
            use std::os::linux::net::SocketAddrExt;
            SocketAddr::from_abstract_name(name)
        }
        [b'/', ..] => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name)),
        _ => Err(io::Error::other("neither a path nor an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(name: &str) -> UnixDatagram {
        let manager = UnixDatagram::bind_addr(&address(name.as_bytes()).expect("a name"));
        let manager = manager.expect("a free name");
        manager.set_nonblocking(true).expect("a socket");
        manager
    }

    fn environment(name: &str, usec: Option<&str>, pid: Option<&str>) -> Environment {
        Environment {
            socket: Some(name.into()),
            watchdog_usec: usec.map(Into::into),
            watchdog_pid: pid.map(Into::into),
        }
    }

    /// The next message, if there is one.
    fn next(manager: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 200];
        let count = manager.recv(&mut bytes).ok()?;
        Some(String::from_utf8(bytes[..count].to_vec()).expect("text"))
    }

    /// Every message arrives, over a path and, on Linux, over an abstract name.
    #[test]
    fn messages_arrive() {
        let path = env::temp_dir().join(format!("intelliproxy-notify-{}", process::id()));
        let path = path.to_str().expect("UTF-8").to_owned();
        let mut names = vec![path.clone()];
        if cfg!(target_os = "linux") {
            names.push(format!("@{path}"));
        }
        for name in names {
            let manager = manager(&name);
            let mut notifier = Notifier::new(&environment(&name, None, None), Instant::ZERO);
            notifier.ready();
            assert_eq!(next(&manager).as_deref(), Some("READY=1"));
            notifier.reloading();
            let text = next(&manager).expect("a message");
            let micros = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("its form");
            let now = clock_gettime(ClockId::Monotonic).tv_sec;
            assert!(micros.parse::<i64>().expect("a number") / 1_000_000 <= now);
            notifier.stopping();
            assert_eq!(next(&manager).as_deref(), Some("STOPPING=1"));
            assert_eq!(notifier.poll_timeout(), None);
            notifier.succeeded_by(77);
            assert_eq!(next(&manager).as_deref(), Some("MAINPID=77"));
            notifier.ready();
            assert_eq!(next(&manager), None, "the other process has its own messages");
        }
        std::fs::remove_file(path).expect("the socket's file");
    }

    /// Watchdog messages are sent at half of the manager's interval, and only if the manager
    /// expects them from this process.
    #[test]
    fn signs_of_life() {
        let path = env::temp_dir().join(format!("intelliproxy-watchdog-{}", process::id()));
        let name = path.to_str().expect("UTF-8");
        let manager = manager(name);
        let own = process::id().to_string();
        let rows = [
            (Some("3000000"), None, true),
            (Some("3000000"), Some(&*own), true),
            (Some("3000000"), Some("1"), false),
            (Some("0"), None, false),
            (Some("soon"), None, false),
            (None, None, false),
        ];
        for (usec, pid, expected) in rows {
            let start = Instant::from_millis(100);
            let mut notifier = Notifier::new(&environment(name, usec, pid), start);
            let mut sent = Vec::new();
            for at in [100, 1599, 1600, 1700, 4000, 5499, 5500] {
                notifier.handle_turn(Instant::from_millis(at));
                if let Some(message) = next(&manager) {
                    assert_eq!(message, "WATCHDOG=1");
                    sent.push(at);
                }
            }
            let wanted: &[u64] = if expected { &[100, 1600, 4000, 5500] } else { &[] };
            assert_eq!(sent, wanted, "{usec:?} {pid:?}");
        }
        std::fs::remove_file(path).expect("the socket's file");
    }

    /// A message waits for room. A watchdog message does not.
    #[test]
    fn a_message_waits_for_room() {
        let path = env::temp_dir().join(format!("intelliproxy-no-room-{}", process::id()));
        let name = path.to_str().expect("UTF-8");
        let manager = manager(name);
        manager.set_nonblocking(false).expect("a socket");
        manager.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        let mut notifier = Notifier::new(&environment(name, Some("2"), None), Instant::ZERO);
        notifier.patience = Duration::from_secs(30);
        (0..100_000).for_each(|at| notifier.handle_turn(Instant::from_millis(at)));
        assert!(!notifier.send_at_once("WATCHDOG=1"), "there is no room");
        let reader =
            std::thread::spawn(move || while next(&manager).expect("a message") != "READY=1" {});
        notifier.ready();
        reader.join().expect("the message");
        std::fs::remove_file(path).expect("the socket's file");
    }

    /// The proxy works without a manager, and with one that is unreachable or does not read.
    #[test]
    fn a_manager_is_optional() {
        for name in ["", "relative", "/no/such/socket", "@"] {
            let notifier = Notifier::new(&environment(name, Some("10"), None), Instant::ZERO);
            notifier.ready();
            assert!(notifier.socket.is_none() || name == "@", "{name}");
        }
        let path = env::temp_dir().join(format!("intelliproxy-deaf-{}", process::id()));
        let name = path.to_str().expect("UTF-8");
        let _manager = manager(name);
        let notifier = Notifier::new(&environment(name, None, None), Instant::ZERO);
        (0..100_000).for_each(|_| notifier.ready());
        std::fs::remove_file(path).expect("the socket's file");
    }
}
