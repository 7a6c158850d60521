//! The admin pages: the state of the proxy on a separate listener.
//!
//! | path | response |
//! |---|---|
//! | `/` | the live page for browsers; for others the same as `/stats` |
//! | `/events` | the events of the live page (server-sent events) |
//! | `/stats` | the JSON array of the traffic port's /stats |
//! | `/metrics` | Prometheus text |
//! | `/healthz` | 200: the proxy is alive |
//! | `/readyz` | 200 while a backend is usable and the proxy is not stopping, otherwise 503 |
//! | `/config` | the configuration in use, JSON |
//! | `/explain` | the last decisions, or one with its candidates, JSON |
//!
//! The admin pages are a machine separate from the proxy. The driver passes bytes and the time. The
//! machine reads from the proxy but never changes it. It has a few connections and buffers of its
//! own, so the pages remain available when clients are at their limit. Time comes from the driver.
mod pages;
mod session;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::Instant;

pub(crate) use self::pages::{Page, Pages};
pub(crate) use self::session::WRITE_MAX;
use self::session::{Asked, Session};
use crate::pages::explain::{decision_text, list_text};
use crate::pages::live::{Cursor, END, NO_STREAM, Next, PART_EVERY, SLOW_EVERY, replaced};
use crate::pages::metrics::MEDIA_TYPE;
use crate::pages::{ProcessFigures, page};
use crate::proxy::Proxy;

/// Maximum number of connections. If all are in use, a new client replaces the connection that has
/// been idle or ending longest.
pub(crate) const CONNECTIONS_MAX: usize = 16;

/// Maximum number of event streams. The other connections are left for scrapes and health checks. A
/// further stream replaces the one that has run longest.
const STREAMS_MAX: usize = 12;

/// An action that the admin pages request from their driver.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Action {
    /// Shut down the sending side; reading continues.
    Shutdown(usize),
    /// Close the connection. Its number may then be used again.
    Close(usize),
}

/// The admin connections and the pages in progress.
#[derive(Debug)]
pub(crate) struct Admin {
    /// By the connection's number.
    sessions: [Option<Session>; CONNECTIONS_MAX],
    pages: Pages,
    /// The time at which the event streams are checked next.
    streams_at: Option<Instant>,
    actions: VecDeque<Action>,
    /// The Date line of responses.
    date: String,
}

impl Admin {
    pub(crate) fn new() -> Self {
        Self {
            sessions: [const { None }; CONNECTIONS_MAX],
            pages: Pages::default(),
            streams_at: None,
            actions: VecDeque::new(),
            date: String::new(),
        }
    }

    /// Stores the time of day as an HTTP date.
    pub(crate) fn handle_date(&mut self, http_date: &str) {
        self.date = format!("Date: {http_date}\r\n");
    }

    /// Takes the figures of the process.
    pub(crate) fn handle_process(&mut self, figures: ProcessFigures) {
        self.pages.process = figures;
    }

    /// Closes idle connections and event streams. Other connections close after their current
    /// response.
    pub(crate) fn handle_leaving(&mut self) {
        for id in 0..CONNECTIONS_MAX {
            let Some(session) = self.session_mut(id) else { continue };
            session.handle_leaving();
            if session.idle_since().is_some() || session.is_streaming() {
                self.close(id);
            }
        }
    }

    /// Closes an idle connection if all are in use. Returns whether there is room for another one.
    /// The resulting actions must be carried out before [`handle_accept`](Self::handle_accept).
    pub(crate) fn make_room(&mut self) -> bool {
        if self.sessions.iter().any(Option::is_none) {
            return true;
        }
        let idle = self.sessions.iter().enumerate();
        let idle = idle.filter_map(|(id, session)| Some((session.as_ref()?.idle_since()?, id)));
        let longest = idle.min();
        if let Some((_, id)) = longest {
            self.close(id);
        }
        longest.is_some()
    }

    /// Adds a new client. Returns the connection's number, or `None` without room.
    pub(crate) fn handle_accept(&mut self, now: Instant) -> Option<usize> {
        let id = self.sessions.iter().position(Option::is_none)?;
        self.sessions[id] = Some(Session::new(now));
        Some(id)
    }

    /// Returns the space for a connection's bytes. It is empty until the response is written.
    pub(crate) fn read_space(&mut self, id: usize) -> &mut [u8] {
        self.session_mut(id).map_or(&mut [], Session::read_space)
    }

    /// Handles `count` bytes, at least one, that were put into [`read_space`](Self::read_space).
    pub(crate) fn handle_read(&mut self, now: Instant, id: usize, count: usize, proxy: &Proxy) {
        if let Some(session) = self.session_mut(id) {
            session.handle_read(now, count);
            self.serve(now, id, proxy);
        }
    }

    /// Handles the end of the client's side. A request that is already complete is served.
    pub(crate) fn handle_eof(&mut self, id: usize) {
        if self.session_mut(id).is_some_and(Session::handle_eof) {
            self.close(id);
        }
    }

    /// Handles a broken connection.
    pub(crate) fn handle_failed(&mut self, id: usize) {
        self.close(id);
    }

    /// Returns the bytes that wait for a connection.
    pub(crate) fn write_ready(&self, id: usize) -> &[u8] {
        let session = self.sessions.get(id).and_then(Option::as_ref);
        session.map_or(&[], Session::write_ready)
    }

    /// Handles that a connection took the first `count` bytes of
    /// [`write_ready`](Self::write_ready).
    pub(crate) fn handle_written(&mut self, now: Instant, id: usize, count: usize, proxy: &Proxy) {
        let Some(session) = self.session_mut(id) else { return };
        if session.handle_written(now, count) {
            if session.is_closing() {
                self.actions.push_back(Action::Shutdown(id));
            } else {
                self.serve(now, id, proxy);
            }
        }
    }

    /// Continues the pages in progress and closes connections whose deadline has passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant, proxy: &Proxy) {
        for page in self.pages.grow(now, proxy).into_iter().flatten() {
            for id in 0..CONNECTIONS_MAX {
                if self.session_mut(id).is_some_and(|session| session.awaits() == Some(page)) {
                    self.show(now, id, page, proxy);
                }
            }
        }
        if self.streams_at.is_some_and(|at| at <= now) {
            self.feed_streams(now, proxy);
        }
        for id in 0..CONNECTIONS_MAX {
            if self.session_mut(id).is_some_and(|session| session.is_overdue(now)) {
                self.close(id);
            }
        }
    }

    /// Returns the next action.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns the time at which [`handle_timeout`](Self::handle_timeout) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let sessions = self.sessions.iter().flatten().filter_map(Session::poll_timeout);
        sessions.chain(self.pages.poll_timeout()).chain(self.streams_at).min()
    }

    /// Returns the number of event streams.
    pub(crate) fn streams(&self) -> usize {
        self.sessions.iter().flatten().filter(|session| session.is_streaming()).count()
    }

    /// Passes the next part to each event stream, or ends the stream.
    fn feed_streams(&mut self, now: Instant, proxy: &Proxy) {
        // The time of the next step of a sample.
        let mut next = proxy.live().poll_timeout().unwrap_or(now + SLOW_EVERY);
        for id in 0..CONNECTIONS_MAX {
            let Some(session) = self.sessions.get_mut(id).and_then(Option::as_mut) else {
                continue;
            };
            let gives_way = session.gives_way();
            let Some(cursor) = session.free_cursor() else {
                if session.is_streaming() {
                    next = next.min(now + SLOW_EVERY);
                }
                continue;
            };
            if proxy.is_leaving() || proxy.live().poll_timeout().is_none() {
                session.pass_part(now, END.into(), true);
                continue;
            }
            if gives_way {
                session.pass_part(now, replaced(), true);
                continue;
            }
            match proxy.live().next(now, cursor) {
                Next::Text(text) => {
                    session.pass_part(now, text, false);
                    next = next.min(now + PART_EVERY);
                }
                Next::Nothing => {}
                Next::Lost => self.close(id),
            }
        }
        self.streams_at = (self.streams() > 0).then_some(next.max(now + STEP));
    }

    fn begin_stream(&mut self, now: Instant, id: usize, proxy: &Proxy) {
        if proxy.is_leaving() || proxy.live().poll_timeout().is_none() {
            return self.respond(now, id, (503, TEXT), "", NO_STREAM.into());
        }
        let mut cursor = Cursor::default();
        let date = &self.date;
        if let Next::Text(first) = proxy.live().next(now, &mut cursor)
            && let Some(session) = self.sessions.get_mut(id).and_then(Option::as_mut)
        {
            session.begin_stream(now, date, &first, cursor);
            self.streams_at = Some(now + PART_EVERY);
            self.keep_streams_bounded(now, id);
        }
    }

    /// If there are too many streams, makes the one that has run longest give way to the stream
    /// `new`. Its reader may have stopped reading, or be a page in a hidden tab.
    fn keep_streams_bounded(&mut self, now: Instant, new: usize) {
        let sessions = self.sessions.iter().enumerate();
        let places =
            || sessions.clone().filter_map(|(id, one)| Some((one.as_ref()?.runs_since()?, id)));
        if places().count() <= STREAMS_MAX {
            return;
        }
        let longest = places().filter(|(_, id)| *id != new).min();
        if let Some((_, longest)) = longest
            && let Some(session) = self.session_mut(longest)
        {
            session.give_way();
            self.streams_at = Some(now);
        }
    }

    /// Serves the request of a connection if it is complete.
    fn serve(&mut self, now: Instant, id: usize, proxy: &Proxy) {
        let date = &self.date;
        let Some(session) = self.sessions.get_mut(id).and_then(Option::as_mut) else { return };
        let Some(asked) = session.take_request(now, date) else { return };
        match asked {
            Asked::Page(page) => self.show(now, id, page, proxy),
            Asked::Live { takes_gzip: true } => {
                let kind = (200, page::MEDIA_TYPE);
                self.respond(now, id, kind, &page::fields(), page::PAGE.to_vec());
            }
            Asked::Live { .. } => self.respond(now, id, (406, TEXT), "", page::ONLY_GZIP.into()),
            Asked::Events => self.begin_stream(now, id, proxy),
            Asked::Health => self.respond(now, id, (200, TEXT), "", b"ok\n".to_vec()),
            Asked::Readiness => {
                let readiness = proxy.readiness();
                let status = if readiness.is_ok() { 200 } else { 503 };
                let text = readiness.unwrap_or_else(|wrong| wrong);
                self.respond(now, id, (status, TEXT), "", format!("{text}\n").into());
            }
            Asked::Config => {
                let text = proxy.config().to_public_json() + "\n";
                self.respond(now, id, (200, JSON), "", text.into());
            }
            Asked::Explain(request) => {
                let (status, kind, text) = explain(now, request.as_deref(), proxy);
                self.respond(now, id, (status, kind), "", text);
            }
        }
    }

    /// Responds with a page, or lets the connection wait until the page is complete.
    fn show(&mut self, now: Instant, id: usize, page: Page, proxy: &Proxy) {
        let Some(text) = self.pages.ask(now, page, proxy) else {
            if let Some(session) = self.session_mut(id) {
                session.wait_for(page);
            }
            return;
        };
        let (kind, fields) = match page {
            Page::Stats => (JSON, DECISIONS.to_owned() + &proxy.stats_fields()),
            Page::Metrics => (MEDIA_TYPE, String::new()),
        };
        self.respond_shared(now, id, (200, kind), &fields, text);
    }

    fn respond(&mut self, now: Instant, id: usize, kind: (u16, &str), fields: &str, text: Vec<u8>) {
        self.respond_shared(now, id, kind, fields, Arc::new(text));
    }

    fn respond_shared(
        &mut self,
        now: Instant,
        id: usize,
        kind: (u16, &str),
        fields: &str,
        text: Arc<Vec<u8>>,
    ) {
        let date = &self.date;
        if let Some(session) = self.sessions.get_mut(id).and_then(Option::as_mut) {
            session.respond(now, kind, &[date, fields], text);
        }
    }

    fn close(&mut self, id: usize) {
        if self.sessions.get_mut(id).and_then(Option::take).is_some() {
            self.actions.push_back(Action::Close(id));
        }
    }

    fn session_mut(&mut self, id: usize) -> Option<&mut Session> {
        self.sessions.get_mut(id)?.as_mut()
    }
}

/// Returns status, type and text of /explain: one decision, or all that are kept.
fn explain(now: Instant, request: Option<&str>, proxy: &Proxy) -> (u16, &'static str, Vec<u8>) {
    let Some(wanted) = request else {
        return (200, JSON, list_text(now, proxy.decisions()));
    };
    if let Some(decision) = proxy.decisions().find(|decision| decision.has_number(wanted)) {
        return (200, JSON, decision_text(now, decision, &[]));
    }
    let mut of_id = proxy.decisions().filter(|decision| decision.has_id(wanted));
    match of_id.next() {
        Some(last) => {
            let mut earlier: Vec<u64> = of_id.filter_map(|decision| decision.number).collect();
            earlier.reverse();
            (200, JSON, decision_text(now, last, &earlier))
        }
        None => (404, TEXT, NOT_KEPT.into()),
    }
}

/// Shortest time after which the streams are checked again while a sample is in progress.
const STEP: Duration = Duration::from_millis(1);
const NOT_KEPT: &str = "404 Not Found: not among the last decisions\n";
/// The response field of /stats that links to /explain, which only the admin listener serves.
const DECISIONS: &str = "X-IntelliProxy-Decisions: /explain\r\n";
const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

#[cfg(test)]
mod tests;
