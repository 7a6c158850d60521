//! The program `all` as a process: its output, the ways in which it ends, and that it leaves no
//! process.
#[path = "../../tests/it/client.rs"]
#[expect(dead_code, reason = "the tests of `sim` use all of it")]
mod client;
#[path = "../../../tests/forwarding/port.rs"]
mod port;
#[path = "../../tests/it/program.rs"]
mod program;

use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use client::{Client, wait_until};
use port::free_port;
use program::Program;

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

/// With `--demo` requests pass through the proxy, each fault is announced in turn and ends, and
/// Ctrl-C ends all of it.
#[test]
fn a_demonstration_has_traffic_and_faults() {
    let mut command = all();
    // A server that is gone needs its port again.
    let [a, b] = [free_port(), free_port()].map(|port| port.to_string());
    command.args(["--listen", "127.0.0.1:0", "--demo", "--demo-period-ms=800"]).env_clear().envs([
        ("A_PORT", a.as_str()),
        ("B_PORT", &b),
        ("ADMIN_PORT", "0"),
    ]);
    let mut program = Program::start(&mut command);
    let proxy = program.wait_for_port("[all]   proxy     http://127.0.0.1:");
    program.wait_for("[all]   look      http://127.0.0.1:");
    program.wait_for("[all]             cargo all top http://127.0.0.1:");
    program.wait_for("[demo]  50 requests a second, and a fault every 0.8 s");
    for fault in ["slow", "errors", "silent", "gone", "slow"] {
        let line = program.wait_for(&format!("[demo]  fault {fault}: server "));
        let server = if line.contains("server A ") { "A" } else { "B" };
        program.wait_for(&format!("[demo]  server {server} is well again"));
        if fault == "gone" {
            program.wait_for(&format!("[{server}]     INFO  [sim] backend "));
        }
    }
    // The program's own requests are among those that the proxy has counted.
    let stats = Client::connect(proxy).get("/stats").body;
    let (counted, ended) = (stats.matches("\"totalRequests\":").count(), "\"totalRequests\":0,");
    assert_eq!(counted, 2, "{stats}");
    assert!(stats.matches(ended).count() < 2, "{stats}");
    program.signal("-INT");
    assert_eq!(program.exit_code(), Some(0), "{:#?}", program.seen);
}

/// If one of the three ends by itself, the others end as well. A line names it, with exit code 1.
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

/// A bad variable causes one line with its name, and exit code 2.
#[test]
fn all_refuses_bad_variables() {
    let output = output(all().env_clear().env("A_PORT", "x"));
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(message, "all: A_PORT: must be a port from 0 to 65535, not \"x\"\n");
}

/// Help is printed on stdout, with exit code 0.
#[test]
fn all_prints_help() {
    let output = output(all().env_clear().arg("--help"));
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("A_PORT"));
}

/// The proxy's commands for a running proxy work without another build.
#[test]
fn all_has_the_commands_for_a_running_proxy() {
    let (mut program, [proxy, ..]) = start_all(&[]);
    let output = output(all().env_clear().args(["stats", &format!("http://127.0.0.1:{proxy}")]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        table.starts_with("BACKEND") && table.contains("\nA ") && table.contains("\nB "),
        "{table}"
    );
    program.signal("-INT");
    assert_eq!(program.exit_code(), Some(0), "{:#?}", program.seen);
}
