//! The programs `sim` and `all` as processes: their output, their ends, and their leftovers.
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use intelliproxy_sim::{Backend, Config};

use crate::client::{Client, DEADLINE, wait_until};

/// A running program whose lines a test can wait for. Dropping it kills it.
struct Program {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Program {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process");
        let (sender, lines) = mpsc::channel();
        let stdout: Box<dyn Read + Send> = Box::new(child.stdout.take().expect("a pipe"));
        let stderr: Box<dyn Read + Send> = Box::new(child.stderr.take().expect("a pipe"));
        for pipe in [stdout, stderr] {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line that contains `what`.
    #[track_caller]
    fn wait_for(&mut self, what: &str) -> String {
        loop {
            match self.lines.recv_timeout(DEADLINE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(what) {
                        return line;
                    }
                }
                Err(error) => panic!("no line with {what:?} ({error}) among {:#?}", self.seen),
            }
        }
    }

    /// Waits for a line with an address, and returns its port.
    #[track_caller]
    fn wait_for_port(&mut self, before: &str) -> u16 {
        let line = self.wait_for(before);
        let (_, after) = line.split_once(before).expect("the line has it");
        let digits = after.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().expect("a port")
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([name, &pid]).status().expect("the kill program");
        assert!(status.success());
    }

    fn exit_code(&mut self) -> Option<i32> {
        // The lines end when the process and all other holders of its pipes have ended.
        while let Ok(line) = self.lines.recv_timeout(DEADLINE) {
            self.seen.push(line);
        }
        self.child.wait().expect("a status").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails if it has ended, as it should have.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn sim() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sim"))
}

fn all() -> Command {
    Command::new(env!("CARGO_BIN_EXE_all"))
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("a process")
}

fn is_refused(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
}

/// Starts the demonstration on free ports and waits for its introduction. Returns the ports of the
/// proxy, A and B.
fn start_all(variables: &[(&str, &str)]) -> (Program, [u16; 3]) {
    let mut command = all();
    command
        .args(["--listen", "127.0.0.1:0"])
        .env_clear()
        .envs([("A_PORT", "0"), ("B_PORT", "0"), ("ADMIN_PORT", "0")])
        .envs(variables.iter().copied());
    let mut program = Program::start(&mut command);
    let proxy = program.wait_for_port("[all]   proxy     http://127.0.0.1:");
    let a = program.wait_for_port("[all]   server A  http://localhost:");
    let b = program.wait_for_port("[all]   server B  http://localhost:");
    program.wait_for("Ctrl-C ends all three");
    (program, [proxy, a, b])
}

/// A signal ends `sim` cleanly, and its port is free again.
#[test]
fn sim_serves_until_a_signal() {
    for name in ["-TERM", "-INT"] {
        let mut program =
            Program::start(sim().env_clear().args(["B", "--port", "0", "--faults", "health"]));
        let port = program.wait_for_port("listening on http://127.0.0.1:");
        let body = Client::connect(port).get("/").body;
        assert_eq!(body, format!("Hello from backend on port {port}"));
        program.signal(name);
        assert_eq!(program.exit_code(), Some(0), "{:#?}", program.seen);
        assert!(is_refused(port));
    }
}

/// A bad option is one line with its name, and exit code 2. So is a bad variable.
#[test]
fn sim_refuses_bad_options() {
    let by_flag = output(sim().env_clear().args(["A", "--slow-rate", "2"]));
    assert_eq!(by_flag.status.code(), Some(2));
    let message = String::from_utf8_lossy(&by_flag.stderr).into_owned();
    assert_eq!(message, "sim: --slow-rate: must be a number from 0 to 1, not \"2\"\n");
    let by_variable = output(sim().env_clear().env("ERR_RATE", "x").arg("A"));
    assert_eq!(by_variable.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&by_variable.stderr).contains("ERR_RATE: must be "));
}

/// A taken port is one clear line, and exit code 1.
#[test]
fn sim_refuses_a_taken_port() {
    let backend = Backend::start(Config::faultless()).expect("a backend");
    let port = backend.port().to_string();
    let output = output(sim().env_clear().args(["--port", &port]));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        format!("sim: cannot listen on 127.0.0.1:{port}: the port is taken by another process\n")
    );
}

/// Help is printed on stdout, with exit code 0.
#[test]
fn help_is_printed() {
    for (mut command, word) in [(sim(), "OVERLOAD_DROP_MULTIPLIER"), (all(), "A_PORT")] {
        let output = output(command.env_clear().arg("--help"));
        assert_eq!(output.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&output.stdout).contains(word));
    }
}

/// `all` runs the three processes, passes requests through the proxy to a server, and ends them all
/// on a signal with exit code 0.
#[test]
fn all_serves_until_a_signal() {
    for name in ["-INT", "-TERM"] {
        let (mut program, ports) = start_all(&[("FAULTS", "health")]);
        let [proxy, a, b] = ports;
        let body = Client::connect(proxy).get("/").body;
        let hello = |port| format!("Hello from backend on port {port}");
        assert!(body == hello(a) || body == hello(b), "{body}");
        program.signal(name);
        assert_eq!(program.exit_code(), Some(0), "{:#?}", program.seen);
        assert!(ports.into_iter().all(is_refused));
        for label in ["[proxy] ", "[A]     ", "[B]     "] {
            assert!(program.seen.iter().any(|line| line.starts_with(label)), "{:#?}", program.seen);
        }
    }
}

/// A request in flight at the signal still gets its response: the proxy ends first and waits for
/// it, and the servers run until then.
#[test]
fn requests_in_flight_get_their_responses() {
    let (mut program, [proxy, ..]) = start_all(&[
        ("SIM_LOG", "debug"),
        ("SLOW_RATE", "1"),
        ("SLOW_MS", "400"),
        ("ERR_RATE", "0"),
        ("P_G_TO_B", "0"),
        ("LOSS_IN_G", "0"),
    ]);
    let mut client = Client::connect(proxy);
    client.send("GET / HTTP/1.1\r\nHost: b\r\n\r\n");
    program.wait_for("request gets 200 after ");
    program.signal("-TERM");
    assert_eq!(client.response().status, 200);
    assert_eq!(program.exit_code(), Some(0), "{:#?}", program.seen);
}

/// Even if `all` is killed, no process is left.
#[test]
fn nothing_outlives_a_killed_launcher() {
    let (mut program, ports) = start_all(&[]);
    program.child.kill().expect("it runs");
    wait_until("all ports are free", || ports.into_iter().all(is_refused));
}

/// If one of the three ends by itself, the others end, too. A line names it, with exit code 1.
#[test]
fn all_end_when_one_does() {
    let ports = [("A_PORT", "0"), ("B_PORT", "0"), ("ADMIN_PORT", "0")];
    let mut program = Program::start(all().arg("--no-such-option").env_clear().envs(ports));
    let a = program.wait_for_port("[A]     INFO  [sim] backend ");
    assert_eq!(program.exit_code(), Some(1), "{:#?}", program.seen);
    assert!(is_refused(a));
    let said = |what: &str| program.seen.iter().any(|line| line.contains(what));
    assert!(said("the proxy ended by itself (exit status: 2)"), "{:#?}", program.seen);
    assert!(said("--no-such-option"), "{:#?}", program.seen);
}

/// A bad variable is one line with its name, and exit code 2.
#[test]
fn all_refuses_bad_variables() {
    let output = output(all().env_clear().env("A_PORT", "x"));
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(message, "all: A_PORT: must be a port from 0 to 65535, not \"x\"\n");
}
