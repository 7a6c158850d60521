//! Watches the files of certificates: reads them once a second and compares their contents. A
//! ConfigMap swaps links, so file times and system notifications are not reliable.
//!
//! A change takes effect when all files of a listener, or of the TLS to a backend, match, so chain
//! and key may be replaced one after the other. Until then the current TLS stays in use, and one
//! line is logged.
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use log::warn;

use super::client::Clients;
use super::files::{Digest, Watched, renewed};
use super::server::Servers;
use crate::plain::os_error_text;

/// Time between two readings.
const EVERY: Duration = Duration::from_secs(1);

/// Watches the files in its own thread, which starts with the first TLS listener or TLS files of a
/// backend.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    thread: Option<Sender<Message>>,
    result: Arc<Mutex<Found>>,
}

/// The new TLS that has not been taken yet.
#[derive(Debug, Default)]
struct Found {
    tls: Option<(Servers, Clients)>,
    /// The log lines about it.
    lines: Vec<String>,
    /// The number of calls of `follow` so far. A result for an earlier call is not used.
    generation: u64,
}

type Wake = Box<dyn Fn() + Send>;

struct Message {
    servers: Servers,
    clients: Clients,
    generation: u64,
    wake: Wake,
}

impl Watch {
    /// Watches the files of the TLS of listeners and of backends from now on. `wake` is called when
    /// there is something to [take](Self::take).
    pub(crate) fn follow(
        &mut self,
        servers: &Servers,
        clients: &Clients,
        wake: impl Fn() + Send + 'static,
    ) {
        let generation = {
            let Ok(mut found) = self.result.lock() else { return };
            found.generation += 1;
            found.tls = None;
            found.lines.clear();
            found.generation
        };
        if servers.is_empty() && clients.is_empty() && self.thread.is_none() {
            return;
        }
        if self.thread.is_none() {
            let (sender, messages) = crossbeam_channel::unbounded();
            let result = Arc::clone(&self.result);
            let start = thread::Builder::new().name("certificates".to_owned());
            match start.spawn(move || run(&messages, &result)) {
                Ok(_) => self.thread = Some(sender),
                Err(error) => {
                    let wrong = os_error_text(&error);
                    warn!("cannot start a thread: {wrong}: certificates are read at SIGHUP only");
                }
            }
        }
        if let Some(thread) = &self.thread {
            let (servers, clients) = (servers.clone(), clients.clone());
            let _ = thread.send(Message { servers, clients, generation, wake: Box::new(wake) });
        }
    }

    /// Returns the TLS of listeners and of backends, if a file has changed, and the lines to log
    /// once it is in use.
    pub(crate) fn take(&self) -> Option<(Servers, Clients, Vec<String>)> {
        let mut found = self.result.lock().ok()?;
        let (servers, clients) = found.tls.take()?;
        Some((servers, clients, std::mem::take(&mut found.lines)))
    }
}

/// The digest of the invalid contents of each part, so that each is reported once.
type Refused = Vec<Option<Digest>>;

/// Reads until the program ends.
fn run(messages: &Receiver<Message>, result: &Mutex<Found>) {
    let Ok(mut current) = messages.recv() else { return };
    let mut refused: [Refused; 2] = Default::default();
    loop {
        match messages.recv_timeout(EVERY) {
            Ok(message) => {
                current = message;
                refused = Default::default();
            }
            Err(RecvTimeoutError::Timeout) => look(&mut current, &mut refused, result),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Reads the files once.
fn look(current: &mut Message, [of_servers, of_clients]: &mut [Refused; 2], result: &Mutex<Found>) {
    let (mut servers, mut clients) = (current.servers.clone(), current.clients.clone());
    let mut lines = refresh(&mut servers, of_servers);
    lines.extend(refresh(&mut clients, of_clients));
    if lines.is_empty() {
        return;
    }
    (current.servers, current.clients) = (servers.clone(), clients.clone());
    let Ok(mut found) = result.lock() else { return };
    if found.generation == current.generation {
        found.tls = Some((servers, clients));
        found.lines.extend(lines);
        (current.wake)();
    }
}

/// Reads changed files. Returns a log line for each part that has new certificates.
fn refresh(tls: &mut impl Watched, refused: &mut Refused) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, path) in tls.changed() {
        refused.resize(refused.len().max(index + 1), None);
        match tls.reload(index) {
            Ok(()) => {
                lines.push(renewed(&path));
                refused[index] = None;
            }
            Err((digest, wrong)) => {
                if refused[index].as_ref() != Some(&digest) {
                    warn!("{wrong}: keeping the certificates in use");
                }
                refused[index] = Some(digest);
            }
        }
    }
    lines
}
