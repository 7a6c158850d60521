//! Limits for each client on real sockets: 127.0.0.1 and 127.0.0.2 are two clients of the program.
mod process;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use process::{DEADLINE, Program, empty_backend};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// A connection from a loopback address.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(program: &Program, from: [u8; 4]) -> Self {
        let own = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&own, &SocketAddr::from((from, 0))).expect("a loopback address");
        let address = SocketAddr::from(([127, 0, 0, 1], program.port()));
        connect(&own, &address).expect("a listener");
        let stream = TcpStream::from(own);
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        Self(BufReader::new(stream))
    }

    fn ask(&mut self) -> u16 {
        self.0.get_mut().write_all(GET.as_bytes()).expect("sent");
        self.read().0
    }

    /// Reads a response: its status, and its fields.
    fn read(&mut self) -> (u16, String) {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let begin = head.len();
            self.0.read_line(&mut head).expect("a line");
            let line = head[begin..].trim_end();
            if let Some(text) = line.strip_prefix("Content-Length: ") {
                length = text.parse().expect("a number");
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body");
        (head[9..12].parse().expect("a status"), head)
    }

    fn is_over(&mut self) -> bool {
        self.0.fill_buf().is_ok_and(|rest| rest.is_empty())
    }
}

/// Each of two clients has its own limit of two connections and its own rate. The log and /stats
/// report what was refused. A reload removes the limits.
#[test]
fn clients_have_their_own_limits() {
    let name = format!("intelliproxy-per-client-{}.json", std::process::id());
    let file = std::env::temp_dir().join(name);
    let text = |limits: &str| {
        let url = empty_backend();
        format!(
            "{{\"backends\": [{{\"name\": \"A\", \"url\": \"{url}\"}}], \"limits\": {{{limits}}}}}"
        )
    };
    fs::write(&file, text("\"clientConnections\": 2, \"clientRequestsPerSecond\": 5"))
        .expect("a file");
    let path = file.to_str().expect("a path of UTF-8");
    let mut program = Program::start(&["--config", path]);
    let (one, other) = ([127, 0, 0, 1], [127, 0, 0, 2]);
    let mut first = Client::connect(&program, one);
    // Far more requests than the rate allows, even if sending them takes long.
    let statuses: Vec<u16> = (0..200).map(|_| first.ask()).collect();
    assert_eq!(statuses[..5], [204; 5]);
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(
        refused > 0 && statuses.iter().all(|status| [204, 429].contains(status)),
        "{statuses:?}"
    );
    let mut neighbour = Client::connect(&program, other);
    assert_eq!(neighbour.ask(), 204);
    let _second = Client::connect(&program, one);
    let mut third = Client::connect(&program, one);
    let (status, head) = third.read();
    assert_eq!((status, third.is_over()), (429, true));
    assert!(head.contains("\r\nRetry-After: 1\r\n"), "{head}");
    program.line_with("429: limits.clientRequestsPerSecond reached");
    program.line_with("429: limits.clientConnections reached");
    drop(third);
    let mut reader = Client::connect(&program, other);
    reader.0.get_mut().write_all(b"GET /stats HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    let field = format!("X-IntelliProxy-Limited: requests={refused}, connections=1\r\n");
    let (status, head) = reader.read();
    assert!(status == 200 && head.contains(&field), "{head}");
    fs::write(&file, text("")).expect("a file");
    program.signal("-HUP");
    program.line_with("configuration: ");
    assert!((0..50).all(|_| first.ask() == 204));
    let mut more: Vec<Client> = (0..5).map(|_| Client::connect(&program, one)).collect();
    assert!(more.iter_mut().all(|client| client.ask() == 204));
    drop(fs::remove_file(&file));
}
