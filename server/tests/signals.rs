//! Signals that are sent by mistake or too early.
mod process;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use process::{Folder, Program, program};

/// SIGALRM, SIGSTKFLT, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO and SIGPWR by their numbers on x86 and
/// ARM, then real-time signals.
#[cfg(target_os = "linux")]
const WITHOUT_EFFECT: [&str; 11] =
    ["14", "16", "25", "26", "27", "29", "30", "35", "40", "50", "64"];
/// SIGALRM, SIGIO, SIGXFSZ, SIGVTALRM and SIGPROF.
#[cfg(not(target_os = "linux"))]
const WITHOUT_EFFECT: [&str; 5] = ["14", "23", "25", "26", "27"];

fn send(signal: &str, process: u32) {
    let (signal, process) = (format!("-{signal}"), process.to_string());
    let status = Command::new("kill").args([&signal, &process]).status().expect("the kill program");
    assert!(status.success(), "kill {signal}");
}

/// A signal without a meaning to the program is logged, and the program continues to serve.
#[test]
fn signals_without_meaning_have_no_effect() {
    let mut program = Program::start(&["--backend", "A=http://127.0.0.1:1"]);
    for signal in WITHOUT_EFFECT {
        program.signal(&format!("-{signal}"));
        program.line_with(": no effect");
    }
    assert!(program.stats().starts_with("HTTP/1.1 200 "));
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}

/// A starting program, and the pipe from which it reads its configuration. It waits until the pipe
/// is closed.
fn starting(folder: &Folder) -> (Child, File) {
    folder.pipe("proxy.json");
    let path = folder.path("proxy.json");
    let mut command = program();
    command.args(["--listen", "127.0.0.1:0", "--config", &path]).stderr(Stdio::piped());
    let child = command.spawn().expect("a process");
    // Returns once the program reads it.
    let pipe = File::options().write(true).open(&path).expect("a reader");
    (child, pipe)
}

/// Before the program serves, only signals that request its end stop it. A SIGHUP in that time
/// causes a reload afterwards.
#[test]
fn early_signals_do_not_end_the_program() {
    let folder = Folder::new("signals-early");
    let (mut child, mut pipe) = starting(&folder);
    for signal in ["USR1", "USR2", "HUP"].into_iter().chain(WITHOUT_EFFECT) {
        send(signal, child.id());
    }
    pipe.write_all(br#"{"backends": [{"name": "A", "url": "http://127.0.0.1:1"}]}"#).expect("room");
    drop(pipe);
    let log = OwnedFd::from(child.stderr.take().expect("a pipe"));
    let mut program = Program::started(child, File::from(log));
    program.line_with("reading /");
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}

/// SIGTERM and SIGINT end a program whose start hangs.
#[test]
fn an_end_is_possible_during_the_start() {
    for signal in ["TERM", "INT"] {
        let folder = Folder::new("signals-end");
        let (mut child, pipe) = starting(&folder);
        send(signal, child.id());
        assert!(!child.wait().expect("a status").success());
        drop(pipe);
    }
}

/// A log at the limit of file sizes (`ulimit -f`) fails like one on a full disk: the program
/// continues.
#[test]
fn a_limit_of_file_sizes_does_not_end_the_program() {
    let folder = Folder::new("signals-size");
    let path = folder.path("access");
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -f 1; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_intelliproxy")]);
    command.args(["--listen=127.0.0.1:0", "--backend=A=http://127.0.0.1:1", "--access-log", &path]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut program = Program::started_by(command);
    for _ in 0..20 {
        assert!(program.stats().starts_with("HTTP/1.1 200 "));
    }
    program.line_with(": file too large: lines wait, and are dropped beyond the queue");
    assert!(program.stats().starts_with("HTTP/1.1 200 "));
    assert!(fs::metadata(&path).expect("a file").len() <= 1024);
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));
}
