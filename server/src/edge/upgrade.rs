//! SIGUSR2: starts the program again while it serves. The new process gets the listeners, and takes
//! over when it is ready. SIGUSR2 arrives in `reactor/signal.rs` and `reactor/succession.rs`.
//! `handover.rs` has the protocol between both processes.
//!
//! A separate thread starts the process and waits for it, so the reactor serves meanwhile. If the
//! new process ends or is not ready in time, it is killed, and the current one continues as before.
//! If the current process is to stop, the new one is killed first, because it also has the
//! listeners.
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;
use std::{env, io, process, thread};

use crossbeam_channel::{Receiver, Sender, TryRecvError, never, select};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use super::handover::{Handover, Taken};
use crate::plain::os_error_text;

/// The variable that marks the process of an upgrade: its stdin is the socket of the handover.
const VARIABLE: &str = "INTELLIPROXY_UPGRADE";
/// Variables that are only for this process and are not passed on.
const OF_THIS_PROCESS: [&str; 5] =
    ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "WATCHDOG_PID"];
/// The longest wait of a new process for a message of its predecessor.
const TAKE_TIME: Duration = Duration::from_secs(30);
/// The time limit between the end of a process's socket and its own end. Meanwhile it prints its
/// error, which takes about a millisecond.
const END_TIME: Duration = Duration::from_secs(1);
/// The longest wait for a killed process. It ends at once unless a system call blocks it.
const KILL_TIME: Duration = Duration::from_secs(1);

/// The command by which this process was started.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    path: PathBuf,
    args: Vec<OsString>,
}

impl Program {
    /// Finds the program by `argv[0]`, the name by which it was called. The path is determined now,
    /// before the file may be replaced. A symbolic link in it is followed at each start.
    pub(crate) fn new(name: Option<&OsStr>, args: Vec<OsString>) -> io::Result<Self> {
        let called = name.and_then(|name| find(Path::new(name)));
        let path = called.map_or_else(env::current_exe, Ok)?;
        Ok(Self { path, args })
    }
}

/// Returns the absolute path of a command: as given if it has a slash, otherwise by PATH.
fn find(name: &Path) -> Option<PathBuf> {
    let folder = env::current_dir().ok()?;
    let is_path = name.components().nth(1).is_some() || name.is_absolute();
    let candidates: Vec<PathBuf> = if is_path {
        vec![folder.join(name)]
    } else {
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|place| folder.join(place).join(name)).collect()
    };
    // Removes the dot of `./name`, for the log.
    let plain = |path: PathBuf| path.components().collect();
    candidates.into_iter().find(|path| path.is_file()).map(plain)
}

/// Starts new processes, one at a time.
#[derive(Debug)]
pub(crate) struct Upgrader {
    program: Program,
    running: Option<Running>,
    /// Whether this process is stopping and may not have a successor.
    is_cancelled: bool,
}

/// A start whose result has not been taken.
#[derive(Debug)]
struct Running {
    /// This side of the handover.
    socket: UnixStream,
    /// Dropped to give it up.
    hold: Option<Sender<()>>,
    result: Receiver<Result<u32, String>>,
}

impl Upgrader {
    pub(crate) const fn new(program: Program) -> Self {
        Self { program, running: None, is_cancelled: false }
    }

    /// Starts a new process that must be ready within `time`. `wake` is called when the result can
    /// be [taken](Self::take). Returns the path of the program.
    ///
    /// # Errors
    /// One line: an earlier start has not ended, this is process 1, or no thread can be started.
    pub(crate) fn start(
        &mut self,
        handover: Handover,
        time: Duration,
        wake: impl FnOnce() + Send + 'static,
    ) -> Result<String, String> {
        if self.running.is_some() {
            return Err("an upgrade is in progress".to_owned());
        }
        if process::id() == 1 {
            return Err("process 1 ends its container when it ends".to_owned());
        }
        let path = self.program.path.display().to_string();
        let cannot = |error: io::Error| format!("cannot start {path}: {}", os_error_text(&error));
        let (own, other) = UnixStream::pair().map_err(cannot)?;
        let socket = own.try_clone().map_err(cannot)?;
        let (hold, given_up) = crossbeam_channel::bounded(0);
        let (sender, result) = crossbeam_channel::bounded(1);
        let program = self.program.clone();
        let work = move || {
            // When the proxy has ended, the result has no reader.
            let times = (time, END_TIME);
            let _ = sender.send(upgrade(&program, handover, (own, other), times, &given_up));
            wake();
        };
        let fail = |error: io::Error| format!("cannot start a thread: {}", os_error_text(&error));
        thread::Builder::new().name("upgrade".to_owned()).spawn(work).map_err(fail)?;
        self.running = Some(Running { socket, hold: Some(hold), result });
        Ok(path)
    }

    /// From now on no new process may take over. One that is starting is killed; the result can be
    /// taken when it has ended.
    pub(crate) fn cancel(&mut self) {
        self.is_cancelled = true;
        if let Some(running) = &mut self.running {
            running.hold = None;
            // The thread notices it at once. Fails if the other side has ended.
            let _ = running.socket.shutdown(Shutdown::Both);
        }
    }

    /// Whether starting a process was abandoned because this one stops.
    pub(crate) const fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }

    /// Whether a result is outstanding.
    pub(crate) const fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Returns the id of the new process that serves now, or the reason of the failure. `None`
    /// before either is known.
    pub(crate) fn take(&mut self) -> Option<Result<u32, String>> {
        let result = self.running.as_ref()?.result.try_recv().ok()?;
        self.running = None;
        Some(result)
    }

    /// Gives up a process that is starting, and waits for its end, because this process is ending.
    pub(crate) fn finish(mut self) {
        self.cancel();
        if let Some(running) = self.running {
            // A process that the system does not end within this time is left behind.
            let _ = running.result.recv_timeout(KILL_TIME * 2);
        }
    }
}

/// Starts the program and hands over, by a pair of sockets. Returns the id of the new process. The
/// times are those until it is ready, and from the end of its socket to its own end. The upgrade is
/// abandoned when the sender of `given_up` is dropped and the socket is shut down.
fn upgrade(
    program: &Program,
    handover: Handover,
    (own, other): (UnixStream, UnixStream),
    (time, end_time): (Duration, Duration),
    given_up: &Receiver<()>,
) -> Result<u32, String> {
    let path = program.path.display();
    let cannot = |error: io::Error| format!("cannot start {path}: {}", os_error_text(&error));
    let mut child = start(program, other).map_err(cannot)?;
    let id = child.id();
    let is_given_up = || matches!(given_up.try_recv(), Err(TryRecvError::Disconnected));
    let Err(wrong) = handover.pass_on(own, time, || !is_given_up()) else { return Ok(id) };
    let what = match wrong.kind() {
        _ if is_given_up() => "this process stops".to_owned(),
        // A process that has closed its socket is ending. Its exit status is the reason.
        ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => {
            wait_for(&child, end_time, given_up);
            match end(&mut child) {
                Ok(status) => return Err(format!("process {id} ended: {status}")),
                Err(error) => os_error_text(&error),
            }
        }
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("not ready within {} ms (timeouts.upgradeMs)", time.as_millis())
        }
        _ => os_error_text(&wrong),
    };
    let _ = end(&mut child);
    Err(format!("process {id}: {what}"))
}

/// Waits until the process has ended, for `time` at most, or until it is abandoned.
fn wait_for(child: &Child, time: Duration, given_up: &Receiver<()>) {
    let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
    let (sender, ended) = crossbeam_channel::bounded(1);
    // The process is not reaped here, so that its number is not reused. If the wait exceeds `time`,
    // it ends when the process is killed.
    let work = move || {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        let _ = retry_on_intr(|| waitid(WaitId::Pid(pid), options));
        let _ = sender.send(());
    };
    if thread::Builder::new().name("upgrade-end".to_owned()).spawn(work).is_ok() {
        select! {
            recv(ended) -> _ => {}
            recv(given_up) -> _ => {}
            default(time) => {}
        }
    }
}

fn start(program: &Program, stdin: UnixStream) -> io::Result<Child> {
    let mut command = Command::new(&program.path);
    command.args(&program.args).env(VARIABLE, "1").stdin(OwnedFd::from(stdin));
    OF_THIS_PROCESS.iter().for_each(|variable| {
        command.env_remove(variable);
    });
    command.spawn()
    // `command` is dropped here, with its copy of the socket, so that the other end is closed when
    // the process ends.
}

fn end(child: &mut Child) -> io::Result<process::ExitStatus> {
    // Fails if the process has ended.
    let _ = child.kill();
    wait_for(child, KILL_TIME, &never());
    child.try_wait()?.ok_or_else(|| io::Error::other("killed, but it has not ended"))
}

/// Takes over from the process that started this one; `None` if this is not an upgrade.
///
/// # Errors
/// One line: stdin is not the socket of a handover, or the handover fails.
pub(crate) fn take_over() -> Result<Option<Taken>, String> {
    if env::var_os(VARIABLE).is_none() {
        return Ok(None);
    }
    let fail = |error: io::Error| format!("{VARIABLE} is set: {}", os_error_text(&error));
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
    let nothing = std::fs::File::open("/dev/null").map_err(fail)?;
    rustix::stdio::dup2_stdin(&nothing).map_err(|error| fail(error.into()))?;
    Handover::take(UnixStream::from(socket), TAKE_TIME).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(script: &str) -> Program {
        let args = ["-c", script].map(OsString::from).to_vec();
        Program::new(Some(OsStr::new("sh")), args).expect("a shell")
    }

    /// A command is found by PATH, or as given. For an unknown one the path is this program's file.
    #[test]
    fn the_program_is_found() {
        let own = env::current_exe().expect("this test");
        let path =
            |name: &str| Program::new(Some(OsStr::new(name)), Vec::new()).expect("a path").path;
        assert!(path("sh").is_absolute() && path("sh").ends_with("sh"));
        assert_eq!(path("no-such-command"), own);
        assert_eq!(path("./no-such-command"), own);
        assert_eq!(path(own.to_str().expect("UTF-8")), own);
        assert_eq!(Program::new(None, Vec::new()).expect("a path").path, own);
    }

    /// A process that ends, stays silent or sends an unknown reply is abandoned, with the reason. A
    /// file that cannot be run is named.
    #[test]
    fn failures_are_named() {
        let short = Duration::from_millis(50);
        let long = Duration::from_secs(30);
        let rows = [
            ("exit 3", (long, long), " ended: exit status: 3"),
            ("exec cat >/dev/null", (short, long), ": not ready within 50 ms (timeouts.upgradeMs)"),
            ("echo no >&0; exec cat >/dev/null", (long, long), ": an unknown reply"),
            // The socket ends long before the process.
            (
                "exec 0<&-; n=0; while [ $n -lt 9999 ]; do n=$((n+1)); done; exit 3",
                (long, long),
                " ended: exit status: 3",
            ),
            ("exec 0<&-; kill -STOP $$", (long, short), " ended: signal: 9 (SIGKILL)"),
        ];
        let (_hold, given_up) = crossbeam_channel::bounded(0);
        let pair = || UnixStream::pair().expect("sockets");
        for (script, times, expected) in rows {
            let handover = Handover::default();
            let error = upgrade(&program(script), handover, pair(), times, &given_up);
            let error = error.expect_err(script);
            assert!(
                error.starts_with("process ") && error.ends_with(expected),
                "{script}: {error}"
            );
        }
        let missing = Program { path: "/no/such/file".into(), args: Vec::new() };
        let error = upgrade(&missing, Handover::default(), pair(), (long, long), &given_up);
        let error = error.expect_err("no file");
        assert_eq!(error, "cannot start /no/such/file: no such file or directory");
    }

    /// Only one start is in progress at a time; its result is taken once.
    #[test]
    fn one_start_at_a_time() {
        let mut upgrader = Upgrader::new(program("echo r >&0; exec cat >/dev/null"));
        let (woken, wakes) = crossbeam_channel::bounded(1);
        let long = Duration::from_secs(30);
        let wake = move || woken.send(()).expect("a test that waits");
        upgrader.start(Handover::default(), long, wake).expect("a thread");
        let error = upgrader.start(Handover::default(), long, || ()).expect_err("one is enough");
        assert_eq!(error, "an upgrade is in progress");
        wakes.recv_timeout(long).expect("it is ready");
        assert!(upgrader.take().expect("a result").is_ok());
        assert!(upgrader.take().is_none());
    }
}
