//! TLS towards clients over real sockets, with rustls as the client: versions, certificates by
//! name, client certificates, resumption, ends of connections, handshake limits, and changed files.
#![cfg(feature = "tls")]
mod process;
mod secured;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use process::{DEADLINE, Folder, Program, output, program};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConnection, HandshakeKind, StreamOwned};
use secured::{
    Client, GET, LAST, Proxy, certificate, client, client_with_certificate, config, echo, fixture,
    tls,
};

/// Requests and responses with and without bodies pass in both versions, several on a connection.
/// Backends see that they came over TLS, and every response has the HSTS field.
#[test]
fn requests_pass_in_both_versions() {
    let proxy = Proxy::start("versions", &[&tls(&["site"], r#", "hsts": "max-age=9""#)], "");
    for version in [&TLS12, &TLS13] {
        let mut client = proxy.connect(&client(&[version]), "a.test").expect("a handshake");
        assert_eq!(client.0.conn.protocol_version(), Some(version.version));
        assert_eq!(client.0.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
        let response = client.ask(GET);
        assert!(response.contains("\r\nX-Forwarded-Proto: https\r\n"), "{response}");
        assert!(response.contains("\r\nStrict-Transport-Security: max-age=9\r\n"), "{response}");
        for length in [1, 16_384, 1_000_000] {
            let head =
                format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n");
            let response = client.ask(&(head + &"x".repeat(length)));
            assert!(response.contains(&format!("sum {}\n", length * usize::from(b'x'))));
            assert!(response.ends_with(&"y".repeat(length)));
        }
        client.send("GET /stats HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
        let response = client.rest().expect("close_notify");
        assert!(response.contains("\r\nStrict-Transport-Security: max-age=9\r\n"), "{response}");
        let mut client = proxy.connect(&self::client(&[version]), "a.test").expect("a handshake");
        client.send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n");
        let response = client.rest().expect("close_notify");
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
        assert!(response.contains("\r\nStrict-Transport-Security: max-age=9\r\n"), "{response}");
    }
    // The plain listener works as before.
    let response = proxy.program.ask(LAST);
    assert!(response.contains("\r\nX-Forwarded-Proto: http\r\n"), "{response}");
    assert!(!response.contains("Strict-Transport-Security"), "{response}");
}

/// A client gets the certificate of the host that it requests, otherwise the first one. A listener
/// may refuse TLS 1.2.
#[test]
fn certificates_follow_the_name() {
    let both = tls(&["site", "other"], "");
    let new = tls(&["other"], r#", "minVersion": "1.3""#);
    let proxy = Proxy::start("names", &[&both, &new], "");
    let all = client(&[&TLS13, &TLS12]);
    for (name, file) in [
        ("a.test", "site.pem"),
        ("x.wild.test", "site.pem"),
        ("b.test", "other.pem"),
        ("B.TEST", "other.pem"),
    ] {
        let client = proxy.connect(&all, name).expect("a handshake");
        let shown = client.0.conn.peer_certificates().and_then(<[_]>::first);
        assert_eq!(shown, Some(&certificate(file)), "{name}");
    }
    for name in ["c.test", "x.y.wild.test", "wild.test"] {
        // The client gets the first certificate, which is not for that name.
        let error = proxy.connect(&all, name).err().expect("another name");
        assert!(error.to_string().contains("not valid for name"), "{error}");
    }
    assert!(Client::connect(proxy.ports[1], &client(&[&TLS13]), "b.test").is_ok());
    let error = Client::connect(proxy.ports[1], &client(&[&TLS12]), "b.test").err();
    let error = error.expect("an old version").to_string();
    assert!(error.contains("ProtocolVersion"), "{error}");
}

/// A client without a certificate is refused if one is required. The identity in a certificate is
/// passed in fields that clients cannot set on any listener.
#[test]
fn clients_show_certificates() {
    let fields = r#""subjectField": "X-Subject", "fingerprintField": "X-Fingerprint""#;
    let auth = |more: &str| {
        let ca = fixture("ca.pem");
        tls(&["site"], &format!(r#", "clientAuth": {{"ca": "{ca}", {fields}{more}}}"#))
    };
    let proxy = Proxy::start("auth", &[&auth(""), &auth(r#", "optional": true"#)], "");
    let forged = "GET / HTTP/1.1\r\nHost: a.test\r\nx-subject: CN=root\r\nX_Fingerprint: 1\r\n\r\n";
    for (index, port) in proxy.ports.iter().enumerate() {
        let mut known =
            Client::connect(*port, &client_with_certificate(), "a.test").expect("known");
        let response = known.ask(forged);
        let subject = r"X-Subject: CN=Zo\C3\AB,OU=R\+D,O=Widgets\, Inc.,C=DE";
        assert!(response.contains(&format!("\r\n{subject}\r\n")), "{response}");
        let digest = ::ring::digest::digest(&::ring::digest::SHA256, &certificate("client.pem"));
        let digest: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(response.contains(&format!("\r\nX-Fingerprint: {digest}\r\n")), "{response}");
        assert!(!response.contains("CN=root") && !response.contains("X_F"), "{response}");
        let unknown = Client::connect(*port, &client(&[&TLS13]), "a.test");
        let result = unknown.and_then(|mut client| {
            client.send(&LAST.replacen("\r\n", "\r\nX-Subject: CN=root\r\n", 1));
            client.rest()
        });
        match (index, result) {
            (0, Err(error)) => assert!(error.to_string().contains("Certificate"), "{error}"),
            (1, Ok(response)) => assert!(!response.contains("X-Subject"), "{response}"),
            (_, result) => panic!("{result:?}"),
        }
    }
    let response = proxy.program.ask(&LAST.replacen("\r\n", "\r\nX-Subject: CN=root\r\n", 1));
    assert!(!response.contains("X-Subject"), "{response}");
}

/// A client cannot pass the fields of an identity in the trailer section of a body either.
#[test]
fn identities_are_not_taken_from_trailers() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", backend.local_addr().expect("bound"));
    let auth = format!(
        r#", "clientAuth": {{"ca": "{}", "optional": true, "subjectField": "X-Subject"}}"#,
        fixture("ca.pem")
    );
    let settings =
        r#", "routing": {"probes": {"pingIntervalMs": 60000, "reportIntervalMs": 60000}}"#;
    let proxy = Proxy::start_with(&url, "trailers", &[&tls(&["site"], &auth)], settings);
    let (sender, texts) = crossbeam_channel::unbounded();
    thread::spawn(move || {
        for stream in backend.incoming().map_while(Result::ok) {
            let (mut text, mut line) = (String::new(), String::new());
            let mut reader = BufReader::new(&stream);
            let mut empty_lines = 0;
            // The head of a POST ends in an empty line, and so does its trailer section.
            while empty_lines < 1 + usize::from(text.starts_with("POST")) {
                line.clear();
                if reader.read_line(&mut line).is_ok_and(|count| count == 0) {
                    break;
                }
                text.push_str(&line);
                empty_lines += usize::from(line == "\r\n");
            }
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}");
            let _ = sender.send(text);
        }
    });
    let request = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\
        Connection: close\r\n\r\n1\r\nx\r\n0\r\nX-Subject: CN=root\r\nx_subject: CN=root\r\n\
        X-Other: kept\r\n\r\n";
    let mut client = proxy.connect(&client(&[&TLS13]), "a.test").expect("a handshake");
    client.send(request);
    assert!(client.rest().expect("an end").starts_with("HTTP/1.1 200 "));
    assert!(proxy.program.ask(request).starts_with("HTTP/1.1 200 "));
    let texts = texts.iter().filter(|text: &String| text.starts_with("POST")).take(2);
    for text in texts {
        assert!(text.ends_with("0\r\nX-Other: kept\r\n\r\n"), "{text}");
    }
}

/// A session is resumed in both versions, also in the process after an upgrade.
#[test]
fn sessions_are_resumed_across_an_upgrade() {
    let mut proxy = Proxy::start("tickets", &[&tls(&["site"], "")], "");
    let configs = [client(&[&TLS12]), client(&[&TLS13])];
    let kind = |proxy: &Proxy, config| {
        let mut client = proxy.connect(config, "a.test").expect("a handshake");
        // Tickets of TLS 1.3 come with the response.
        assert!(client.ask(GET).starts_with("HTTP/1.1 200 "));
        client.0.conn.handshake_kind()
    };
    for config in &configs {
        assert_eq!(kind(&proxy, config), Some(HandshakeKind::Full));
        assert_eq!(kind(&proxy, config), Some(HandshakeKind::Resumed));
    }
    proxy.program.signal("-USR2");
    let line = proxy.program.line_with("upgraded: process ");
    let pid = line.split("process ").nth(1).and_then(|rest| rest.split(' ').next());
    let pid = pid.expect("a number").to_owned();
    let kinds = configs.each_ref().map(|config| kind(&proxy, config));
    let status = std::process::Command::new("kill").args(["-KILL", &pid]).status();
    assert!(status.expect("the kill program").success());
    assert_eq!(kinds, [Some(HandshakeKind::Resumed); 2]);
}

/// A client that ends its side with close_notify still gets its response. If the connection ends
/// without it, as if cut by an attacker, the request is abandoned.
#[test]
fn a_cut_is_not_an_end() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    let folder = Folder::new("tls-ends");
    let file = folder.path("proxy.json");
    let settings = r#", "forwarding": {"halfClose": true},
        "routing": {"probes": {"pingIntervalMs": 60000, "reportIntervalMs": 60000}}"#;
    fs::write(&file, config(&url, &[&tls(&["site"], "")], settings)).expect("a file");
    let mut command = program();
    command.args(["--config", &file]);
    let mut program = Program::started_by(command);
    let line = program.line_with("listening on https://127.0.0.1:");
    let port = line.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    // Passes on the connections that carry the test's requests.
    let (sender, requests) = crossbeam_channel::unbounded();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let sender = sender.clone();
            thread::spawn(move || {
                let mut line = String::new();
                let mut reader = BufReader::new(&stream);
                let _ = reader.read_line(&mut line);
                if line.starts_with("GET /path ") {
                    drop(reader);
                    let _ = sender.send(stream);
                } else {
                    let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
                }
            });
        }
    });
    for version in [&TLS12, &TLS13] {
        for is_cut in [false, true] {
            let mut client =
                Client::connect(port, &client(&[version]), "a.test").expect("a handshake");
            client.send(LAST);
            let mut backend = requests.recv_timeout(DEADLINE).expect("a request");
            if is_cut {
                client.0.sock.shutdown(Shutdown::Write).expect("a connection");
                // The proxy closes the connection to the backend.
                backend.set_read_timeout(Some(DEADLINE)).expect("a timeout");
                let mut rest = Vec::new();
                assert!(backend.read_to_end(&mut rest).is_ok_and(|count| count < 1000));
                assert!(client.rest().is_err(), "no response");
            } else {
                client.0.conn.send_close_notify();
                client.0.flush().expect("sent");
                client.0.sock.shutdown(Shutdown::Write).expect("a connection");
                let response = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate";
                backend.write_all(response).expect("a proxy that waits");
                assert!(client.rest().expect("close_notify").ends_with("\r\n\r\nlate"));
            }
        }
    }
}

/// Clients that are silent or do not speak TLS are closed. Meanwhile other clients are served. The
/// closed clients get no HTTP bytes.
#[test]
fn handshakes_are_bounded() {
    let settings = r#", "timeouts": {"handshakeMs": 5000}, "limits": {"handshakes": 2}"#;
    let mut proxy = Proxy::start("bounds", &[&tls(&["site"], "")], settings);
    let begun = Instant::now();
    let mut silent = [proxy.raw(), proxy.raw()];
    // It is accepted once a silent client has taken a second.
    let mut client = proxy.connect(&client(&[&TLS13]), "a.test").expect("a handshake");
    assert!(client.ask(GET).starts_with("HTTP/1.1 200 "));
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let mut rest = Vec::new();
    assert_eq!(silent[0].read_to_end(&mut rest).expect("an end"), 0);
    assert_eq!(silent[1].read_to_end(&mut rest).expect("an end"), 0);
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    let mut plain = proxy.raw();
    plain.write_all(LAST.as_bytes()).expect("sent");
    plain.read_to_end(&mut rest).expect("an alert and an end");
    assert_eq!(rest.first(), Some(&21), "an alert: {rest:?}");
    for wrong in [
        "closed for another client, see limits.handshakes",
        "incomplete after timeouts.handshakeMs",
        "received corrupt message of type InvalidContentType",
    ] {
        proxy.program.line_with(&format!(": TLS handshake failed: {wrong}"));
    }
    assert!(client.ask(GET).starts_with("HTTP/1.1 200 "), "it is still connected");
}

/// A PROXY protocol header precedes the handshake, split into any pieces. Backends see the client
/// that it names. A trusted hop without a header is refused.
#[test]
fn a_proxy_header_comes_before_the_handshake() {
    let folder = Folder::new("tls-header");
    let file = folder.path("proxy.json");
    let keys = r#""proxyProtocol": true"#;
    let listen = format!(r#"{{"address": "127.0.0.1:0", {keys}, "tls": {}}}"#, tls(&["site"], ""));
    let text = format!(
        r#"{{"listen": ["127.0.0.1:0", {listen}], "forwarding": {{"trusted": ["127.0.0.1"]}},
            "backends": [{{"name": "A", "url": "{}"}}]}}"#,
        echo()
    );
    fs::write(&file, text).expect("a file");
    let mut command = program();
    command.args(["--config", &file]);
    let mut program = Program::started_by(command);
    let line = program.line_with("listening on https://127.0.0.1:");
    let port: u16 = line.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    let header = b"PROXY TCP4 192.0.2.7 192.0.2.8 1234 443\r\n";
    for split in [1, 20, header.len()] {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_nodelay(true).expect("an option");
        stream.write_all(&header[..split]).expect("sent");
        stream.write_all(&header[split..]).expect("sent");
        let name = "a.test".try_into().expect("a name");
        let tls = ClientConnection::new(client(&[&TLS13]), name).expect("a configuration");
        let response = Client(StreamOwned::new(tls, stream)).ask(GET);
        assert!(response.contains("\r\nX-Forwarded-For: 192.0.2.7\r\n"), "{response}");
        assert!(response.contains("\r\nX-Forwarded-Proto: https\r\n"), "{response}");
    }
    assert!(Client::connect(port, &client(&[&TLS13]), "a.test").is_err(), "no header");
    program.line_with("client 127.0.0.1:");
}

/// Changed files are used without a signal once they match. Invalid files change nothing, with or
/// without a SIGHUP. Connections stay open.
#[test]
fn changed_files_are_used() {
    let files = Folder::new("tls-files");
    let (chain, key) = (files.path("chain.pem"), files.path("key.pem"));
    let copy = |name: &str, to: &str| {
        // The file is replaced atomically, as programs that renew certificates do.
        fs::copy(fixture(name), files.path("new")).expect("a copy");
        fs::rename(files.path("new"), to).expect("a place");
    };
    copy("site.pem", &chain);
    copy("site.key", &key);
    let certificate = format!(r#"{{"certificates": [{{"chain": "{chain}", "key": "{key}"}}]}}"#);
    let mut proxy = Proxy::start("changes", &[&certificate], "");
    let mut kept = proxy.connect(&client(&[&TLS13]), "a.test").expect("a handshake");
    copy("other.pem", &chain);
    proxy.program.line_with("is not the key of the certificate: keeping");
    assert!(proxy.connect(&client(&[&TLS13]), "a.test").is_ok());
    copy("other.key", &key);
    proxy.program.line_with("listen[1].tls: certificates changed, using the new ones");
    assert!(proxy.connect(&client(&[&TLS13]), "b.test").is_ok());
    // Read at a signal before the watch finds them.
    copy("site.key", &key);
    proxy.program.line_with("is not the key of the certificate: keeping");
    copy("site.pem", &chain);
    proxy.program.signal("-HUP");
    proxy.program.line_with("listen[1].tls: certificates changed, using the new ones");
    assert!(proxy.connect(&client(&[&TLS13]), "a.test").is_ok());
    copy("expired.pem", &chain);
    copy("expired.key", &key);
    proxy.program.line_with("expired at 2021-01-01T00:00:00Z: keeping");
    proxy.program.signal("-HUP");
    let line = proxy.program.line_with("configuration not applied");
    let file = proxy.folder.path("proxy.json");
    let place = format!("{file}:1:90: listen[1].tls.certificates[0].chain: must be a PEM file");
    assert!(line.contains(&place), "{line}");
    assert!(proxy.connect(&client(&[&TLS13]), "a.test").is_ok());
    assert!(kept.ask(GET).starts_with("HTTP/1.1 200 "));
}

/// A redirecting listener redirects every request to the same place under HTTPS.
#[test]
fn plain_requests_are_redirected() {
    let folder = Folder::new("tls-redirect");
    let file = folder.path("proxy.json");
    for (port, shown) in [(443, ""), (8443, ":8443")] {
        let listen = format!(r#"{{"address": "127.0.0.1:0", "redirectToHttps": {port}}}"#);
        fs::write(&file, format!(r#"{{"listen": [{listen}], "backends": []}}"#)).expect("a file");
        let mut command = program();
        command.args(["--config", &file]);
        let program = Program::started_by(command);
        let rows = [
            ("GET /a?b=c HTTP/1.1\r\nHost: a.test\r\n", "a.test", "/a?b=c"),
            ("GET / HTTP/1.1\r\nHost: a.test:8080\r\n", "a.test", "/"),
            ("GET /stats HTTP/1.1\r\nHost: [::1]:80\r\n", "[::1]", "/stats"),
            ("OPTIONS * HTTP/1.1\r\nHost: a.test\r\n", "a.test", "/"),
            ("GET http://b.test?c HTTP/1.1\r\nHost: a.test\r\n", "b.test", "/?c"),
            ("POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n", "a.test", "/p"),
        ];
        for (head, host, path) in rows {
            let response = program.ask(&format!("{head}Connection: close\r\n\r\n"));
            assert!(response.starts_with("HTTP/1.1 308 "), "{head}: {response}");
            let location = format!("\r\nLocation: https://{host}{shown}{path}\r\n");
            assert!(response.contains(&location), "{head}: {response}");
        }
        let response = program.ask("GET / HTTP/1.0\r\n\r\n");
        assert!(response.starts_with("HTTP/1.1 400 "), "{response}");
    }
}

/// For each value with an invalid file, `--check` names the place, the file and the fault.
#[test]
fn checks_name_file_and_fault() {
    let folder = Folder::new("tls-check");
    let file = folder.path("proxy.json");
    let (site, expired) = (fixture("site.pem"), fixture("expired.pem"));
    let pair = |chain: &str, key: &str| {
        format!("{{\"certificates\": [\n{{\"chain\": \"{chain}\",\n\"key\": \"{key}\"}}]}}")
    };
    let rows = [
        (pair("/missing.pem", "x"), "chain", "/missing.pem cannot be read: no such file"),
        (pair(&expired, &fixture("expired.key")), "chain", "expired at 2021-01-01T00:00:00Z"),
        (pair(&site, &fixture("other.key")), "key", "is not the key of the certificate"),
        (pair(&site, &site), "key", "has no private key in PEM"),
        (pair(&fixture("site.key"), &fixture("site.key")), "chain", "has no certificate in PEM"),
    ];
    for (tls, key, wrong) in rows {
        fs::write(&file, config("http://127.0.0.1:1", &[&tls], "")).expect("a file");
        let output = output(&["--check", "--offline", "--config", &file]);
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(&format!("listen[1].tls.certificates[0].{key}: must be ")), "{text}");
        let line = if key == "chain" { 2 } else { 3 };
        assert!(text.starts_with(&format!("intelliproxy: {file}:{line}:")), "{text}");
        assert!(text.contains(wrong), "{text}");
    }
    let good = pair(&site, &fixture("site.key"));
    fs::write(&file, config("http://127.0.0.1:1", &[&good], "")).expect("a file");
    assert!(output(&["--check", "--offline", "--config", &file]).status.success());
}
