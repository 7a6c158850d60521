//! In the steady state an exchange allocates nothing, because all tables, buffers and heaps have
//! their final size.
mod memory;

use memory::World;

/// A thousand exchanges of each kind on kept connections, after a thousand for warm-up, allocate no
/// memory.
#[test]
fn an_exchange_allocates_nothing() {
    let long =
        [b"HTTP/1.1 200 OK\r\nContent-Length: 65536\r\n\r\n".to_vec(), vec![b'x'; 65536]].concat();
    let post = [
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 16384\r\n\r\n".to_vec(),
        vec![b'x'; 16384],
    ]
    .concat();
    let get = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let short = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let rows: [(&str, &[u8], &[u8]); 4] = [
        ("a short response", get, short),
        ("a response of 64 KiB", get, &long),
        ("a post of 16 KiB", &post, short),
        ("a chunked response", get, chunked),
    ];
    for (name, request, answer) in rows {
        let mut world = World::new();
        for _ in 0..1000 {
            world.exchange(request, answer);
        }
        let counted = allocation_counter::measure(|| {
            for _ in 0..1000 {
                world.exchange(request, answer);
            }
        });
        assert_eq!(counted.count_total, 0, "{name}: {} bytes", counted.bytes_total);
    }
}
