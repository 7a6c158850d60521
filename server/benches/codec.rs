//! Times each step of the codec. Prints ns and MB/s.
//!
//! `cargo bench -p intelliproxy --bench codec`
use std::hint::black_box;
use std::time::Instant;

use intelliproxy::http::measure;

const ROUNDS: u32 = 300_000;

fn main() {
    let small = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:3001\r\n\r\n".to_vec();
    let long = [
        "GET /a/page?with=query HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: Mozilla/5.0 ",
        "(X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\nAccept: text/html,",
        "application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: de,en;q=0.7\r\n",
        "Accept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nCookie: session=",
        "0123456789abcdef0123456789abcdef; theme=dark\r\nUpgrade-Insecure-Requests: 1\r\n\r\n",
    ]
    .concat()
    .into_bytes();
    let answer =
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 122\r\n\r\n"
            .to_vec();
    let mut body = Vec::new();
    for _ in 0..16 {
        body.extend_from_slice(b"400\r\n");
        body.extend_from_slice(&[b'x'; 1024]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let mut out = Vec::with_capacity(4096);
    let mut encoder = measure::Encoder::new("intelliproxy");
    measure("request, small", &small, || measure::request_head(black_box(&small), &mut encoder));
    measure("request, browser", &long, || measure::request_head(black_box(&long), &mut encoder));
    measure("answer, small", &answer, || measure::response_head(black_box(&answer), &mut out));
    measure("chunked, 16 x 1 KiB", &body, || measure::chunked(black_box(&body)));
}

/// Times one step after a warm-up. The step must succeed.
fn measure(name: &str, input: &[u8], mut step: impl FnMut() -> Option<usize>) {
    for _ in 0..ROUNDS / 10 {
        assert!(black_box(step()).is_some(), "{name}");
    }
    let start = Instant::now();
    for _ in 0..ROUNDS {
        black_box(step());
    }
    let nanos = start.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
    let rate = input.len() as f64 * 1000.0 / nanos;
    println!("{name:20} {nanos:8.1} ns  {rate:8.0} MB/s");
}
