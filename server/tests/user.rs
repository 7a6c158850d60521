//! `--user`: root opens the listeners, another user serves.
#![cfg(target_os = "linux")]
mod process;

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use process::{Program, output, program};

/// A user and a group without rights. They need no entry in /etc/passwd.
const PLAIN: &str = "65534:65534";
const BACKEND: [&str; 2] = ["--backend", "A=http://127.0.0.1:9"];

/// The value of a line in a status file of /proc, with single spaces.
fn value(text: &str, name: &str) -> String {
    let row = text.lines().find_map(|line| line.strip_prefix(name)).expect("a line of /proc");
    row.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_root() -> bool {
    let text = fs::read_to_string("/proc/self/status").expect("the status of this process");
    value(&text, "Uid:").starts_with("0 ")
}

/// A free port that only root may open. Each process begins its search at another port.
fn low_port() -> u16 {
    // A listener would live on for a moment in a child that another test starts.
    let is_free = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_err();
    let first = std::process::id();
    let mut ports = (0..400).map(|step| 600 + ((first + step) % 400) as u16);
    ports.find(is_free).expect("a free port below 1024")
}

/// Started by root, the program listens on a low port. All its threads have the user's rights, no
/// other groups and no capabilities. It serves and stops as usual. If the user could not write the
/// state file, startup fails. Without root the flag is refused.
#[test]
fn root_is_given_up_after_the_listeners_are_open() {
    if !is_root() {
        let output =
            output(&[&["--listen", "127.0.0.1:0", "--user", PLAIN][..], &BACKEND].concat());
        let text = String::from_utf8(output.stderr).expect("text");
        assert!(text.starts_with("intelliproxy: cannot become user 65534: "), "{text}");
        assert_eq!(output.status.code(), Some(1));
        return;
    }
    let listen = format!("127.0.0.1:{}", low_port());
    let mut command = program();
    command.args(["--listen", &listen, "--user", PLAIN]).args(BACKEND);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("a process");
    let pid = child.id();
    let log = OwnedFd::from(child.stderr.take().expect("a pipe"));
    let mut program = Program::started(child, File::from(log));
    let mut threads = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("its threads") {
        let status = task.expect("a thread").path().join("status");
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(status) else { continue };
        let plain = "65534 65534 65534 65534";
        assert_eq!((value(&text, "Uid:"), value(&text, "Gid:")), (plain.into(), plain.into()));
        assert_eq!(value(&text, "Groups:"), "");
        assert_eq!(value(&text, "CapEff:").trim_start_matches('0'), "");
        assert_eq!(value(&text, "CapPrm:").trim_start_matches('0'), "");
        threads += 1;
    }
    assert!(threads >= 2, "it has a thread for the log");
    assert!(program.stats().starts_with("HTTP/1.1 200 OK\r\n"));
    program.signal("-TERM");
    assert_eq!(program.exit_code(), Some(0));

    let folder = std::env::temp_dir().join(format!("intelliproxy-user-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).expect("a folder of root");
    let state = folder.join("state.json");
    let state = state.to_str().expect("UTF-8");
    let flags = ["--listen", "127.0.0.1:0", "--user", PLAIN, "--policy", "learned"];
    let output = output(&[&flags[..], &["--state", state], &BACKEND].concat());
    let text = String::from_utf8(output.stderr).expect("text");
    let wrong = "user 65534 cannot write into its folder: permission denied";
    assert_eq!(text.trim_end(), format!("intelliproxy: state {state}: {wrong}"));
    assert_eq!(output.status.code(), Some(1));
    fs::remove_dir_all(folder).expect("the folder goes");
}

/// An unknown user, and root itself, are refused before anything is opened.
#[test]
fn unknown_users_are_refused() {
    for (user, wrong) in [
        ("no-such-user", "no such user in /etc/passwd"),
        ("4294967294", "no such user in /etc/passwd, so a group is needed: UID:GROUP"),
        ("65534:no-such-group", "no group no-such-group in /etc/group"),
        ("root", "must not be root"),
    ] {
        let output = output(&[&["--listen", "127.0.0.1:0", "--user", user][..], &BACKEND].concat());
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(text.trim_end(), format!("intelliproxy: --user {user}: {wrong}"));
        assert_eq!(output.status.code(), Some(1));
    }
}
