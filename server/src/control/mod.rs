//! The control socket: commands that change the running proxy, one line each.
//!
//! Like the admin pages, this is a machine separate from the proxy: the driver passes bytes and the
//! time, carries out the commands and reports their results. A line has at most [`LINE_MAX`] bytes.
//! The response is also a line: `ok`, `error` and the reason, or the JSON of /stats. A connection
//! may send one command after another; it is closed when its client ends its side.
//!
//! | a connection waits for | at most |
//! |---|---|
//! | a complete line | [`IDLE_MAX`] |
//! | the result of a command | no limit |
//! | its client to accept the response | [`WRITE_MAX`] |
mod command;

use std::collections::VecDeque;
use std::time::Duration;

use intelliproxy_core::Instant;
use log::warn;

pub(crate) use self::command::Command;

/// The maximum number of connections. If all are in use, a new client replaces the connection that
/// has been idle longest.
pub(crate) const CONNECTIONS_MAX: usize = 8;
/// The maximum length of a command's line, bytes.
const LINE_MAX: usize = 1024;
/// The time limit for a connection without a complete command.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The time limit for a client that accepts no bytes of a response.
const WRITE_MAX: Duration = Duration::from_secs(10);

/// The control connections.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// By the connection's number.
    sessions: [Option<Session>; CONNECTIONS_MAX],
    /// Connections that are over. Their numbers may be used again.
    closed: VecDeque<usize>,
}

#[derive(Debug)]
struct Session {
    input: Box<[u8; LINE_MAX]>,
    filled: usize,
    output: Vec<u8>,
    written: usize,
    /// Whether a command is carried out.
    is_busy: bool,
    is_eof: bool,
    /// The time of the last progress.
    since: Instant,
}

impl Control {
    /// Closes an idle connection if all are in use. Returns whether there is room for another one.
    pub(crate) fn make_room(&mut self) -> bool {
        if self.sessions.iter().any(Option::is_none) {
            return true;
        }
        let idle = self.sessions.iter().enumerate();
        let idle = idle.filter_map(|(id, session)| {
            session.as_ref().filter(|session| session.is_idle()).map(|session| (session.since, id))
        });
        let longest = idle.min();
        if let Some((_, id)) = longest {
            self.close(id);
        }
        longest.is_some()
    }

    /// Adds a new client. Returns the connection's number, or `None` without room.
    pub(crate) fn handle_accept(&mut self, now: Instant) -> Option<usize> {
        let id = self.sessions.iter().position(Option::is_none)?;
        self.sessions[id] = Some(Session {
            input: Box::new([0; LINE_MAX]),
            filled: 0,
            output: Vec::new(),
            written: 0,
            is_busy: false,
            is_eof: false,
            since: now,
        });
        Some(id)
    }

    /// Returns the space for bytes of a connection; empty if they have to wait.
    pub(crate) fn read_space(&mut self, id: usize) -> &mut [u8] {
        match self.session_mut(id) {
            Some(session) if !session.is_eof && !session.is_refused() => {
                &mut session.input[session.filled..]
            }
            _ => &mut [],
        }
    }

    /// Handles `count` bytes that were put into [`read_space`](Self::read_space).
    pub(crate) fn handle_read(&mut self, id: usize, count: usize) {
        if let Some(session) = self.session_mut(id) {
            session.filled = (session.filled + count).min(LINE_MAX);
        }
    }

    /// Handles the end of the client's side. Commands that are complete are still carried out.
    pub(crate) fn handle_eof(&mut self, id: usize) {
        if let Some(session) = self.session_mut(id) {
            session.is_eof = true;
        }
    }

    /// Handles a broken connection.
    pub(crate) fn handle_failed(&mut self, id: usize) {
        self.close(id);
    }

    /// Returns the next command of a connection. The next one is returned only after the result was
    /// passed to [`respond`](Self::respond). Lines that are not commands get their response here.
    pub(crate) fn take_command(&mut self, now: Instant, id: usize) -> Option<Command> {
        loop {
            let session = self.session_mut(id)?;
            if session.is_busy || !session.output.is_empty() {
                return None;
            }
            match session.take_line() {
                Some(line) => {
                    session.since = now;
                    session.is_busy = true;
                    let text = String::from_utf8(line).map_err(|_| "not UTF-8".to_owned());
                    match text.and_then(|text| Command::parse(&text)) {
                        Ok(command) => return Some(command),
                        Err(wrong) => {
                            warn!("control: {wrong}");
                            self.respond(now, id, Err(wrong));
                        }
                    }
                }
                None if session.is_refused() => {
                    session.is_eof = true;
                    session.filled = 0;
                    session.is_busy = true;
                    let wrong = format!("a command has at most {LINE_MAX} bytes");
                    self.respond(now, id, Err(wrong));
                }
                None => {
                    if session.is_eof {
                        self.close(id);
                    }
                    return None;
                }
            }
        }
    }

    /// Responds to the last command of a connection.
    pub(crate) fn respond(&mut self, now: Instant, id: usize, result: Result<String, String>) {
        let Some(session) = self.session_mut(id).filter(|session| session.is_busy) else { return };
        session.is_busy = false;
        session.since = now;
        session.output = match result {
            Ok(text) => one_line(&text).into_bytes(),
            Err(wrong) => format!("error {}", one_line(&wrong)).into_bytes(),
        };
        session.output.push(b'\n');
        session.written = 0;
    }

    /// Returns the bytes that wait for a connection.
    pub(crate) fn write_ready(&self, id: usize) -> &[u8] {
        let session = self.sessions.get(id).and_then(Option::as_ref);
        session.map_or(&[], |session| &session.output[session.written..])
    }

    /// Handles that a connection accepted the first `count` bytes of
    /// [`write_ready`](Self::write_ready).
    pub(crate) fn handle_written(&mut self, now: Instant, id: usize, count: usize) {
        let Some(session) = self.session_mut(id) else { return };
        session.written = (session.written + count).min(session.output.len());
        session.since = now;
        if session.written == session.output.len() {
            session.output = Vec::new();
            session.written = 0;
        }
    }

    /// Closes connections whose time is over.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for id in 0..CONNECTIONS_MAX {
            let session = self.sessions[id].as_ref();
            if session.and_then(Session::ends).is_some_and(|at| at <= now) {
                self.close(id);
            }
        }
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.sessions.iter().flatten().filter_map(Session::ends).min()
    }

    /// Returns the next connection to close.
    pub(crate) fn poll_closed(&mut self) -> Option<usize> {
        self.closed.pop_front()
    }

    fn close(&mut self, id: usize) {
        if self.sessions.get_mut(id).and_then(Option::take).is_some() {
            self.closed.push_back(id);
        }
    }

    fn session_mut(&mut self, id: usize) -> Option<&mut Session> {
        self.sessions.get_mut(id)?.as_mut()
    }
}

impl Session {
    /// Takes the first line, without its end. The last line needs no end.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        let end = self.input[..self.filled].iter().position(|byte| *byte == b'\n');
        let (line, after) = match end {
            Some(end) => (end, end + 1),
            None if self.is_eof && self.filled > 0 => (self.filled, self.filled),
            None => return None,
        };
        let text = self.input[..line].trim_ascii_end().to_vec();
        self.input.copy_within(after..self.filled, 0);
        self.filled -= after;
        Some(text)
    }

    /// Whether its line is too long.
    fn is_refused(&self) -> bool {
        self.filled == LINE_MAX && !self.input.contains(&b'\n')
    }

    const fn is_idle(&self) -> bool {
        !self.is_busy && self.output.is_empty()
    }

    fn ends(&self) -> Option<Instant> {
        match (self.is_busy, self.output.is_empty()) {
            (true, _) => None,
            (false, true) => Some(self.since + IDLE_MAX),
            (false, false) => Some(self.since + WRITE_MAX),
        }
    }
}

/// A text without line ends.
fn one_line(text: &str) -> String {
    text.trim_end().replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests;
