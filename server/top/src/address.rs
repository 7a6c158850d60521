//! The source of a proxy's figures: a URL or a control socket.
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::decisions;
use crate::http::{self, BODY_BYTES_MAX, Failure};
use crate::reading::Reading;
use crate::url::Url;

/// A place from which the figures are read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Source {
    Url(Url),
    /// The path of a control socket.
    Socket(String),
    /// The usual admin listener, or the usual socket if nothing listens there.
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
    /// Reads the figures, and the last decisions if they are wanted and available.
    ///
    /// # Errors
    /// The reason in one line, with the address.
    pub(crate) fn read(&self, wants_decisions: bool) -> Result<Reading, String> {
        match self {
            Self::Url(url) => read_url(url, wants_decisions).map_err(|failure| failure.text()),
            Self::Socket(path) => read_socket(path),
            Self::Usual => {
                let url = Url::parse(&format!("http://{USUAL}")).map_err(str::to_owned)?;
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
    reading.counts = response.fields_of_proxy().collect();
    if wants_decisions && let Some(target) = response.field(DECISIONS_FIELD) {
        // The proxy names the path of this page. Without the page, the figures are still shown.
        let page = http::get(url, target).ok();
        reading.decisions = page.and_then(|page| decisions::parse(&page.body));
    }
    Ok(reading)
}

fn read_socket(path: &str) -> Result<Reading, String> {
    let fail = |error: io::Error| format!("{path}: {}", http::reason(&error));
    let mut stream = UnixStream::connect(path).map_err(fail)?;
    stream.set_read_timeout(Some(WAIT_MAX)).map_err(fail)?;
    stream.set_write_timeout(Some(WAIT_MAX)).map_err(fail)?;
    stream.write_all(b"stats\n").map_err(fail)?;
    let mut line = Vec::new();
    let end = Instant::now() + WAIT_MAX;
    let mut reader = BufReader::new(stream.take(BODY_BYTES_MAX as u64));
    while !line.ends_with(b"\n") {
        // A line that arrives slowly must not block forever.
        if Instant::now() > end {
            return Err(format!("{path}: no whole response within {} s", WAIT_MAX.as_secs()));
        }
        if reader.read_until(b'\n', &mut line).map_err(fail)? == 0 {
            break;
        }
    }
    let parsed = match line.strip_prefix(b"error ") {
        Some(wrong) => Err(String::from_utf8_lossy(wrong).trim_end().to_owned()),
        None => Reading::parse(&line),
    };
    parsed.map_err(|wrong| format!("{path}: {wrong}"))
}

/// The admin listener that `cargo all` and the examples use.
const USUAL: &str = "127.0.0.1:3003";
/// The control socket that `ctl` uses without `--socket`.
const SOCKET: &str = "/run/intelliproxy/control.sock";
/// Names the page of decisions. Only the admin listener has it.
const DECISIONS_FIELD: &str = "x-intelliproxy-decisions";
/// The longest wait for bytes of the socket.
const WAIT_MAX: Duration = Duration::from_secs(5);
