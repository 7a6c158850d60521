//! The program under a service manager: its messages, and listeners that the manager has opened.
#![cfg(target_os = "linux")]
mod process;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Command, Stdio};
use std::time::Instant;

use process::{DEADLINE, Program};

const STATS: &str = "GET /stats HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

/// A service manager: the socket that gets the program's messages.
struct Manager {
    socket: UnixDatagram,
    name: String,
}

impl Manager {
    fn start(name: &str) -> Self {
        let name = format!("intelliproxy-{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a free name");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self { socket, name: format!("@{name}") }
    }

    /// The next message that is not a watchdog message.
    fn next(&self) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let message = self.next_of_any_kind();
            if message != "WATCHDOG=1" {
                return message;
            }
            assert!(Instant::now() < end, "only watchdog messages");
        }
    }

    fn next_of_any_kind(&self) -> String {
        let mut bytes = [0; 200];
        let count = self.socket.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..count].to_vec()).expect("text")
    }
}

/// Starts the program by a shell script; `$0` and `$@` are the program and its arguments.
fn start(script: &str, stdin: Stdio, variables: &[(&str, &str)], arguments: &[&str]) -> Program {
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_intelliproxy")]).args(arguments);
    command.envs(variables.iter().copied()).stdin(stdin).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("a process");
    let log = OwnedFd::from(child.stderr.take().expect("a pipe"));
    Program::started(child, File::from(log))
}

/// The messages from start to stop: ready, watchdog, a reload, an upgrade, the end. The new process
/// of an upgrade sends its own.
#[test]
fn the_manager_is_informed() {
    let manager = Manager::start("informed");
    // The socket holds ten messages. Further ones are lost until the test reads.
    let variables = [("NOTIFY_SOCKET", &*manager.name), ("WATCHDOG_USEC", "2000000")];
    let arguments = ["--listen", "127.0.0.1:0", "--backend", "A=http://127.0.0.1:9"];
    let mut program = start("exec \"$0\" \"$@\"", Stdio::null(), &variables, &arguments);
    assert_eq!(manager.next(), "READY=1");
    (0..3).for_each(|_| assert_eq!(manager.next_of_any_kind(), "WATCHDOG=1"));
    program.signal("-HUP");
    let reloading = manager.next();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(manager.next(), "READY=1");
    program.signal("-USR2");
    let line = program.line_with("upgraded: process ");
    let pid = line.split("process ").nth(1).and_then(|rest| rest.split(' ').next());
    let pid = pid.expect("a number").to_owned();
    let mut both = [manager.next(), manager.next()];
    both.sort();
    assert_eq!(both, [format!("MAINPID={pid}"), "READY=1".to_owned()]);
    assert_eq!(program.exit_code(), Some(0), "without a client it ends at once");
    assert_eq!(manager.next_of_any_kind(), "WATCHDOG=1", "from the new process");
    let status = Command::new("kill").arg(&pid).status().expect("the kill program");
    assert!(status.success());
    assert_eq!(manager.next(), "STOPPING=1");
}

/// A client that connects before the program runs is served. The listener has the address that the
/// configuration names, so it is not opened again.
#[test]
fn listeners_of_the_manager_are_used() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    let mut early = TcpStream::connect(&address).expect("a listener");
    early.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    early.write_all(STATS.as_bytes()).expect("sent");
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null";
    let arguments = ["--listen", &address, "--backend", "A=http://127.0.0.1:9"];
    let mut program = start(script, OwnedFd::from(listener).into(), &[], &arguments);
    let mut response = String::new();
    early.read_to_string(&mut response).expect("a response");
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    // The successor gets the listener from this process, not from the manager.
    program.signal("-USR2");
    let line = program.line_with("upgraded: process ");
    let pid = line.split("process ").nth(1).and_then(|rest| rest.split(' ').next());
    assert_eq!(program.exit_code(), Some(0));
    assert!(program.stats().starts_with("HTTP/1.1 200 OK\r\n"));
    let status = Command::new("kill").args(pid).status().expect("the kill program");
    assert!(status.success());
}

/// If a listener is not in the configuration, or a descriptor is not a socket, startup fails with
/// one line.
#[test]
fn other_descriptors_are_refused() {
    let script = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null";
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let null = File::open("/dev/null").expect("it is there");
    let rows: [(Stdio, String); 2] = [
        (
            OwnedFd::from(listener).into(),
            format!("LISTEN_FDS: {address} is neither in listen nor admin.listen"),
        ),
        (null.into(), "LISTEN_FDS, 0: fd 3 is not a socket".to_owned()),
    ];
    for (stdin, expected) in rows {
        let mut command = Command::new("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_intelliproxy"), "--listen", "127.0.0.1:0"]);
        command.args(["--backend", "A=http://127.0.0.1:9"]);
        let output = command.stdin(stdin).output().expect("a process");
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(
            (text.trim_end(), output.status.code()),
            (&*format!("intelliproxy: {expected}"), Some(1))
        );
    }
}

/// Descriptors without `LISTEN_PID`, or with the ID of another process, are ignored.
#[test]
fn descriptors_of_others_are_ignored() {
    for pid in ["", "LISTEN_PID= ", "LISTEN_PID=1 "] {
        let script =
            format!("unset LISTEN_PID; {pid}LISTEN_FDS=1 exec \"$0\" \"$@\" 3<&0 </dev/null");
        let null = File::open("/dev/null").expect("it is there");
        let arguments = ["--listen", "127.0.0.1:0", "--backend", "A=http://127.0.0.1:9"];
        let program = start(&script, null.into(), &[], &arguments);
        assert!(program.stats().starts_with("HTTP/1.1 200 OK\r\n"), "{pid}");
    }
}
