//! Watches the files of certificates: reads them once a second and compares their contents. A
//! ConfigMap swaps links, so file times and system notifications are not reliable.
//!
//! A change takes effect when all files of a listener match, so chain and key may be replaced one
//! after the other. Until then the listener keeps its certificates, and one line is logged.
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use log::{info, warn};

use super::server::{Digest, Servers};
use crate::plain::os_error_text;

/// Time between two readings.
const EVERY: Duration = Duration::from_secs(1);

/// Watches the files in its own thread, which starts with the first TLS listener.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    thread: Option<Sender<Message>>,
    result: Arc<Mutex<Found>>,
}

/// The new TLS that has not been taken yet.
#[derive(Debug, Default)]
struct Found {
    servers: Option<Servers>,
    /// The number of calls of `follow` so far. A result for an earlier call is not used.
    generation: u64,
}

type Wake = Box<dyn Fn() + Send>;

struct Message {
    servers: Servers,
    generation: u64,
    wake: Wake,
}

impl Watch {
    /// Watches the files of the listeners' TLS from now on. `wake` is called when there is
    /// something to [take](Self::take).
    pub(crate) fn follow(&mut self, servers: &Servers, wake: impl Fn() + Send + 'static) {
        let generation = {
            let Ok(mut found) = self.result.lock() else { return };
            found.generation += 1;
            found.servers = None;
            found.generation
        };
        if servers.is_empty() && self.thread.is_none() {
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
            let _ =
                thread.send(Message { servers: servers.clone(), generation, wake: Box::new(wake) });
        }
    }

    /// Returns the TLS of the listeners, if a file has changed.
    pub(crate) fn take(&self) -> Option<Servers> {
        self.result.lock().ok()?.servers.take()
    }
}

/// Reads until the program ends.
fn run(messages: &Receiver<Message>, result: &Mutex<Found>) {
    let Ok(mut current) = messages.recv() else { return };
    // The digests of invalid contents, so that each is reported once.
    let mut refused: Vec<Option<Digest>> = Vec::new();
    loop {
        match messages.recv_timeout(EVERY) {
            Ok(message) => {
                current = message;
                refused.clear();
            }
            Err(RecvTimeoutError::Timeout) => look(&mut current, &mut refused, result),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Reads the files once.
fn look(current: &mut Message, refused: &mut Vec<Option<Digest>>, result: &Mutex<Found>) {
    let mut next = current.servers.clone();
    let mut is_news = false;
    for (index, path) in next.changed() {
        refused.resize(refused.len().max(index + 1), None);
        match next.reload(index) {
            Ok(()) => {
                info!("{path}: certificates changed, using the new ones");
                refused[index] = None;
                is_news = true;
            }
            Err((digest, wrong)) => {
                if refused[index].as_ref() != Some(&digest) {
                    warn!("{wrong}: keeping the certificates in use");
                }
                refused[index] = Some(digest);
            }
        }
    }
    if !is_news {
        return;
    }
    current.servers = next.clone();
    let Ok(mut found) = result.lock() else { return };
    if found.generation == current.generation {
        found.servers = Some(next);
        (current.wake)();
    }
}
