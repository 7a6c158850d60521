//! One of the three processes, with the threads that read its log.
use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{self, ExitStatus, Stdio};
use std::sync::mpsc::SyncSender;
use std::thread::{self, JoinHandle};

use crate::ROLE_FLAG;

/// One of the three processes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Proxy,
    A,
    B,
}

impl Role {
    /// Returns the name on the command line and before each log line.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::A => "A",
            Self::B => "B",
        }
    }

    /// Returns the name for a sentence.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Proxy => "the proxy",
            Self::A => "server A",
            Self::B => "server B",
        }
    }
}

/// An event for the launcher.
#[derive(Debug)]
pub(crate) enum Event {
    /// A child logged a line.
    Line { role: Role, text: String },
    /// A signal requests the end.
    Signal,
}

/// A child process. Dropping it kills a process that still runs.
pub(crate) struct Child {
    pub(crate) role: Role,
    process: process::Child,
    readers: Vec<JoinHandle<()>>,
    status: Option<ExitStatus>,
}

impl Child {
    /// Starts this executable in a role. Its log lines go to `events`.
    pub(crate) fn spawn(
        role: Role,
        arguments: &[OsString],
        events: &SyncSender<Event>,
    ) -> io::Result<Self> {
        let mut process = process::Command::new(env::current_exe()?)
            .arg(ROLE_FLAG)
            .arg(role.label())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let mut child = Self { role, process, readers: Vec::new(), status: None };
        if let Some(stdout) = stdout {
            child.readers.push(read_lines(role, stdout, events.clone())?);
        }
        if let Some(stderr) = stderr {
            child.readers.push(read_lines(role, stderr, events.clone())?);
        }
        Ok(child)
    }

    /// Sends a line to the child. A child that is ending ignores it.
    pub(crate) fn order(&mut self, line: &str) {
        if let Some(stdin) = &mut self.process.stdin {
            drop(stdin.write_all(line.as_bytes()));
        }
    }

    /// Requests an orderly end of the child. Repeated calls are harmless.
    pub(crate) fn end(&mut self) {
        drop(self.process.stdin.take());
    }

    /// Kills the child.
    pub(crate) fn kill(&mut self) {
        // Fails only for a child that has ended already.
        drop(self.process.kill());
    }

    /// Returns its status once it has ended and all its log lines are among the events.
    pub(crate) fn status(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.process.try_wait()?;
        }
        let is_read = self.readers.iter().all(JoinHandle::is_finished);
        Ok(self.status.filter(|_| is_read))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill();
            drop(self.process.wait());
        }
    }
}

fn read_lines(
    role: Role,
    pipe: impl Read + Send + 'static,
    events: SyncSender<Event>,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        loop {
            line.clear();
            match pipe.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    if events.send(Event::Line { role, text }).is_err() {
                        return;
                    }
                }
            }
        }
    })
}

/// The longest line that is shown in one piece, bytes.
const LINE_BYTES_MAX: u64 = 8 * 1024;
