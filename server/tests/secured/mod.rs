//! A proxy with TLS listeners, its backend, and clients with rustls. Each test program uses a part
//! of this.
#![allow(dead_code)]

use std::fs;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
};

use crate::process::{DEADLINE, Folder, Program, program};

pub(crate) const GET: &str = "GET /path HTTP/1.1\r\nHost: a.test\r\n\r\n";
pub(crate) const LAST: &str = "GET /path HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";

/// Returns the path of a certificate or key made for tests.
pub(crate) fn fixture(name: &str) -> String {
    format!("{}/src/tls/testing/{name}", env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn certificate(name: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(fixture(name)).expect("a certificate")
}

/// Starts a backend that responds with the head of each request, after it has read the body.
pub(crate) fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || while respond(&stream).is_ok() {});
        }
    });
    url
}

fn respond(mut stream: &TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let line = head.lines().last().unwrap_or_default().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let sum: u64 = body.iter().map(|byte| u64::from(*byte)).sum();
    let text = format!("{head}sum {sum}\n{}", "y".repeat(length));
    stream.write_all(
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len()).as_bytes(),
    )?;
    stream.write_all(text.as_bytes())
}

/// A running proxy with a plain listener and some with TLS.
pub(crate) struct Proxy {
    pub(crate) program: Program,
    /// The ports of the listeners with TLS, in their order.
    pub(crate) ports: Vec<u16>,
    pub(crate) folder: Folder,
}

impl Proxy {
    /// Starts a proxy with these values of `tls`, and other settings.
    pub(crate) fn start(name: &str, tls: &[&str], settings: &str) -> Self {
        Self::start_with(&echo(), name, tls, settings)
    }

    /// Starts a proxy with a backend at this URL.
    pub(crate) fn start_with(url: &str, name: &str, tls: &[&str], settings: &str) -> Self {
        let folder = Folder::new(&format!("tls-{name}"));
        let file = folder.path("proxy.json");
        fs::write(&file, config(url, tls, settings)).expect("a file");
        let mut command = program();
        command.args(["--config", &file]);
        let mut program = Program::started_by(command);
        let ports = tls.iter().map(|_| {
            let line = program.line_with("listening on https://127.0.0.1:");
            line.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
        });
        let ports = ports.collect();
        Self { program, ports, folder }
    }

    pub(crate) fn connect(
        &self,
        config: &Arc<ClientConfig>,
        name: &'static str,
    ) -> io::Result<Client> {
        Client::connect(self.ports[0], config, name)
    }

    pub(crate) fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.ports[0])).expect("a listener");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream
    }
}

pub(crate) fn config(url: &str, tls: &[&str], settings: &str) -> String {
    let secured = tls.iter().map(|tls| format!(r#", {{"address": "127.0.0.1:0", "tls": {tls}}}"#));
    let secured: String = secured.collect();
    format!(
        r#"{{"listen": ["127.0.0.1:0"{secured}], "backends": [{{"name": "A", "url": "{url}"}}]{settings}}}"#
    )
}

/// The value of `tls` with these certificates, and other keys.
pub(crate) fn tls(names: &[&str], keys: &str) -> String {
    let of = |name: &&str| {
        let (chain, key) = (fixture(&format!("{name}.pem")), fixture(&format!("{name}.key")));
        format!(r#"{{"chain": "{chain}", "key": "{key}"}}"#)
    };
    let all: Vec<String> = names.iter().map(of).collect();
    format!(r#"{{"certificates": [{}]{keys}}}"#, all.join(", "))
}

/// A client with one connection.
pub(crate) struct Client(pub(crate) StreamOwned<ClientConnection, TcpStream>);

impl Client {
    pub(crate) fn connect(
        port: u16,
        config: &Arc<ClientConfig>,
        name: &'static str,
    ) -> io::Result<Self> {
        let name = name.try_into().expect("a name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("a configuration");
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        let mut client = Self(StreamOwned::new(tls, stream));
        while client.0.conn.is_handshaking() {
            client.0.conn.complete_io(&mut client.0.sock)?;
        }
        Ok(client)
    }

    pub(crate) fn send(&mut self, request: &str) {
        self.0.write_all(request.as_bytes()).and_then(|()| self.0.flush()).expect("sent");
    }

    /// Reads up to the end of the connection, which close_notify must announce.
    pub(crate) fn rest(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.0.read_to_string(&mut text).map(|_| text)
    }

    /// Sends a request, and reads the response with its body of a known length.
    pub(crate) fn ask(&mut self, request: &str) -> String {
        self.send(request);
        let mut text = Vec::new();
        let mut byte = [0];
        while !text.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).expect("a response");
            text.extend(byte);
        }
        let head = String::from_utf8(text).expect("text");
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        let mut body = vec![0; length.and_then(|length| length.parse().ok()).expect("a length")];
        self.0.read_exact(&mut body).expect("a body");
        head + str::from_utf8(&body).expect("text")
    }
}

pub(crate) fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).expect("a root");
    roots
}

pub(crate) fn client(versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
    let builder = builder.with_protocol_versions(versions).expect("versions");
    let mut config = builder.with_root_certificates(roots()).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Arc::new(config)
}

pub(crate) fn client_with_certificate() -> Arc<ClientConfig> {
    let key = PrivateKeyDer::from_pem_file(fixture("client.key")).expect("a key");
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into());
    let builder = builder.with_protocol_versions(&[&TLS13, &TLS12]).expect("versions");
    let builder = builder.with_root_certificates(roots());
    let config = builder.with_client_auth_cert(vec![certificate("client.pem")], key);
    Arc::new(config.expect("a certificate and its key"))
}
