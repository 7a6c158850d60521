//! One connection of a backend: the model decides on the response to each request.
//!
//! Every wait is bounded: by a socket timeout, or by the end of the backend.
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::config::LogLevel;
use crate::host::{Connection, Host, Phase, unix_time};
use crate::http::{Path, ReadError, Reply, Request, RequestReader};
use crate::model::{Answer, Fate, RequestKind};

/// Serves a connection until it ends.
pub(crate) fn serve(host: &Host, connection: &Connection) {
    match Server::new(host, connection).and_then(|mut server| server.run()) {
        Ok(End::Close) => {
            host.enter_idle(connection);
            close(&connection.stream);
        }
        Ok(End::Cut) => {}
        Err(error) => host.log(LogLevel::Debug, || format!("connection ended: {error}")),
    }
}

/// Sends 503 and closes, without waiting for the request.
pub(crate) fn refuse(mut stream: &TcpStream) {
    let mut out = Vec::new();
    let date = date();
    text("503 Service Unavailable", &date, b"Too many connections\n").write(None, false, &mut out);
    // The send buffer of a new connection holds these few bytes, so this does not block. An error
    // means that the client has gone.
    drop(stream.write_all(&out));
    drop(stream.shutdown(Shutdown::Write));
}

/// The way in which a connection ends.
enum End {
    /// A normal end: all bytes that were written must arrive.
    Close,
    /// An end without further bytes to the client.
    Cut,
}

/// A connection with its buffers.
struct Server<'a> {
    host: &'a Host,
    connection: &'a Connection,
    reader: RequestReader<&'a TcpStream>,
    out: Vec<u8>,
}

impl<'a> Server<'a> {
    fn new(host: &'a Host, connection: &'a Connection) -> io::Result<Self> {
        let stream = &connection.stream;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self { host, connection, reader: RequestReader::new(stream), out: Vec::new() })
    }

    fn run(&mut self) -> io::Result<End> {
        loop {
            if !self.host.enter_idle(self.connection) {
                return Ok(End::Close);
            }
            let request = match self.reader.read_request() {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(End::Cut),
                Err(error) => return self.refuse(error),
            };
            self.host.leave_idle(self.connection);
            if request.expects_continue && !self.reader.has_unread() {
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            if let Err(error) = self.reader.discard_body(request.body) {
                return self.refuse(error);
            }
            if let Some(end) = self.respond(&request)? {
                return Ok(end);
            }
        }
    }

    /// Responds to one request. Returns how the connection ends, if it does.
    fn respond(&mut self, request: &Request) -> io::Result<Option<End>> {
        let kind = match request.path {
            Path::Health => RequestKind::Ping,
            Path::Other => RequestKind::Traffic,
            Path::Metrics => {
                self.host.count(|counters| counters.polls += 1);
                let report = self.host.report();
                let date = date();
                return self.reply(
                    request,
                    Reply {
                        status: "200 OK",
                        content_type: "application/json",
                        date: &date,
                        body: report.as_bytes(),
                    },
                );
            }
        };
        let fate = self.host.request(kind);
        self.count(kind, fate);
        let Fate::Answered(response) = fate else {
            self.stay_silent()?;
            return Ok(Some(End::Cut));
        };
        self.host.work(response.cpu);
        if !self.pause(response.delay)? {
            return Ok(Some(End::Cut));
        }
        let port = self.host.port;
        let (status, body) = match (response.is_error, kind) {
            (true, _) => {
                ("500 Internal Server Error", format!("Simulated error of backend on port {port}"))
            }
            (false, RequestKind::Ping) => ("200 OK", "OK".to_owned()),
            (false, RequestKind::Traffic) => {
                ("200 OK", format!("Hello from backend on port {port}"))
            }
        };
        let date = date();
        self.reply(request, text(status, &date, body.as_bytes()))
    }

    /// Waits for `delay`. Returns whether both the client and the backend are still there.
    ///
    /// While the backend runs, a client that has closed its side still gets its response, because
    /// it may have closed only one direction. At the end of the backend it counts as gone.
    fn pause(&self, delay: Duration) -> io::Result<bool> {
        let end = Instant::now() + delay;
        if delay.is_zero() || self.host.wait_for_phase(Phase::Draining, delay) == Phase::Running {
            return Ok(true);
        }
        let left = end.saturating_duration_since(Instant::now());
        if !left.is_zero() && !self.reader.has_unread() {
            let stream = &self.connection.stream;
            stream.set_read_timeout(Some(left))?;
            match stream.peek(&mut [0]) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let left = end.saturating_duration_since(Instant::now());
        Ok(self.host.wait_for_phase(Phase::Killed, left) < Phase::Killed)
    }

    fn reply(&mut self, request: &Request, reply: Reply<'_>) -> io::Result<Option<End>> {
        let keeps_alive = request.keeps_alive && self.host.is_running();
        self.out.clear();
        reply.write(Some(request), keeps_alive, &mut self.out);
        (&self.connection.stream).write_all(&self.out)?;
        Ok((!keeps_alive).then_some(End::Close))
    }

    /// Responds to bytes that are not a request, if the client is still there.
    fn refuse(&mut self, error: ReadError) -> io::Result<End> {
        let what = match error {
            ReadError::Malformed(what) => what,
            ReadError::Io(error) => return Err(error),
        };
        self.host.count(|counters| counters.malformed += 1);
        self.host.log(LogLevel::Debug, || format!("400: {what}"));
        self.out.clear();
        let body = format!("Bad request: {what}\n");
        text("400 Bad Request", &date(), body.as_bytes()).write(None, false, &mut self.out);
        (&self.connection.stream).write_all(&self.out)?;
        Ok(End::Close)
    }

    /// Sends nothing until the client leaves or the maximum silence is over.
    fn stay_silent(&self) -> io::Result<()> {
        if self.host.enter_idle(self.connection) {
            drain(&self.connection.stream, SILENCE_MAX, u64::MAX)?;
        }
        Ok(())
    }

    fn count(&self, kind: RequestKind, fate: Fate) {
        let name = match kind {
            RequestKind::Ping => "ping",
            RequestKind::Traffic => "request",
        };
        let (is_dropped, response) = match fate {
            Fate::Dropped => (true, Answer::default()),
            Fate::Answered(response) => (false, response),
        };
        let is_delayed = response.delay > Duration::ZERO;
        self.host.count(|counters| {
            match kind {
                RequestKind::Ping => counters.pings += 1,
                RequestKind::Traffic => counters.requests += 1,
            }
            counters.dropped += u64::from(is_dropped);
            counters.errors += u64::from(response.is_error);
            counters.delayed += u64::from(is_delayed);
        });
        if is_dropped {
            self.host.log(LogLevel::Debug, || format!("{name} dropped"));
        } else if response.is_error || is_delayed {
            let status = if response.is_error { 500 } else { 200 };
            self.host.log(LogLevel::Debug, || {
                format!("{name} gets {status} after {} ms", response.delay.as_millis())
            });
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        (&self.connection.stream).write_all(bytes)
    }
}

fn text<'a>(status: &'static str, date: &'a str, body: &'a [u8]) -> Reply<'a> {
    Reply { status, content_type: "text/plain; charset=utf-8", date, body }
}

fn date() -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + unix_time())
}

/// Closes so that the last response arrives: a socket closed with unread bytes is reset, and a
/// reset may overtake bytes written earlier (RFC 9112 section 9.6).
fn close(stream: &TcpStream) {
    // An error means that the client has gone.
    if stream.shutdown(Shutdown::Write).is_ok() {
        drop(drain(stream, LINGER_MAX, LINGER_BYTES_MAX));
    }
}

/// Reads and drops bytes until the client closes, the time is over or the maximum has arrived.
fn drain(mut stream: &TcpStream, time_max: Duration, bytes_max: u64) -> io::Result<()> {
    let end = Instant::now() + time_max;
    let mut scratch = [0; 4096];
    let mut total = 0;
    while total < bytes_max {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut scratch) {
            Ok(0) => break,
            Ok(count) => total += count as u64,
            Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The time limit for an idle connection, and for every pause within a request. It is longer than a
/// proxy keeps idle connections, so that the proxy closes them first.
const READ_TIMEOUT: Duration = Duration::from_secs(90);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longer than any proxy waits for a ping.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const LINGER_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 1024 * 1024;
