//! Finds backends while the proxy runs: repeats name look-ups and readings of the watched file.
//!
//! One thread keeps the results. Each look-up (the system's `getaddrinfo`) and each reading of the
//! file may block, so each runs in a thread of its own, which ends with its result. A hanging
//! resolver or mount therefore delays only its own name or file, and the last result stays in use.
//! The program does not wait for these threads when it ends.
//!
//! When the backends have changed, the reactor gets them and applies them like a new configuration.
mod finder;
mod watched;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;

use self::finder::{Finder, Message};
pub(crate) use self::watched::read_backends;
use super::resolve::look_up;
use crate::config::{Config, Found, Known};
use crate::plain::os_error_text;

/// Looks a host up. May block.
pub(crate) type LookUp = dyn Fn(&str) -> Result<Vec<IpAddr>, String> + Send + Sync;

/// Finds backends in its own threads. Clones use the same ones.
#[derive(Clone)]
pub(crate) struct Discovery {
    look_up: Arc<LookUp>,
    /// The channel to the thread; `None` until a configuration has something to find.
    thread: Arc<Mutex<Option<Sender<Message>>>>,
    results: Arc<Mutex<Results>>,
}

/// The backends that were found last and not taken yet.
#[derive(Default)]
struct Results {
    found: Option<(u64, Found)>,
    /// The number of configurations so far. Results for an earlier one are not used.
    generation: u64,
    wake: Option<Box<dyn Fn() + Send>>,
}

impl Discovery {
    /// Finds by these look-ups. Starts no thread yet.
    pub(crate) fn new(look_up: Arc<LookUp>) -> Self {
        Self { look_up, thread: Arc::default(), results: Arc::default() }
    }

    /// Returns the backends of a configuration. Waits up to `time` for the look-ups and the
    /// reading. For one that is late or has failed, the earlier result is used and a line is
    /// logged.
    ///
    /// # Errors
    /// There are too many backends, no thread can be started, or there is no result in time
    /// although a configuration is already followed.
    pub(crate) fn look(&self, config: &Config, time: Duration) -> Result<Found, String> {
        if !needs_finder(config) {
            return config.found(&Known::default());
        }
        let (reply, known) = crossbeam_channel::bounded(1);
        let until = Instant::now() + time;
        self.send(Message::Look { config: Box::new(config.clone()), until, reply })?;
        // The grace period is needed because the thread itself checks the time.
        match known.recv_timeout(time + GRACE) {
            Ok(known) => config.found(&known),
            // Without a result, a reload would remove all discovered backends.
            Err(_) if self.is_following() => Err(LATE.to_owned()),
            Err(_) => config.found(&Known::default()),
        }
    }

    /// Follows a configuration that is applied now with these backends: looks its names up and
    /// reads its file from now on. `wake` is called when there is something to [take](Self::take).
    pub(crate) fn follow(&self, config: &Config, used: Found, wake: impl Fn() + Send + 'static) {
        let generation = {
            let Ok(mut results) = self.results.lock() else { return };
            results.generation += 1;
            results.found = None;
            results.wake = Some(Box::new(wake));
            results.generation
        };
        let is_running = self.thread.lock().is_ok_and(|thread| thread.is_some());
        if needs_finder(config) || is_running {
            let config = Box::new(config.clone());
            // Without its thread no backends are discovered any more; `look` has reported that.
            let _ = self.send(Message::Follow { config, used: Box::new(used), generation });
        }
    }

    /// Whether a configuration is followed.
    fn is_following(&self) -> bool {
        self.results.lock().is_ok_and(|results| results.generation > 0)
    }

    /// Returns the backends of the current configuration, if they have changed.
    pub(crate) fn take(&self) -> Option<Found> {
        let mut results = self.results.lock().ok()?;
        let (generation, found) = results.found.take()?;
        (generation == results.generation).then_some(found)
    }

    /// Sends a message to the thread, starting it if necessary.
    fn send(&self, message: Message) -> Result<(), String> {
        let Ok(mut thread) = self.thread.lock() else { return Ok(()) };
        if thread.is_none() {
            let (sender, messages) = crossbeam_channel::unbounded();
            let (look_up, results) = (Arc::clone(&self.look_up), Arc::clone(&self.results));
            let finder = Finder::new(look_up, sender.clone(), messages, results);
            let start = thread::Builder::new().name("discovery".to_owned());
            start
                .spawn(move || finder.run())
                .map_err(|error| format!("cannot start a thread: {}", os_error_text(&error)))?;
            *thread = Some(sender);
        }
        if let Some(thread) = &*thread {
            let _ = thread.send(message);
        }
        Ok(())
    }
}

/// Finds by the resolver of the system.
impl Default for Discovery {
    fn default() -> Self {
        Self::new(Arc::new(look_up))
    }
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Discovery")
    }
}

/// Whether a configuration has names to look up, or a file to read.
fn needs_finder(config: &Config) -> bool {
    config.discovery.file.is_some() || !config.hosts(&[]).is_empty()
}

/// Returns a line about the backends that are not used because their names are taken.
pub(crate) fn unused_line(config: &Config, found: &Found) -> Option<String> {
    let named: Vec<&str> = found.unused.iter().take(NAMED_MAX).map(String::as_str).collect();
    let more = match found.unused.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let from = config.discovery.file.as_ref();
    let from = from.map_or_else(String::new, |file| format!(" (discovery.file {file})"));
    let names = named.join(", ");
    let taken = match found.unused.len() {
        1 => "its name is taken",
        _ => "their names are taken",
    };
    (!named.is_empty()).then(|| format!("not using {names}{more}{from}: {taken}"))
}

/// The error for a reload that got no backends, not even earlier ones.
const LATE: &str = "the thread that finds backends does not respond";
/// The maximum number of names in one line.
const NAMED_MAX: usize = 5;
/// The maximum wait for look-ups at startup and in a reload: the first timeout of the resolver of
/// glibc is 5 s.
pub(crate) const LOOK_TIME: Duration = Duration::from_secs(5);
/// The longest wait beyond the time passed to `look`.
const GRACE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
