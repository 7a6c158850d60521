//! What a policy learns, kept in a file across restarts.
//!
//! The file is read once, before anything is served. It is written by a thread of its own every
//! [`SAVE_INTERVAL`] in which something happened and at the end: into a file beside it that then
//! takes its name, so that there is a whole one at any time. The reactor hands the state over and
//! never waits for the disk.
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};
use intelliproxy_core::{Instant, Memory};
use log::{info, warn};

use crate::config::{BackendTarget, Config};
use crate::plain::os_error_text;
use crate::proxy::Proxy;

/// Time from one writing to the next: what a crash may lose.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the end waits for the last writing.
const FINISH_TIME: Duration = Duration::from_secs(2);
/// Bytes of a file that is read; 10 000 backends with all their numbers fit.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Hands what was learned to the thread that writes it.
#[derive(Debug)]
pub(crate) struct Keeper {
    states: Sender<Memory>,
    ended: Receiver<()>,
    next_save: Instant,
}

impl Keeper {
    /// Gives the proxy what the file holds, if there is one, and starts the writer.
    ///
    /// # Errors
    /// One line: the file cannot be read, or is no state of this proxy's policy; or the policy
    /// learns nothing.
    pub(crate) fn start(path: String, proxy: &mut Proxy, now: Instant) -> Result<Self, String> {
        let fail = |wrong: String| format!("state {path}: {wrong}");
        check_policy(&path, proxy)?;
        match read(Path::new(&path)) {
            Ok(Some(text)) => {
                proxy.restore(&text).map_err(|error| fail(error.to_string()))?;
                info!("state {path}: restored");
            }
            Ok(None) => info!("state {path}: there is none yet"),
            Err(error) => return Err(fail(os_error_text(&error))),
        }
        // One may wait while one is written: the next is newer than either.
        let (states, queued) = crossbeam_channel::bounded(1);
        let (ending, ended) = crossbeam_channel::bounded(0);
        let file = PathBuf::from(&path);
        thread::Builder::new()
            .name("state".to_owned())
            .spawn(move || {
                // Dropped at the end of this thread, whatever ends it.
                let _ending: Sender<()> = ending;
                write_all(&file, &queued);
            })
            .map_err(|error| fail(os_error_text(&error)))?;
        Ok(Self { states, ended, next_save: now + SAVE_INTERVAL })
    }

    /// Called once a turn: hands the state over when it is time.
    pub(crate) fn handle_turn(&mut self, now: Instant, proxy: &Proxy) {
        if now < self.next_save {
            return;
        }
        self.next_save = now + SAVE_INTERVAL;
        if let Some(state) = proxy.learned_state() {
            match self.states.try_send(state) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => warn!("state: the disk is too slow, left out once"),
                Err(TrySendError::Disconnected(_)) => warn!("state: nothing is kept any more"),
            }
        }
    }

    /// Writes the last state and waits for that, for a while.
    pub(crate) fn finish(self, proxy: &Proxy) {
        if let Some(state) = proxy.learned_state() {
            // A writer that is stuck for so long will not get to it.
            let _ = self.states.send_timeout(state, FINISH_TIME);
        }
        drop(self.states);
        if self.ended.recv_timeout(FINISH_TIME) == Err(crossbeam_channel::RecvTimeoutError::Timeout)
        {
            warn!("state: the last one was not written in time");
        }
    }
}

/// Whether a configuration with a state file could be started with.
///
/// # Errors
/// One line: its policy learns nothing.
pub(crate) fn check(config: &Config, targets: &[BackendTarget]) -> Result<(), String> {
    let Some(path) = &config.state_file else {
        return Ok(());
    };
    let proxy = Proxy::new(config.clone(), targets.to_vec(), 0, Instant::ZERO);
    check_policy(path, &proxy.map_err(|error| error.to_string())?)
}

fn check_policy(path: &str, proxy: &Proxy) -> Result<(), String> {
    match proxy.learned_state() {
        Some(_) => Ok(()),
        None => Err(format!("state {path}: this policy learns nothing that could be kept")),
    }
}

/// Writes what comes until nobody sends any more.
fn write_all(file: &Path, states: &Receiver<Memory>) {
    for state in states {
        if let Err(error) = write(file, state.to_json().as_bytes()) {
            warn!("state {}: {}", file.display(), os_error_text(&error));
        }
    }
}

/// The text of the file; `None` when there is none.
fn read(path: &Path) -> io::Result<Option<String>> {
    use std::io::Read;
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        result => result?,
    };
    let mut text = String::new();
    let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)? as u64;
    if bytes > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(Some(text))
}

/// Puts `bytes` into the file at once: all of them, or the file stays as it was.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use intelliproxy_core::PolicyKind;

    use super::*;

    /// A folder of the test's own, empty.
    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("intelliproxy-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder for the test");
        folder
    }

    fn proxy(policy: PolicyKind) -> Proxy {
        let mut config = Config::default();
        config.routing.policy = policy;
        let target = |name: &str| BackendTarget {
            name: name.to_owned(),
            url: "http://127.0.0.1:9".to_owned(),
            authority: "127.0.0.1:9".to_owned(),
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 9))],
        };
        Proxy::new(config, vec![target("A"), target("B")], 1, Instant::ZERO).expect("good defaults")
    }

    /// What is written at the end is what the next start reads; the file beside it is gone.
    #[test]
    fn a_state_comes_back() {
        let folder = folder("state-back");
        let path = folder.join("learned.json").display().to_string();
        let mut first = proxy(PolicyKind::Learned);
        let keeper = Keeper::start(path.clone(), &mut first, Instant::ZERO).expect("no file yet");
        keeper.finish(&first);
        let text = read(Path::new(&path)).expect("readable").expect("written");
        assert_eq!(Some(Memory::from_json(&text).expect("a state")), first.learned_state());
        assert_eq!(fs::read_dir(&folder).expect("the folder").count(), 1);
        let mut second = proxy(PolicyKind::Learned);
        Keeper::start(path, &mut second, Instant::ZERO).expect("a good state");
        fs::remove_dir_all(folder).expect("the folder goes");
    }

    /// A file that is bad, or another policy's, is refused in one line that names it, and stays.
    #[test]
    fn bad_states_are_refused() {
        let folder = folder("state-bad");
        let path = folder.join("learned.json").display().to_string();
        for (text, wrong) in [("", "not a state"), ("{\"version\":1}", "not a state")] {
            fs::write(&path, text).expect("written");
            let error = Keeper::start(path.clone(), &mut proxy(PolicyKind::Learned), Instant::ZERO)
                .expect_err("a bad state");
            assert!(error.starts_with(&format!("state {path}: {wrong}")), "{error}");
            assert_eq!(fs::read_to_string(&path).expect("still there"), text);
        }
        let state = proxy(PolicyKind::LinearRl).learned_state().expect("weights");
        fs::write(&path, state.to_json()).expect("written");
        let error = Keeper::start(path.clone(), &mut proxy(PolicyKind::Learned), Instant::ZERO)
            .expect_err("a foreign state");
        assert_eq!(error, format!("state {path}: the state of another policy"));
        let error = Keeper::start(path, &mut proxy(PolicyKind::Score), Instant::ZERO)
            .expect_err("nothing to keep");
        assert!(error.ends_with("learns nothing that could be kept"), "{error}");
        fs::remove_dir_all(folder).expect("the folder goes");
    }
}
