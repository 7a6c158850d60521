//! A process with few descriptors, full of clients.
mod process;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use process::{DEADLINE, Folder, Program};

/// Starts a backend that responds to every request with an empty 200. Returns the flag with its
/// address.
fn start_backend() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let flag = format!("--backend=A=http://{}", listener.local_addr().expect("bound"));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = String::new();
                while stream.read_line(&mut line).is_ok_and(|count| count > 0) {
                    if line == "\r\n" {
                        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        drop(stream.get_mut().write_all(response));
                    }
                    line.clear();
                }
            });
        }
    });
    flag
}

/// With 64 descriptors and 100 clients, all admitted clients are served: each has a descriptor for
/// its upstream. The log reports how many are admitted.
#[test]
fn clients_leave_descriptors_for_their_upstreams() {
    let flag = start_backend();
    let mut program = Program::start_with_descriptors(64, &[&flag]);
    let line = program.line_with("limits.clients is 10000");
    assert!(line.contains(" INFO "), "the default is not a warning: {line}");
    let words = line.split(' ').skip_while(|word| *word != "for");
    let admitted: usize = words.skip(1).find_map(|word| word.parse().ok()).expect("a number");
    assert!((10..32).contains(&admitted), "{line}");
    let mut clients: Vec<TcpStream> = (0..100).map(|_| program.connect()).collect();
    for client in &mut clients[..admitted] {
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("sent");
    }
    for client in &mut clients[..admitted] {
        let mut status = [0; 17];
        client.read_exact(&mut status).expect("a response");
        assert_eq!(&status, b"HTTP/1.1 200 OK\r\n");
    }
}

/// A configured limit above the number of descriptors is logged as a warning.
#[test]
fn a_chosen_limit_that_does_not_fit_is_a_warning() {
    let flags = ["--backend", "A=http://127.0.0.1:1", "--clients", "9000"];
    let mut program = Program::start_with_descriptors(64, &flags);
    let line = program.line_with("limits.clients is 9000");
    assert!(line.contains(" WARN "), "{line}");
}

/// The descriptors of the control socket are reserved at once, so the limit is reported once.
#[test]
fn a_limit_is_reported_once() {
    let folder = Folder::new("descriptors");
    let (file, socket) = (folder.path("proxy.json"), folder.path("s"));
    let text = format!("{{\"admin\": {{\"socket\": \"{socket}\"}}}}");
    std::fs::write(&file, text).expect("a file");
    let flags = ["--config", &file, "--backend", "A=http://127.0.0.1:1"];
    let mut program = Program::start_with_descriptors(64, &flags);
    program.line_with("limits.clients is 10000");
    program.signal("-TERM");
    loop {
        let line = program.line_with("");
        assert!(!line.contains("limits.clients is"), "{line}");
        if line.ends_with(" stopped") {
            break;
        }
    }
}
