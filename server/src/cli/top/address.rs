//! The source of a proxy's figures: a URL or a control socket.
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::top::decisions;
use crate::cli::top::http::{self, BODY_BYTES_MAX, COUNTS_MAX, Failure, json};
use crate::cli::top::reading::Reading;
use crate::cli::top::url::Url;

/// The address of a proxy's figures.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    Url(Url),
    /// The path of a control socket.
    Socket(String),
    /// The default admin listener, or the default socket if nothing listens there.
    Usual,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(&url.authority),
            Self::Socket(path) => f.write_str(path),
            Self::Usual => f.write_str(USUAL),
        }
    }
}

impl Source {
    /// Reads the figures, and the last decisions if requested and available.
    ///
    /// # Errors
    /// The reason in one line, with the address.
    pub(crate) fn read(&self, wants_decisions: bool) -> Result<Reading, String> {
        match self {
            Self::Url(url) => read_url(url, wants_decisions).map_err(|failure| failure.text()),
            Self::Socket(path) => read_socket(path),
            Self::Usual => {
                let url = Url::parse(&format!("http://{USUAL}"))?;
                match read_url(&url, wants_decisions) {
                    Ok(reading) => Ok(reading),
                    Err(failure @ Failure::NoConnection { .. }) => read_socket(SOCKET)
                        .map_err(|socket| format!("{}; {socket}", failure.text())),
                    Err(failure) => Err(failure.text()),
                }
            }
        }
    }
}

fn read_url(url: &Url, wants_decisions: bool) -> Result<Reading, Failure> {
    let response = http::get(url, &url.target)?;
    let mut reading = Reading::parse(&response.body).map_err(|wrong| url.fault(wrong))?;
    reading.take_fields(response.fields_of_proxy());
    if wants_decisions && let Some(target) = response.field(DECISIONS_FIELD) {
        // The response to /stats names the path of the decisions. If they cannot be read, the
        // figures are still shown.
        let page = http::get(url, target).ok();
        reading.decisions = page.and_then(|page| decisions::parse(&page.body));
    }
    Ok(reading)
}

fn read_socket(path: &str) -> Result<Reading, String> {
    let lines = read_lines(path, WAIT_MAX).map_err(|wrong| format!("{path}: {wrong}"))?;
    let end = lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1);
    let (line, totals) = lines.split_at(end);
    let parsed = match line.strip_prefix(b"error ") {
        Some(wrong) => Err(String::from_utf8_lossy(wrong).trim_end().to_owned()),
        None => Reading::parse(line),
    };
    let mut reading = parsed.map_err(|wrong| format!("{path}: {wrong}"))?;
    // A proxy that does not know `totals` responds with an error, and then no totals are shown.
    if let Some(Value::Object(totals)) = json(totals) {
        let fields = totals.into_iter().take(COUNTS_MAX);
        let texts = fields.filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())));
        reading.take_fields(texts);
    }
    Ok(reading)
}

/// Returns the responses of a control socket to `stats` and `totals`: one line each, or all bytes
/// up to the end. Takes at most `wait_max` in total, even if bytes keep arriving.
fn read_lines(path: &str, wait_max: Duration) -> Result<Vec<u8>, String> {
    let fail = |error: io::Error| http::reason(&error);
    let end = Instant::now() + wait_max;
    let mut stream = UnixStream::connect(path).map_err(fail)?;
    stream.set_write_timeout(Some(wait_max)).map_err(fail)?;
    stream.write_all(b"stats\ntotals\n").map_err(fail)?;
    let (mut lines, mut space, mut ends) = (Vec::new(), vec![0; SPACE], 0);
    while ends < 2 && lines.len() < BODY_BYTES_MAX {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(format!("no whole response within {} s", wait_max.as_secs_f64()));
        }
        stream.set_read_timeout(Some(left)).map_err(fail)?;
        match stream.read(&mut space) {
            Ok(0) => break,
            Ok(count) => {
                ends += space[..count].iter().filter(|byte| **byte == b'\n').count();
                lines.extend_from_slice(&space[..count]);
            }
            // The time is up, or a signal arrived.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(lines)
}

/// The admin listener that `cargo all` and the examples use.
const USUAL: &str = "127.0.0.1:3003";
/// The control socket that `ctl` uses without `--socket`.
const SOCKET: &str = "/run/intelliproxy/control.sock";
/// The response field that links to /explain. Only the admin listener sends it.
const DECISIONS_FIELD: &str = "x-intelliproxy-decisions";
/// The longest wait for the response of the socket.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Bytes of the socket that are read at a time.
const SPACE: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Both lines are read whole, in whatever pieces they arrive, or one if the socket then ends.
    /// Lines that arrive byte by byte without an end are given up.
    #[test]
    fn slow_sockets_are_given_up() {
        let path = std::env::temp_dir().join(format!("intelliproxy-top-{}", std::process::id()));
        // An earlier run with the same process id may have left this file.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket");
        let text = path.to_str().expect("UTF-8").to_owned();
        let server = thread::spawn(move || {
            // A socket that is closed with unread bytes is reset.
            let accept = || {
                let (mut client, _) = listener.accept().expect("a client");
                client.read_exact(&mut [0; "stats\ntotals\n".len()]).expect("commands");
                client
            };
            let mut first = accept();
            for piece in ["[", "]\n{", "}\n"] {
                first.write_all(piece.as_bytes()).expect("written");
            }
            drop(first);
            let mut old = accept();
            old.write_all(b"[]\n").expect("written");
            drop(old);
            let mut second = accept();
            // The client gives up while bytes still arrive: the write then fails.
            while second.write_all(b" ").is_ok() {
                thread::yield_now();
            }
        });
        assert_eq!(read_lines(&text, WAIT_MAX), Ok(b"[]\n{}\n".to_vec()));
        assert_eq!(read_lines(&text, WAIT_MAX), Ok(b"[]\n".to_vec()));
        let wrong = read_lines(&text, Duration::from_millis(50));
        assert_eq!(wrong, Err("no whole response within 0.05 s".to_owned()));
        server.join().expect("it ended");
        std::fs::remove_file(&path).expect("removed");
    }
}
