//! TLS towards clients with OpenSSL's program as the client and as an authority: renegotiation, a
//! staple, the name in the hello, and resumption.
#![cfg(feature = "tls")]
mod process;
mod secured;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::Instant;

use process::{DEADLINE, Folder, output};
use secured::{LAST, Proxy, config, fixture, tls};

/// A running `openssl s_client`.
struct OpenSsl(std::process::Child);

impl OpenSsl {
    /// Connects with further arguments. With [`COMMANDS`] among them, some lines are commands.
    fn connect(proxy: &Proxy, ca: &str, arguments: &[&str]) -> Self {
        let address = format!("127.0.0.1:{}", proxy.ports[0]);
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &address, "-CAfile", ca, "-verify_return_error"]);
        if !arguments.contains(&COMMANDS) {
            // It then ends with the connection, not with its input.
            command.arg("-ign_eof");
        }
        command
            .args(arguments.iter().filter(|argument| **argument != COMMANDS))
            .stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().expect("the openssl program"))
    }

    fn send(&mut self, text: &str) {
        self.0.stdin.as_mut().expect("a pipe").write_all(text.as_bytes()).expect("sent");
    }

    /// Returns its output up to its end.
    fn output(self) -> String {
        let output = self.0.wait_with_output().expect("an end");
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }
}

/// Not an argument of the program.
const COMMANDS: &str = "commands";

fn openssl(folder: &Folder, arguments: &str) {
    let mut command = Command::new("openssl");
    command.args(arguments.split(' ')).current_dir(folder.path(""));
    let output = command.output().expect("the openssl program");
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {arguments}: {wrong}");
}

/// A client of TLS 1.2 that asks for a new handshake in its connection is refused, so that it
/// cannot cause as much work as many clients. Other clients are served.
#[test]
fn renegotiation_is_refused() {
    let proxy = Proxy::start("renegotiation", &[&tls(&["site"], "")], "");
    let arguments = ["-tls1_2", "-servername", "a.test"];
    let with_commands = [&arguments[..], &[COMMANDS]].concat();
    let mut client = OpenSsl::connect(&proxy, &fixture("ca.pem"), &with_commands);
    let mut output = BufReader::new(client.0.stdout.take().expect("a pipe"));
    let mut text = String::new();
    // A line with R alone begins a renegotiation once the client is connected.
    while !text.contains("Extended master secret") {
        assert_ne!(output.read_line(&mut text).expect("text"), 0, "{text}");
    }
    client.send("R\n");
    output.read_to_string(&mut text).expect("text");
    text += &client.output();
    assert!(text.contains("RENEGOTIATING") && text.contains("no renegotiation"), "{text}");
    let mut client = OpenSsl::connect(&proxy, &fixture("ca.pem"), &arguments);
    client.send(LAST);
    let text = client.output();
    assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
}

/// The OCSP response of an authority is stapled until it expires, and verifies as sent, in both
/// versions.
#[test]
fn a_staple_reaches_the_client() {
    let folder = Folder::new("tls-authority");
    fs::write(folder.path("names"), "subjectAltName=DNS:a.test\n").expect("a file");
    for arguments in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -subj /CN=Authority -days 30",
        "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout site.key -out site.csr -subj /CN=a.test",
        "x509 -req -in site.csr -CA ca.pem -CAkey ca.key -set_serial 4097 -days 30 -extfile names -out site.pem",
    ] {
        openssl(&folder, arguments);
    }
    // The authority's list has this certificate as valid until 2049.
    let list = "V\t491231235959Z\t\t1001\tunknown\t/CN=a.test\n";
    fs::write(folder.path("index.txt"), list).expect("a file");
    for arguments in [
        "ocsp -issuer ca.pem -cert site.pem -no_nonce -reqout request.der",
        "ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey ca.key -reqin request.der -ndays 7 -respout staple.der",
        "ocsp -respin staple.der -issuer ca.pem -cert site.pem -CAfile ca.pem -no_nonce",
    ] {
        openssl(&folder, arguments);
    }
    let (chain, key, ocsp) =
        (folder.path("site.pem"), folder.path("site.key"), folder.path("staple.der"));
    let tls = format!(
        r#"{{"certificates": [{{"chain": "{chain}", "key": "{key}", "ocsp": "{ocsp}"}}]}}"#
    );
    let mut proxy = Proxy::start("staple", &[&tls], "");
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = [version, "-servername", "a.test", "-status"];
        let mut client = OpenSsl::connect(&proxy, &folder.path("ca.pem"), &arguments);
        client.send(LAST);
        let text = client.output();
        assert!(text.contains("OCSP Response Status: successful (0x0)"), "{text}");
        assert!(text.contains("Cert Status: good"), "{text}");
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
    }
    let other = [fixture("other.pem"), fixture("other.key")];
    let other = format!(
        r#"{{"certificates": [{{"chain": "{}", "key": "{}", "ocsp": "{ocsp}"}}]}}"#,
        other[0], other[1]
    );
    let file = folder.path("other.json");
    fs::write(&file, config("http://127.0.0.1:1", &[&other], "")).expect("a file");
    let checked = output(&["--check", "--config", &file]);
    let wrong = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(wrong.contains("staple.der is for another certificate"), "{wrong}");
    // The proxy does not verify a response, so another year makes it one that has expired.
    let mut late = fs::read(&ocsp).expect("a file");
    let next_update = [0xa0, 17, 0x18, 15];
    let at = late.windows(4).rposition(|bytes| bytes == next_update).expect("a next update");
    late[at + 4..][..4].copy_from_slice(b"2020");
    fs::write(&ocsp, late).expect("a file");
    let begun = Instant::now();
    loop {
        let arguments = ["-servername", "a.test", "-status"];
        let mut client = OpenSsl::connect(&proxy, &folder.path("ca.pem"), &arguments);
        client.send(LAST);
        let text = client.output();
        assert!(text.contains("HTTP/1.1 200 OK"), "{text}");
        if text.contains("OCSP response: no response sent") {
            break;
        }
        assert!(begun.elapsed() < DEADLINE, "it is still stapled: {text}");
    }
    proxy.program.line_with("/staple.der: the OCSP response expired at ");
}

/// A name that ends in a dot, which rustls does not send, finds its certificate.
#[test]
fn a_final_dot_is_ignored() {
    let proxy = Proxy::start("dot", &[&tls(&["site", "other"], "")], "");
    for name in ["b.test", "b.test.", "B.Test."] {
        let mut client = OpenSsl::connect(&proxy, &fixture("ca.pem"), &["-servername", name]);
        client.send(LAST);
        let text = client.output();
        assert!(text.contains("subject=CN = b.test"), "{name}: {text}");
    }
}

/// OpenSSL resumes its sessions, in both versions.
#[test]
fn sessions_are_resumed() {
    let proxy = Proxy::start("resumed", &[&tls(&["site"], "")], "");
    let folder = Folder::new("tls-sessions");
    for version in ["-tls1_2", "-tls1_3"] {
        let session = folder.path(version);
        for (option, kind) in [("-sess_out", "New, "), ("-sess_in", "Reused, ")] {
            let arguments = [version, "-servername", "a.test", option, &session];
            let mut client = OpenSsl::connect(&proxy, &fixture("ca.pem"), &arguments);
            client.send(LAST);
            let text = client.output();
            assert!(text.contains("HTTP/1.1 200 OK") && text.contains(kind), "{version}: {text}");
        }
    }
}
