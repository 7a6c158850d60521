//! The program as a process, its log and its port; each test program uses its part of this.
#![allow(dead_code)]
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Far longer than anything here takes; only a failing test waits this long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A running proxy and its log. Dropping it kills it.
pub(crate) struct Program {
    child: Child,
    log: BufReader<Box<dyn Read>>,
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
        let log: Box<dyn Read> = Box::new(child.stderr.take().expect("a pipe"));
        Self::started(child, log)
    }

    /// Starts it with `stderr` as its log, which is then read from `log`.
    pub(crate) fn start_logging_into(stderr: File, log: File, arguments: &[&str]) -> Self {
        let mut command = program();
        command.args(["--listen", "127.0.0.1:0"]).args(arguments);
        let child = command.stderr(stderr).spawn().expect("a process");
        Self::started(child, Box::new(log))
    }

    fn started(child: Child, log: Box<dyn Read>) -> Self {
        let mut started = Self { child, log: BufReader::new(log), port: 0 };
        let line = started.line_with("listening on http://127.0.0.1:");
        let port = line.rsplit(':').next().and_then(|text| text.parse().ok());
        started.port = port.expect("a port at the line's end");
        started
    }

    /// Reads its log from elsewhere from now on.
    pub(crate) fn read_log(&mut self, log: Box<dyn Read>) {
        self.log = BufReader::new(log);
    }

    /// Sends a request on a connection of its own; returns the whole response.
    pub(crate) fn ask(&self, request: &str) -> String {
        let mut client = self.connect();
        client.write_all(request.as_bytes()).expect("sent");
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).expect("a response and an end");
        String::from_utf8(bytes).expect("text")
    }

    /// The response to `GET /stats`.
    pub(crate) fn stats(&self) -> String {
        self.ask("GET /stats HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
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
