//! Feeds the live page from the proxy: figures once a second, events, and the streams of clients at
//! /stats. `admin/` serves the same page on its own listener.
//!
//! Figures are sampled while anyone can read them, because there is an admin listener, a control
//! socket, or a network in `stats.allow`. So a page shows the last ten minutes as soon as it is
//! opened. A sample covers [`AT_ONCE`] backends at a time, with traffic in between.
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::{BackendId, Instant, Notice as RouterNotice};

use super::describe::describe;
use super::id::ConnId;
use super::session::{OwnPage, OwnText, StreamState};
use super::{Action, Proxy, earliest};
use crate::collect::one_by_one;
use crate::config::Config;
use crate::pages::explain::{decision_text, list_text};
use crate::pages::live::{
    Cursor, END, Kind, Live, NO_STREAM, Next, PART_EVERY, Pool, Recent, Row, SLOW_EVERY, Sketch,
    Traffic, replaced,
};
use crate::pages::page;

/// Number of backends in one step of a sample. Traffic is served between two steps.
const AT_ONCE: usize = 64;
/// Maximum number of event streams on the traffic port. A further stream replaces the one that has
/// run longest.
const STREAMS_MAX: usize = 16;
/// Time in which a replaced reader may take its last part.
const LEAVE_MAX: Duration = Duration::from_secs(1);
/// Number of times within `timeouts.clientWriteMs` that a reader's acknowledged bytes are measured.
const MEASUREMENTS: u32 = 4;
/// If two samples are further apart than this, counts are divided by the time between them. For
/// shorter delays that would only turn whole numbers into fractions.
const LATE_AFTER: Duration = Duration::from_millis(1500);

/// The sampled figures and the readers on the traffic port.
#[derive(Debug)]
pub(super) struct LiveFeed {
    live: Live,
    /// The counts of each backend at the last sample.
    counted: BTreeMap<BackendId, Counted>,
    /// The response times of all backends over the last seconds, and those of the sample in
    /// progress.
    all: Sketch,
    adding: Sketch,
    /// The streams in the order in which they began.
    streams: Vec<Reader>,
    /// The time at which the streams are checked next.
    feeds_at: Option<Instant>,
    /// Readers on the admin listener.
    watchers: usize,
}

/// A reader of an event stream.
///
/// The system buffers megabytes, which is hours of a stream, so a successful write does not show
/// that the client reads. Progress is measured by the bytes that the client has acknowledged.
#[derive(Debug)]
struct Reader {
    conn: ConnId,
    cursor: Cursor,
    /// Bytes of all parts so far.
    passed: u64,
    /// The number of acknowledged bytes at the last progress, and the time of that.
    taken: u64,
    taken_at: Instant,
    /// The earliest time of the next measurement.
    measures_at: Instant,
    /// The time at which it is cut off, if another reader replaces it.
    leaves_by: Option<Instant>,
}

/// Totals at the last sample, and the times of the last seconds.
#[derive(Debug, Default)]
struct Counted {
    /// The time of the last sample.
    at: Option<Instant>,
    requests: u64,
    errors: u64,
    refused: u64,
    recent: Recent,
}

impl LiveFeed {
    pub(super) fn new() -> Self {
        Self {
            live: Live::new(),
            counted: BTreeMap::new(),
            all: Sketch::default(),
            adding: Sketch::default(),
            streams: Vec::new(),
            feeds_at: None,
            watchers: 0,
        }
    }

    /// Returns the time at which [`Proxy::step_live`] is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        earliest([self.live.poll_timeout(), self.feeds_at])
    }
}

impl Proxy {
    /// Begins or ends sampling as configured.
    pub(super) fn adopt_live(&mut self, now: Instant) {
        let config = &self.shared.config;
        let is_wanted = is_visible(config) && !self.configured().is_empty();
        if config.admin.listen.is_none() {
            // The admin listener and its readers are closed with it.
            self.live.watchers = 0;
        }
        if self.live.live.poll_timeout().is_none() || !is_wanted {
            // After a pause without samples, times and counts cover more than one second.
            self.live.counted.clear();
            self.live.all = Sketch::default();
        }
        self.live.live.forget_list();
        self.live.live.set_sampling(now, is_wanted);
        self.check_streams();
    }

    /// Continues a sample and the streams, if a step is due.
    pub(super) fn step_live(&mut self, now: Instant) {
        if self.live.live.poll_timeout().is_some_and(|at| at <= now) {
            self.sample(now);
        }
        if self.live.feeds_at.is_some_and(|at| at <= now) {
            self.feed_streams(now);
        }
    }

    /// Adds a notice of the router to the events.
    pub(super) fn show_notice(&mut self, now: Instant, notice: &RouterNotice) {
        let kind = match notice {
            RouterNotice::Switched { .. } => Kind::Switch,
            RouterNotice::Held { .. } => Kind::Hold,
            RouterNotice::HealthChanged { is_up: true, .. } => Kind::Up,
            RouterNotice::HealthChanged { .. } => Kind::Down,
            RouterNotice::PingsUnserved { .. } => Kind::Warning,
            RouterNotice::Ejected { .. } => Kind::Ejection,
            RouterNotice::Returned { .. } => Kind::Return,
        };
        let text = describe(notice, &self.shared.config, |backend| self.backend_name(backend));
        self.show_event(now, kind, text);
    }

    /// Adds an event to the time line.
    pub(super) fn show_event(&mut self, now: Instant, kind: Kind, text: String) {
        self.live.live.add_event(now, kind, text);
    }

    /// Adds a refused configuration to the events.
    pub(super) fn show_refused_config(&mut self, now: Instant, wrong: &str) {
        let text = format!("configuration not applied, keeping the current one: {wrong}");
        self.show_event(now, Kind::Refusal, text);
    }

    /// Responds with a page under /stats other than the figures.
    pub(super) fn answer_own_page(&mut self, now: Instant, id: ConnId, wanted: OwnPage) {
        let (kind, text_kind) = ("application/json", "text/plain; charset=utf-8");
        let fields = wanted.vary().to_owned() + NO_STORE;
        let plain =
            |status, text: &str| (status, text_kind, fields.clone(), text.as_bytes().into());
        let (status, kind, fields, text): (u16, &str, String, Arc<[u8]>) = match wanted {
            OwnPage::Figures => return,
            OwnPage::Events if self.live.poll_timeout().is_none() || self.shared.is_leaving => {
                plain(503, NO_STREAM)
            }
            OwnPage::Events => return self.begin_stream(now, id),
            OwnPage::Live { takes_gzip: true } => {
                (200, page::MEDIA_TYPE, page::fields() + &fields, page::PAGE.into())
            }
            OwnPage::Live { .. } => plain(406, page::ONLY_GZIP),
            OwnPage::Decisions => (200, kind, fields, list_text(now, self.decisions()).into()),
            OwnPage::Decision(number) => {
                let found = self.decisions().find(|one| one.number == Some(number));
                match found {
                    Some(decision) => {
                        let text = decision_text(now, decision, &[]).into();
                        (200, kind, fields, text)
                    }
                    None => plain(404, "404 Not Found: not among the last decisions\n"),
                }
            }
        };
        if let Some(session) = self.table.session_mut(id) {
            let page = OwnText { status, kind, fields: &fields, text: &text };
            session.handle_own_text(now, &page, &mut self.shared);
        }
    }

    /// Stores the number of readers on the admin listener.
    pub(crate) const fn handle_watchers(&mut self, watchers: usize) {
        self.live.watchers = watchers;
    }

    /// Returns the sampled figures.
    pub(crate) const fn live(&self) -> &Live {
        &self.live.live
    }

    /// Schedules an immediate check of the streams, because they may have to end.
    pub(super) fn check_streams(&mut self) {
        if !self.live.streams.is_empty() {
            self.live.feeds_at = Some(Instant::ZERO);
        }
    }

    /// Handles a measurement of a reader: the bytes that it has not acknowledged, if known. Ignored
    /// for other clients.
    pub(super) fn handle_reader_measured(
        &mut self,
        now: Instant,
        conn: ConnId,
        unacknowledged: Option<u64>,
    ) {
        let Some(rest) = unacknowledged else { return };
        let mut readers = self.live.streams.iter_mut();
        let Some(reader) = readers.find(|reader| reader.conn == conn) else { return };
        let Some(session) = self.table.session_mut(conn) else { return };
        // While a part waits for the system, the session's write timeout applies.
        if session.stream_state() != StreamState::Ready {
            return;
        }
        let taken = reader.passed.saturating_sub(rest);
        if rest == 0 || taken > reader.taken {
            (reader.taken, reader.taken_at) = (taken, now);
        } else if now.since(reader.taken_at) >= self.shared.config.timeouts.client_write {
            session.cut_client(now, &mut self.shared);
        }
    }

    fn begin_stream(&mut self, now: Instant, id: ConnId) {
        let mut cursor = Cursor::default();
        let Next::Text(first) = self.live.live.next(now, &mut cursor) else { return };
        let Some(session) = self.table.session_mut(id) else { return };
        let passed = first.len() as u64;
        if session.begin_stream(now, first, &mut self.shared) {
            self.live.feeds_at = Some(now + PART_EVERY);
            if matches!(session.stream_state(), StreamState::Writing | StreamState::Ready) {
                self.make_room_for_stream(now);
            }
            self.live.streams.push(Reader {
                conn: id,
                cursor,
                passed,
                taken: 0,
                taken_at: now,
                measures_at: now + self.measure_every(),
                leaves_by: None,
            });
        }
    }

    /// If there are too many streams, makes the one that has run longest give way. Its reader may
    /// have stopped reading, or be a page in a hidden tab.
    fn make_room_for_stream(&mut self, now: Instant) {
        let stays = |reader: &&mut Reader| reader.leaves_by.is_none();
        if self.live.streams.iter_mut().filter(stays).count() < STREAMS_MAX {
            return;
        }
        if let Some(longest) = self.live.streams.iter_mut().find(stays) {
            longest.leaves_by = Some(now + LEAVE_MAX);
            self.live.feeds_at = Some(now);
        }
    }

    fn measure_every(&self) -> Duration {
        self.shared.config.timeouts.client_write / MEASUREMENTS
    }

    /// Passes the next part to each stream, or ends the stream.
    fn feed_streams(&mut self, now: Instant) {
        let mut next = None;
        let mut look = |at: Instant| next = Some(next.map_or(at, |next: Instant| next.min(at)));
        let is_over = self.shared.is_leaving || self.live.live.poll_timeout().is_none();
        let measure_every = self.measure_every();
        let mut streams = std::mem::take(&mut self.live.streams);
        streams.retain_mut(|reader| {
            let Some(session) = self.table.session_mut(reader.conn) else { return false };
            let is_over = is_over || !session.may_still_see_stats(&self.shared);
            let is_left = match session.stream_state() {
                StreamState::None => return false,
                StreamState::Left => true,
                StreamState::Writing => {
                    look(now + SLOW_EVERY);
                    is_over
                        || self.live.live.is_lost(&reader.cursor)
                        || reader.leaves_by.is_some_and(|at| at <= now)
                }
                StreamState::Ready if is_over || reader.leaves_by.is_some() => true,
                StreamState::Ready if reader.measures_at <= now => {
                    // No part is passed before the measurement, so that all earlier parts have been
                    // sent.
                    reader.measures_at = now + measure_every;
                    self.shared.actions.push_back(Action::Measure { conn: reader.conn });
                    look(now + PART_EVERY);
                    return true;
                }
                StreamState::Ready => match self.live.live.next(now, &mut reader.cursor) {
                    Next::Text(text) => {
                        look(now + PART_EVERY);
                        reader.passed += text.len() as u64;
                        session.handle_part(now, text, &mut self.shared);
                        false
                    }
                    Next::Nothing => return true,
                    Next::Lost => true,
                },
            };
            if is_left {
                let gives_way = reader.leaves_by.is_some() && !is_over;
                let last = if gives_way { replaced() } else { END.into() };
                session.end_stream(now, last, &mut self.shared);
            }
            self.serve(now, reader.conn);
            !is_left
        });
        self.live.streams = streams;
        self.live.feeds_at = next;
    }

    /// Samples the figures of some backends. The last ones complete the sample.
    fn sample(&mut self, now: Instant) {
        if !self.live.live.has(self.upstreams.configured()) {
            self.list_backends();
        }
        let places = self.live.live.step(AT_ONCE);
        let end = places.end;
        for place in places {
            self.sample_backend(now, place);
        }
        if !self.live.live.end_step(now, end) {
            return;
        }
        self.live.all = std::mem::take(&mut self.live.adding);
        let pool = self.pool(now);
        let has_readers = self.live.watchers > 0 || !self.live.streams.is_empty();
        self.live.live.finish(now, &pool, has_readers);
        if has_readers {
            if pool.guard.is_some() && self.live.live.wants_model() {
                self.predict();
            }
            self.live.feeds_at = (!self.live.streams.is_empty()).then_some(now);
        }
    }

    fn sample_backend(&mut self, now: Instant, place: usize) {
        let Some(id) = self.live.live.id(place) else { return };
        let Some(backend) = self.upstreams.backend_snapshot(now, id) else { return };
        let counted = self.live.counted.entry(id).or_default();
        let last = counted.at.replace(now);
        let sketch = &mut self.counters.of(id).recent;
        if last.is_none() {
            // Before the first sample, times and counts cover more than one second.
            *sketch = Sketch::default();
        }
        counted.recent.take(sketch);
        let times = counted.recent.whole();
        self.live.adding.add(&times);
        let [p50, p99] = times.quantiles(SHOWN);
        let seconds = match last.map(|last| now.since(last)) {
            Some(span) if span > LATE_AFTER => span.as_secs_f64(),
            Some(_) => 1.0,
            None => f64::INFINITY,
        };
        let since = |new: u64, old: &mut u64| {
            new.saturating_sub(std::mem::replace(old, new)) as f64 / seconds
        };
        let traffic = Traffic {
            requests: since(backend.requests, &mut counted.requests),
            errors: since(backend.errors, &mut counted.errors),
            refused: since(backend.refused, &mut counted.refused),
            p50,
            p99,
        };
        self.live.live.take(place, Row::new(now, &backend, &traffic));
    }

    /// Lists the backends again after a change.
    fn list_backends(&mut self) {
        let ids = self.upstreams.configured().to_vec();
        let configured: BTreeSet<BackendId> = one_by_one(ids.iter().copied());
        self.live.counted.retain(|id, _| configured.contains(id));
        self.live.adding = Sketch::default();
        let described = |id| {
            let target = self.upstreams.target(id);
            target.map_or_else(
                || (id, "(removed)".to_owned(), String::new()),
                |target| (id, target.name.clone(), target.url.clone()),
            )
        };
        let list = ids.into_iter().map(described).collect();
        self.live.live.set_backends(list);
    }

    /// Returns p50 and p99 of the times to a backend's recent response heads, ms. `None` while
    /// nothing is sampled and without requests.
    pub(super) fn recent_times(&self, id: BackendId) -> [Option<f32>; 2] {
        let counted = self.live.counted.get(&id);
        counted.map_or([None; 2], |counted| counted.recent.whole().quantiles(SHOWN))
    }

    /// Returns the header field with p50 and p99 of all backends together, with its line end; empty
    /// if they are unknown.
    pub(super) fn times_field(&self) -> String {
        match self.live.all.quantiles(SHOWN) {
            [Some(p50), Some(p99)] => {
                format!("X-IntelliProxy-Times: p50Ms={p50:.3}, p99Ms={p99:.3}\r\n")
            }
            _ => String::new(),
        }
    }

    fn predict(&mut self) {
        let ids = self.upstreams.configured();
        if ids.len() > MODELS_MAX {
            return;
        }
        let curves: Vec<_> = ids.iter().map(|id| self.upstreams.predictions(*id)).collect();
        self.live.live.set_model(&curves);
    }

    fn pool(&self, now: Instant) -> Pool {
        let counts = self.upstreams.counts();
        let queue = self.queue.counts();
        Pool {
            policy: self.shared.config.routing.policy.name(),
            guard: self.upstreams.guard(now),
            requests: self.shared.counts.requests,
            clients: self.clients,
            queue: self.queue.len(),
            waited: queue.waited,
            retries: self.shared.retries.counts().done,
            switches: counts.switches,
            holds: counts.holds,
            spills: counts.spills,
            is_leaving: self.shared.is_leaving,
            explains: self.upstreams.decisions().is_some(),
        }
    }
}

/// Whether the figures can be read: by the page, or by `top` over the control socket.
fn is_visible(config: &Config) -> bool {
    let admin = &config.admin;
    admin.listen.is_some() || admin.socket.is_some() || !config.stats.allow.is_empty()
}

const NO_STORE: &str = "Cache-Control: no-store\r\n";
/// The quantiles of response times that are shown.
const SHOWN: [f64; 2] = [0.5, 0.99];
/// Backends whose predictions are shown.
const MODELS_MAX: usize = 64;

#[cfg(test)]
mod tests;
