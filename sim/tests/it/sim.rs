//! The program `sim` as a process: its output, and the ways in which it ends.
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};

use intelliproxy_sim::{Backend, Config};

use crate::client::Client;
use crate::program::Program;

fn sim() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sim"))
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().expect("a process")
}

fn is_refused(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
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

/// A bad option causes one line with its name, and exit code 2. So does a bad variable.
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

/// A taken port causes one clear line, and exit code 1.
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
fn sim_prints_help() {
    let output = output(sim().env_clear().arg("--help"));
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("OVERLOAD_DROP_MULTIPLIER"));
}
