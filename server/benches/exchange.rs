//! Times one exchange in the proxy itself: no socket, no clock, one client and one backend on kept
//! connections. Prints ns per exchange. Under callgrind (`.ci/instructions`) the same program
//! counts instructions per exchange, and the count is the same in every run.
//!
//! `cargo bench -p intelliproxy --bench exchange [-- ROUNDS [CASE]]`
use std::hint::black_box;
use std::time::Instant as Clock;

#[path = "../tests/memory/mod.rs"]
mod memory;

use intelliproxy::config::Config;
use memory::World;

/// Exchanges before the measurement. By then every buffer and table has its final size.
const WARM_UP: u32 = 1000;

struct Case {
    name: &'static str,
    /// Whether the access log is on.
    is_logged: bool,
    request: Vec<u8>,
    answer: Vec<u8>,
}

fn main() {
    let mut rounds = 200_000;
    let mut only = None;
    for arg in std::env::args().skip(1).filter(|arg| !arg.starts_with("--")) {
        match arg.parse() {
            Ok(number) => rounds = number,
            Err(_) => only = Some(arg),
        }
    }
    for Case { name, is_logged, request, answer } in cases() {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let mut world = World::new();
        if is_logged {
            let mut config = Config::default();
            config.access_log.file = Some("access.log".to_owned());
            world = World::with(config);
        }
        for _ in 0..WARM_UP {
            world.exchange(&request, &answer);
        }
        let start = Clock::now();
        for _ in 0..rounds {
            black_box(world.exchange(black_box(&request), black_box(&answer)));
        }
        let nanos = start.elapsed().as_nanos() as f64 / f64::from(rounds);
        println!("{name:16} {nanos:9.1} ns per exchange");
    }
}

fn cases() -> Vec<Case> {
    let small = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:3001\r\n\r\n".to_vec();
    let browser = [
        "GET /a/page?with=query HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0 ",
        "(X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: text/html,",
        "application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: de,en;q=0.7\r\n",
        "Accept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nCookie: session=",
        "0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\n",
        "Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: none\r\n",
        "Priority: u=0, i\r\n\r\n",
    ]
    .concat()
    .into_bytes();
    let body = |len: usize| vec![b'x'; len];
    let answer = |len: usize| {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n"
        );
        [head.into_bytes(), body(len)].concat()
    };
    let post = [
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1:3001\r\nContent-Length: 16384\r\n\r\n".to_vec(),
        body(16384),
    ]
    .concat();
    let chunked = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n".to_vec(),
        body(4096),
        b"\r\n0\r\n\r\n".to_vec(),
    ]
    .concat();
    let case = |name, request, answer| Case { name, is_logged: false, request, answer };
    vec![
        case("small", small.clone(), answer(122)),
        case("browser", browser.clone(), answer(122)),
        case("answer-64k", small.clone(), answer(65536)),
        case("post-16k", post, answer(122)),
        case("chunked-4k", small.clone(), chunked),
        Case { is_logged: true, ..case("small-logged", small, answer(122)) },
        Case { is_logged: true, ..case("browser-logged", browser, answer(122)) },
    ]
}
