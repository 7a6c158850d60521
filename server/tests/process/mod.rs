//! Runs the program as a process, reads its log and connects to its port. Each test program uses a
//! part of this.
#![allow(dead_code, unused_imports)]
mod folder;
#[path = "../../../tests/forwarding/port.rs"]
mod port;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

pub(crate) use folder::{Folder, empty_backend, make_pipe};
pub(crate) use port::free_port;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// The longest wait of a test. Only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A running proxy and its log. Dropping it kills the process.
pub(crate) struct Program {
    child: Child,
    log: BufReader<File>,
    port: u16,
    /// The log lines until the program listens.
    first_lines: Vec<String>,
}

impl Program {
    /// Starts the program, and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_as(program(), arguments)
    }

    /// Starts the program with a limit on descriptors.
    pub(crate) fn start_with_descriptors(descriptors: usize, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")]);
        command.arg(env!("CARGO_BIN_EXE_intelliproxy"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self::start_as(command, arguments)
    }

    fn start_as(mut command: Command, arguments: &[&str]) -> Self {
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        Self::started_by(command)
    }

    /// Starts a command that runs the program, and waits until it listens.
    pub(crate) fn started_by(mut command: Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("a process");
        let log = File::from(OwnedFd::from(child.stderr.take().expect("a pipe")));
        Self::started(child, log)
    }

    /// Starts the program with `stderr` as its log, which is then read from `log`.
    pub(crate) fn start_logging_into(stderr: File, log: File, arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        let child = command.stderr(stderr).spawn().expect("a process");
        Self::started(child, log)
    }

    /// Waits until a process that was already started listens.
    pub(crate) fn started(child: Child, log: File) -> Self {
        let log = BufReader::new(log);
        let mut started = Self { child, log, port: 0, first_lines: Vec::new() };
        started.first_lines = started.lines_until("listening on http://127.0.0.1:");
        let line = started.first_lines.last();
        let port = line.and_then(|line| line.rsplit(':').next()?.parse().ok());
        started.port = port.expect("a port at the line's end");
        started
    }

    /// Switches to reading the log from another file.
    pub(crate) fn read_log(&mut self, log: File) {
        self.log = BufReader::new(log);
    }

    /// Sends a request on a new connection. Returns the complete response.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).expect("sent");
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).expect("a response and an end");
        String::from_utf8(bytes).expect("text")
    }

    /// Returns the response to `GET /stats`.
    pub(crate) fn stats(&self) -> String {
        self.ask("GET /stats HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    }

    /// Returns the next log line that contains `what`. Panics with the lines before it if there is
    /// none within [`DEADLINE`].
    #[track_caller]
    pub(crate) fn line_with(&mut self, what: &str) -> String {
        self.line_within(what, DEADLINE)
    }

    #[track_caller]
    pub(crate) fn line_within(&mut self, what: &str, span: Duration) -> String {
        self.lines_within(what, span).pop().expect("the line")
    }

    /// Returns the next log lines up to the first one that contains `what`.
    #[track_caller]
    pub(crate) fn lines_until(&mut self, what: &str) -> Vec<String> {
        self.lines_within(what, DEADLINE)
    }

    /// Returns the log lines from the start of the program until it listened.
    pub(crate) fn first_lines(&self) -> &[String] {
        &self.first_lines
    }

    #[track_caller]
    fn lines_within(&mut self, what: &str, span: Duration) -> Vec<String> {
        let end = Instant::now() + span;
        let mut all: Vec<String> = Vec::new();
        let mut line = Vec::new();
        loop {
            if self.log.buffer().is_empty() {
                let left = end.saturating_duration_since(Instant::now());
                let left = Timespec::try_from(left).expect("a short time");
                let mut log = [PollFd::new(self.log.get_ref(), PollFlags::IN)];
                let count = poll(&mut log, Some(&left)).expect("a log to poll");
                let before = all.join("\n");
                assert_ne!(count, 0, "the log has no {what:?} within {span:?}:\n{before}");
            }
            let came = self.log.fill_buf().expect("a log to read");
            let before = all.join("\n");
            assert!(!came.is_empty(), "the log ended without {what:?}:\n{before}");
            let line_end = came.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let count = line_end.unwrap_or(came.len());
            line.extend_from_slice(&came[..count]);
            self.log.consume(count);
            if line_end.is_none() {
                continue;
            }
            let text = str::from_utf8(&line).expect("a log of UTF-8").trim_end();
            all.push(text.to_owned());
            if text.contains(what) {
                return all;
            }
            line.clear();
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().expect("the kill program");
        assert!(status.success());
    }

    /// Returns the resident memory of the process, in KiB.
    #[cfg(target_os = "linux")]
    pub(crate) fn resident_kib(&self) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("a running process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let figure = line.and_then(|line| line.trim().strip_suffix(" kB"));
        figure.and_then(|text| text.parse().ok()).expect("a number of KiB")
    }

    /// Whether the process has a thread of this name.
    #[cfg(target_os = "linux")]
    pub(crate) fn has_thread(&self, name: &str) -> bool {
        let folder = format!("/proc/{}/task", self.child.id());
        let tasks = std::fs::read_dir(folder).expect("a running process");
        // A thread may end meanwhile.
        tasks.flatten().any(|task| {
            let found = std::fs::read_to_string(task.path().join("comm"));
            found.is_ok_and(|found| found.trim_end() == name)
        })
    }

    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("a status").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails if the process has already ended, which is the usual case.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_intelliproxy"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

pub(crate) fn output(arguments: &[&str]) -> Output {
    program().args(arguments).stdout(Stdio::piped()).output().expect("a process")
}
