//! The file that keeps a policy's learned state across restarts.
//!
//! The file is a cache. It is read before the program serves, and for a new configuration. An
//! unusable file is renamed. A separate thread writes the state every [`SAVE_INTERVAL`], before the
//! policy or the file changes, and at the end. It writes a new file next to the old one and renames
//! it, so that the file is always complete. The reactor only queues the state and never waits for
//! the disk.
use std::cell::Cell;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use intelliproxy_core::{Instant, PolicyState, Router, RouterConfig};
use log::{Level, info, log, warn};

use super::disk::{self, Unread};
use super::worker::{Ended, Worker};
use crate::config::Config;
use crate::plain::os_error_text;
use crate::proxy::Proxy;

/// Time between two saves. A crash loses the state learned since the last save.
const SAVE_INTERVAL: Duration = Duration::from_secs(30);
/// The maximum number of states that wait while another one is written: one before a command and
/// one before a reload. More room would only hold older states.
const STATES_MAX: usize = 2;
/// Room in the queue in addition to [`STATES_MAX`] states, for a rename.
const RESERVED: usize = 1;
/// The longest wait for the last save at the end.
pub(super) const FINISH_TIME: Duration = Duration::from_secs(2);
/// The largest file that is read, enough for 10 000 backends with all their numbers.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The content of a configuration's state file.
#[derive(Debug)]
pub(crate) struct Kept {
    path: String,
    found: Found,
}

#[derive(Debug)]
enum Found {
    Nothing,
    Text(String),
    /// It cannot be read, for this reason.
    Unreadable(String),
}

impl Kept {
    /// Reads the state file; `None` if the configuration uses none. May block.
    ///
    /// # Errors
    /// One line: the path is a link, a pipe, a device or a folder.
    pub(crate) fn read(config: &Config) -> Result<Option<Self>, String> {
        let Some(path) = config.state_file.clone().filter(|_| unused(config).is_none()) else {
            return Ok(None);
        };
        let found = match disk::read_text(Path::new(&path), FILE_BYTES_MAX) {
            Ok(Some(text)) => Found::Text(text),
            Ok(None) => Found::Nothing,
            Err(Unread::Irregular(wrong)) => return Err(format!("state {path}: {wrong}")),
            Err(Unread::Failed(error)) => Found::Unreadable(os_error_text(&error)),
        };
        Ok(Some(Self { path, found }))
    }
}

/// Hands the learned state to the thread that writes it.
#[derive(Debug)]
pub(crate) struct Keeper {
    path: String,
    writer: Worker<Message>,
    next_save: Instant,
    /// Whether the end of the writer has been logged.
    is_end_logged: Cell<bool>,
}

/// A message to the writing thread.
#[derive(Debug)]
enum Message {
    Write(PolicyState),
    /// Rename the existing file, so that it is kept.
    SetAside {
        suffix: &'static str,
        wrong: Option<String>,
    },
}

impl Keeper {
    /// Restores the file's state in the proxy, if there is one, and starts the writer. With
    /// `is_restored` the proxy already has its state, and the file's content is ignored.
    ///
    /// Returns `None` if no file is configured, or if the policy does not use it; a log line then
    /// gives the reason.
    ///
    /// An unusable file is renamed to `.bad`, and the proxy starts empty.
    ///
    /// # Errors
    /// One line: the path is a link, a pipe, a device or a folder, or the thread cannot be started.
    pub(crate) fn start(
        config: &Config,
        proxy: &mut Proxy,
        now: Instant,
        is_restored: bool,
    ) -> Result<Option<Self>, String> {
        if let Some(line) = unused(config) {
            warn!("{line}");
        }
        let Some(mut kept) = Kept::read(config)? else { return Ok(None) };
        if is_restored {
            kept.found = Found::Nothing;
        }
        Self::begin(kept, !is_restored, proxy, now).map(Some)
    }

    /// Starts the writer. If `restores` is set, restores the file's state in the proxy; otherwise
    /// an existing file is renamed to `.old`.
    ///
    /// # Errors
    /// One line: the thread cannot be started.
    pub(crate) fn begin(
        kept: Kept,
        restores: bool,
        proxy: &mut Proxy,
        now: Instant,
    ) -> Result<Self, String> {
        let path = kept.path.clone();
        let file = PathBuf::from(&path);
        let room = STATES_MAX + RESERVED;
        let writer = Worker::start("state", room, move |messages| write_all(&file, messages))
            .map_err(|error| format!("state {path}: {}", os_error_text(&error)))?;
        let next_save = now + SAVE_INTERVAL;
        let keeper = Self { path, writer, next_save, is_end_logged: Cell::new(false) };
        if restores {
            keeper.restore(kept, proxy);
        } else if !matches!(kept.found, Found::Nothing) {
            keeper.set_aside(".old", None);
        }
        Ok(keeper)
    }

    /// Restores the file's state in the proxy. An unusable file is renamed to `.bad`.
    pub(crate) fn restore(&self, kept: Kept, proxy: &mut Proxy) {
        let path = &self.path;
        let wrong = match kept.found {
            Found::Nothing => return info!("state {path}: not found, starting empty"),
            Found::Text(text) => match proxy.restore(&text) {
                Ok(()) => return info!("state {path}: restored"),
                Err(error) => error.to_string(),
            },
            Found::Unreadable(wrong) => wrong,
        };
        self.set_aside(".bad", Some(wrong));
    }

    /// Whether the writer uses the file of `kept`.
    pub(crate) fn is_at(&self, kept: &Kept) -> bool {
        self.path == kept.path
    }

    fn set_aside(&self, suffix: &'static str, wrong: Option<String>) {
        // Room is reserved for one rename. If a second one finds no room, the first one is still
        // waiting and renames the same file.
        let _ = self.writer.queue.offer(Message::SetAside { suffix, wrong });
    }

    /// Queues the state for the writer if a save is due. Called at least once in a
    /// second with traffic.
    pub(crate) fn handle_turn(&mut self, now: Instant, proxy: &Proxy) {
        if now < self.next_save {
            return;
        }
        self.next_save = now + SAVE_INTERVAL;
        if self.writer.queue.len() > 0 {
            return warn!("state: previous save still running, skipped this one");
        }
        self.save(proxy);
    }

    /// Queues the state for the writer, if the policy learns.
    pub(crate) fn save(&self, proxy: &Proxy) {
        if let Some(line) = proxy.policy_state().and_then(|state| self.offer(state)) {
            warn!("state: {line}");
        }
    }

    /// Queues a state. Returns a log line if that fails. The end of the writer is logged once.
    fn offer(&self, state: PolicyState) -> Option<&'static str> {
        let queue = &self.writer.queue;
        if queue.len() >= STATES_MAX {
            return Some("earlier saves still running, skipped this one");
        }
        let has_ended = queue.offer(Message::Write(state)).is_err();
        let is_news = has_ended && !self.is_end_logged.replace(true);
        is_news.then_some("the writer thread ended, saving is disabled")
    }

    /// Stops saving. Queued states are still written; the returned value can wait for that.
    pub(crate) fn end(self) -> Ended {
        self.writer.ended
    }

    /// Saves the last state and waits for it, at most [`FINISH_TIME`] each to queue and to write
    /// it.
    pub(crate) fn finish(self, proxy: &Proxy) {
        let Worker { queue, ended } = self.writer;
        if let Some(state) = proxy.policy_state() {
            // A writer that is blocked for this long would not write the state anyway.
            let _ = queue.insist(Message::Write(state), FINISH_TIME);
        }
        drop(queue);
        if !ended.wait(FINISH_TIME) {
            warn!("state: the final save did not finish in time");
        }
    }
}

/// Returns the warning for a state file that is not used because the policy does not learn; `None`
/// if it is used.
///
/// Startup, `--check` and SIGHUP share this rule: it is a warning, not an error.
pub(crate) fn unused(config: &Config) -> Option<String> {
    let path = config.state_file.as_ref()?;
    let rules = config.routing.clone();
    let router = Router::new(RouterConfig { backends: Vec::new(), rules }, 0, Instant::ZERO);
    let learns = router.is_ok_and(|router| router.policy_state().is_some());
    (!learns).then(|| format!("state {path}: not used, as the policy learns nothing"))
}

/// Returns the error for a state file whose name belongs to a link, a pipe, a device or a folder.
/// `--check` and SIGHUP refuse it with the same text as startup does.
pub(crate) fn unusable(config: &Config) -> Option<String> {
    let path = config.state_file.as_ref()?;
    let wrong = disk::irregular(Path::new(path))?;
    unused(config).is_none().then(|| format!("state {path}: {wrong}"))
}

/// Writes states until the sender is dropped, or until a file cannot be moved aside.
fn write_all(file: &Path, messages: impl Iterator<Item = Message>) {
    let mut has_failed = false;
    for message in messages {
        let state = match message {
            Message::Write(state) => state,
            Message::SetAside { suffix, wrong } => {
                if !set_aside(file, suffix, wrong) {
                    return;
                }
                continue;
            }
        };
        let result = write(file, state.to_json().as_bytes());
        if let Some((level, line)) = outage_line(&mut has_failed, &result) {
            log!(level, "state {}: {line}", file.display());
        }
    }
}

/// Records the result of a write. Returns a log line when failures begin or end.
fn outage_line(has_failed: &mut bool, result: &io::Result<()>) -> Option<(Level, String)> {
    let had_failed = std::mem::replace(has_failed, result.is_err());
    match result {
        Err(_) if had_failed => None,
        Err(error) => {
            let error = os_error_text(error);
            Some((Level::Warn, format!("{error}; keeping the state in memory, retrying")))
        }
        Ok(()) => had_failed.then(|| (Level::Info, "written again".to_owned())),
    }
}

/// Renames the file if it exists. Returns whether the name is free now.
fn set_aside(file: &Path, suffix: &str, wrong: Option<String>) -> bool {
    let (path, beside) = (file.display(), disk::beside(file, suffix));
    let wrong = wrong.map_or_else(String::new, |wrong| format!("{wrong}; "));
    match fs::rename(file, &beside) {
        Ok(()) if wrong.is_empty() => info!("state {path}: kept as {}", beside.display()),
        Ok(()) => warn!("state {path}: {wrong}kept as {}, starting empty", beside.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            let error = os_error_text(&error);
            warn!("state {path}: {wrong}not used, as it cannot be moved aside: {error}");
            return false;
        }
    }
    true
}

/// Replaces the file's content by `bytes`, completely or not at all. The temporary file is always
/// new: an existing file or link of that name is removed first, and a link is never followed.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = disk::beside(path, ".new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = disk::create(&beside)?;
    file.write_all(bytes)?;
    // Before the rename: a crash must not leave the new name with missing bytes.
    file.sync_all()?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use intelliproxy_core::PolicyKind;

    use super::*;
    use crate::config::BackendTarget;
    use crate::folder::Folder;

    fn proxy(policy: PolicyKind) -> Proxy {
        let mut config = Config::default();
        config.routing.policy = policy;
        let target = |name: &str| BackendTarget {
            name: name.to_owned(),
            url: "http://127.0.0.1:9".to_owned(),
            authority: "127.0.0.1:9".to_owned(),
            tls: None,
            addresses: vec![SocketAddr::from(([127, 0, 0, 1], 9))],
        };
        Proxy::new(config, vec![target("A"), target("B")], 1, Instant::ZERO).expect("good defaults")
    }

    /// Starts a keeper for a proxy with this policy.
    fn start(path: &str, policy: PolicyKind) -> (Proxy, Result<Option<Keeper>, String>) {
        let mut proxy = proxy(policy);
        let mut config = Config { state_file: Some(path.to_owned()), ..Config::default() };
        config.routing.policy = policy;
        let keeper = Keeper::start(&config, &mut proxy, Instant::ZERO, false);
        (proxy, keeper)
    }

    /// The last save writes the state and leaves no temporary file. A link with the temporary
    /// file's name is not followed. A restart restores the state from the file.
    #[test]
    fn a_state_comes_back() {
        let folder = Folder::new("state-back");
        let path = folder.file("learned.json").display().to_string();
        let victim = folder.file("victim");
        fs::write(&victim, "precious").expect("written");
        std::os::unix::fs::symlink(&victim, format!("{path}.new")).expect("a link");
        let (first, keeper) = start(&path, PolicyKind::Learned);
        keeper.expect("no file yet").expect("it learns").finish(&first);
        let text = fs::read_to_string(&path).expect("written");
        assert_eq!(Some(PolicyState::from_json(&text).expect("a state")), first.policy_state());
        assert_eq!(fs::read_to_string(&victim).expect("still there"), "precious");
        assert_eq!(fs::read_dir(folder.root()).expect("the folder").count(), 2);
        // A restart restores what the file has, which differs from an empty state.
        let learned = text.replacen("\"completions\": 0,", "\"completions\": 7,", 1);
        assert_ne!(learned, text);
        fs::write(&path, &learned).expect("written");
        let (second, keeper) = start(&path, PolicyKind::Learned);
        keeper.expect("a good state").expect("it learns");
        assert_eq!(second.policy_state(), Some(PolicyState::from_json(&learned).expect("a state")));
    }

    /// The queue has room for the rename of an unusable file, however many saves wait.
    #[test]
    fn a_rename_always_has_room() {
        let folder = Folder::new("state-room");
        let path = folder.file("learned.json").display().to_string();
        let mut proxy = proxy(PolicyKind::Learned);
        let (gate, opened) = crossbeam_channel::bounded::<()>(0);
        let file = PathBuf::from(&path);
        let writer = Worker::start("state", STATES_MAX + RESERVED, move |messages| {
            // Blocked until the gate is dropped.
            let _ = opened.recv();
            write_all(&file, messages);
        });
        let writer = writer.expect("a thread");
        let (next_save, is_end_logged) = (Instant::ZERO, Cell::new(false));
        let keeper = Keeper { path: path.clone(), writer, next_save, is_end_logged };
        (0..5).for_each(|_| keeper.save(&proxy));
        let found = Found::Text("unusable".to_owned());
        keeper.restore(Kept { path: path.clone(), found }, &mut proxy);
        drop(gate);
        assert!(keeper.end().wait(Duration::from_secs(30)));
        assert!(Path::new(&format!("{path}.bad")).exists());
        assert!(!Path::new(&path).exists());
    }

    /// A disk that stays full is logged once, and so is the end of the writer, however many saves
    /// follow.
    #[test]
    fn outages_have_one_line() {
        let mut has_failed = false;
        let full = || Err(io::Error::from(ErrorKind::StorageFull));
        let results = [Ok(()), full(), full(), Ok(()), Ok(()), full()];
        let lines = results.map(|result| outage_line(&mut has_failed, &result));
        let levels = lines.map(|line| line.map(|(level, _)| level));
        let (warn, info) = (Some(Level::Warn), Some(Level::Info));
        assert_eq!(levels, [None, warn, None, info, None, warn]);
        let state = || proxy(PolicyKind::Learned).policy_state().expect("it learns");
        let writer = Worker::start("state", 1, drop).expect("a thread");
        assert!(writer.ended.wait(Duration::from_secs(30)));
        let (next_save, is_end_logged) = (Instant::ZERO, Cell::new(false));
        let keeper = Keeper { path: String::new(), writer, next_save, is_end_logged };
        let ended = Some("the writer thread ended, saving is disabled");
        assert_eq!([keeper.offer(state()), keeper.offer(state())], [ended, None]);
    }

    /// A file that is damaged, not text or of another policy is renamed, and the proxy starts
    /// empty.
    #[test]
    fn bad_states_are_kept_beside() {
        let folder = Folder::new("state-bad");
        let path = folder.file("learned.json").display().to_string();
        let foreign = proxy(PolicyKind::LinearRl).policy_state().expect("weights").to_json();
        let texts = [&b""[..], b"{\"version\":1}", foreign.as_bytes(), b"\xff"];
        for text in texts {
            fs::write(&path, text).expect("written");
            let (first, keeper) = start(&path, PolicyKind::Learned);
            keeper.expect("it starts").expect("it learns").finish(&first);
            assert_eq!(fs::read(format!("{path}.bad")).expect("kept"), text);
            let written = fs::read_to_string(&path).expect("written again");
            assert!(PolicyState::from_json(&written).is_ok(), "{written}");
        }
    }

    /// A policy that does not learn neither uses nor changes the file.
    #[test]
    fn files_of_policies_that_learn_nothing_are_left_alone() {
        let folder = Folder::new("state-unused");
        let path = folder.file("learned.json").display().to_string();
        fs::write(&path, "anything").expect("written");
        let (_, keeper) = start(&path, PolicyKind::Score);
        assert!(keeper.expect("it starts").is_none());
        assert_eq!(fs::read_to_string(&path).expect("still there"), "anything");
        let mut config = Config { state_file: Some("s".to_owned()), ..Config::default() };
        let line = "state s: not used, as the policy learns nothing";
        assert_eq!(unused(&config).as_deref(), Some(line));
        config.routing.policy = PolicyKind::LinearRl;
        assert_eq!(unused(&config), None);
        config.state_file = None;
        config.routing.policy = PolicyKind::Score;
        assert_eq!(unused(&config), None);
    }

    /// A pipe, a folder or a link as a state file is an error, which is reported without waiting.
    /// The link is kept.
    #[test]
    fn irregular_files_are_refused() {
        let folder = Folder::new("state-pipe");
        let (pipe, root) = (folder.pipe("pipe"), folder.root());
        let (link, target) = (folder.file("link"), folder.file("target"));
        std::os::unix::fs::symlink(&target, &link).expect("a link");
        fs::write(&target, proxy(PolicyKind::Learned).policy_state().expect("it learns").to_json())
            .expect("written");
        let irregular = "is not a regular file";
        let linked = "is a symbolic link, which is not followed";
        for (path, wrong) in [(&*pipe, irregular), (root, irregular), (&*link, linked)] {
            let path = path.display().to_string();
            let error = start(&path, PolicyKind::Learned).1.expect_err("no regular file");
            assert_eq!(error, format!("state {path}: {wrong}"));
            let mut config = Config { state_file: Some(path), ..Config::default() };
            assert_eq!(unusable(&config), None, "it is not used");
            config.routing.policy = PolicyKind::Learned;
            assert_eq!(unusable(&config), Some(error));
        }
        assert!(link.is_symlink());
    }
}
