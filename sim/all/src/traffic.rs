//! The traffic of `--demo`: a steady number of requests to the proxy, each on its own connection.
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Requests that continue until this is dropped.
#[derive(Debug)]
pub(crate) struct Traffic {
    shared: Arc<Shared>,
}

/// The responses of the last [`RECENT`], as time and port of the backend.
#[derive(Debug, Default)]
struct Responses(VecDeque<(Instant, u16)>);

impl Responses {
    fn add(&mut self, now: Instant, port: u16) {
        self.forget(now);
        self.0.push_back((now, port));
    }

    fn forget(&mut self, now: Instant) {
        let old = self.0.iter().take_while(|(at, _)| now.saturating_duration_since(*at) > RECENT);
        self.0.drain(..old.count());
    }

    /// Returns the port of the backend with the most responses.
    fn busiest(&mut self, now: Instant) -> Option<u16> {
        self.forget(now);
        let count = |port: u16| self.0.iter().filter(|(_, other)| *other == port).count();
        self.0.iter().map(|(_, port)| *port).max_by_key(|port| (count(*port), *port))
    }
}

#[derive(Debug)]
struct Shared {
    address: String,
    /// The time of the next request.
    next: Mutex<Instant>,
    responses: Mutex<Responses>,
    has_ended: AtomicBool,
}

impl Traffic {
    /// Starts requests to a proxy at `host:port`.
    pub(crate) fn start(address: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            next: Mutex::new(Instant::now()),
            responses: Mutex::default(),
            has_ended: AtomicBool::new(false),
        });
        for _ in 0..CLIENTS {
            let shared = Arc::clone(&shared);
            thread::Builder::new().spawn(move || shared.run())?;
        }
        Ok(Self { shared })
    }

    /// Returns the port of the backend with the most responses in the last [`RECENT`].
    pub(crate) fn busiest(&self) -> Option<u16> {
        lock(&self.shared.responses).busiest(Instant::now())
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn run(&self) {
        while !self.has_ended.load(Ordering::Relaxed) {
            let at = {
                let mut next = lock(&self.next);
                // When all clients wait for responses, requests are left out: the load is bounded.
                *next = (*next + EVERY).max(Instant::now());
                *next
            };
            thread::sleep(at.saturating_duration_since(Instant::now()));
            // The proxy's figures contain the errors.
            if let Ok(Some(port)) = self.ask() {
                lock(&self.responses).add(Instant::now(), port);
            }
        }
    }

    /// Makes a request. Returns the port of the backend that responded.
    fn ask(&self) -> io::Result<Option<u16>> {
        let mut addresses = self.address.to_socket_addrs()?;
        let address = addresses.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut stream = TcpStream::connect_timeout(&address, WAIT_MAX)?;
        stream.set_read_timeout(Some(WAIT_MAX))?;
        stream.set_write_timeout(Some(WAIT_MAX))?;
        let request = "GET /demo HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes())?;
        let mut response = String::new();
        stream.take(RESPONSE_BYTES_MAX).read_to_string(&mut response)?;
        Ok(port_in(&response))
    }
}

/// Returns the port in `Hello from backend on port 3000`.
fn port_in(response: &str) -> Option<u16> {
    let (_, after) = response.rsplit_once("backend on port ")?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// No thread here leaves the data inconsistent when it panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// 50 requests a second: enough for figures that change within a second.
const EVERY: Duration = Duration::from_millis(20);
/// Requests at the same time: at 1.5 s a response, 50 a second need 75.
const CLIENTS: usize = 80;
/// Longer than a slow response, shorter than a silence.
const WAIT_MAX: Duration = Duration::from_secs(5);
const RESPONSE_BYTES_MAX: u64 = 16 * 1024;
/// The period whose responses show which backend has the traffic. It is short, so that the result
/// follows a switch soon.
const RECENT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    /// Ports are read from good responses and from errors of a backend, not from the proxy's own.
    #[test]
    fn backends_are_distinguished() {
        for (response, port) in [
            ("HTTP/1.1 200 OK\r\n\r\nHello from backend on port 3000", Some(3000)),
            ("HTTP/1.1 500 X\r\n\r\nSimulated error of backend on port 3002\n", Some(3002)),
            ("HTTP/1.1 502 Bad Gateway\r\n\r\n", None),
        ] {
            assert_eq!(port_in(response), port, "{response}");
        }
    }

    /// Soon after a switch the new backend is the busiest, however many responses the old one had.
    #[test]
    fn the_busiest_is_that_of_now() {
        let start = Instant::now();
        let mut responses = Responses::default();
        assert_eq!(responses.busiest(start), None);
        // Twenty responses a second, first all from one backend, and in the last second all from
        // the other.
        for step in 0..200 {
            let port = if step < 180 { 3000 } else { 3002 };
            let at = start + Duration::from_millis(50 * step);
            responses.add(at, port);
            let is_new = step >= 190;
            let expected = if is_new { 3002 } else { 3000 };
            if !(180..=190).contains(&step) {
                assert_eq!(responses.busiest(at), Some(expected), "{step}");
            }
        }
        assert!(responses.0.len() <= 21, "the old ones are forgotten");
        assert_eq!(responses.busiest(start + Duration::from_secs(20)), None);
    }

    /// Requests come one after another, the busiest backend is known, and they end with their
    /// owner.
    #[test]
    fn requests_come_and_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let (sender, heads) = mpsc::channel();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut head = [0; 1024];
                let count = stream.read(&mut head).unwrap_or(0);
                let body = "HTTP/1.1 200 OK\r\n\r\nHello from backend on port 7";
                drop(stream.write_all(body.as_bytes()));
                drop(stream);
                if sender.send(head[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        let traffic = Traffic::start(&address).expect("threads");
        for _ in 0..5 {
            let head = heads.recv_timeout(Duration::from_secs(30)).expect("a request");
            assert!(head.starts_with(b"GET /demo HTTP/1.1\r\n"), "{head:?}");
        }
        // The response of a request that was seen may still be on its way.
        let end = Instant::now() + Duration::from_secs(60);
        while traffic.busiest() != Some(7) {
            assert!(Instant::now() < end, "no response was counted");
            thread::yield_now();
        }
        let clients = Arc::downgrade(&traffic.shared);
        drop(traffic);
        while clients.strong_count() > 0 {
            assert!(Instant::now() < end, "requests go on");
            thread::yield_now();
        }
    }
}
