//! The program as a process, its log and its port; each test program uses its part of this.
#![allow(dead_code)]
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::Duration;

/// Far longer than anything here takes; only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A running proxy and its log. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    log: BufReader<ChildStderr>,
    port: u16,
}

impl Program {
    /// Starts it, and waits until it listens.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_as(program(), arguments)
    }

    /// Starts it with so many descriptors at most.
    pub(crate) fn start_with_descriptors(descriptors: usize, arguments: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")]);
        command.arg(env!("CARGO_BIN_EXE_intelliproxy"));
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Self::start_as(command, arguments)
    }

    fn start_as(mut command: Command, arguments: &[&str]) -> Self {
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("a process");
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        let mut started = Self { child, log, port: 0 };
        let line = started.line_with("listening on http://127.0.0.1:");
        let port = line.rsplit(':').next().and_then(|text| text.parse().ok());
        started.port = port.expect("a port at the line's end");
        started
    }

    /// The next line of the log that contains `what`.
    #[track_caller]
    pub(crate) fn line_with(&mut self, what: &str) -> String {
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let count = self.log.read_line(&mut line).expect("a log of UTF-8");
            assert_ne!(count, 0, "the log ended without {what:?}:\n{all}");
            if line.contains(what) {
                return line.trim_end().to_owned();
            }
            all.push_str(&line);
        }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().expect("the kill program");
        assert!(status.success());
    }

    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().expect("a status").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails when it has ended, as it should have.
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
