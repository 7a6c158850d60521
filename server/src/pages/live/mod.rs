//! The state behind the live page: figures of every backend once a second, ten minutes of history,
//! the last events, and the texts of the event streams (server-sent events, HTML standard section
//! 9.2).
//!
//! `proxy/live.rs` feeds it. The only cost per request is that of counting one response time. Each
//! reader of a stream has a [`Cursor`] and requests the next text after it has sent the last one,
//! so nothing is buffered for a slow reader.
//!
//! | event | contents |
//! |---|---|
//! | `hello` | names of fields and states, the pool, the last events; begins a stream and follows a change of the backends |
//! | `backends` | name, URL, row and history of some backends |
//! | `tick` | what has changed within the last second |
//! | `model` | the learner's predictions, every five seconds |
//! | `replaced` | nothing; ends a stream that another reader replaces |
mod events;
mod history;
mod row;
mod sketch;

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::{BackendId, GuardView, Instant};
use serde_json::{Value, json};

use self::events::Events;
pub(crate) use self::events::Kind;
use self::history::{History, interval};
pub(crate) use self::row::{FIELDS, Row, Traffic};
pub(crate) use self::sketch::{Recent, Sketch};
use super::state::State;
use crate::collect::one_by_one;

/// Time between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Time between two steps of one sample.
const STEP: Duration = Duration::from_millis(1);
/// Number of ticks that a slow reader may lag behind. Beyond that its stream ends, and its page
/// opens a new one.
const TICKS_KEPT: usize = 8;
/// Number of backends in one text of a stream. Traffic is served between two texts.
const BACKENDS_AT_ONCE: usize = 8;
/// Seconds between two models.
const MODEL_EVERY: u64 = 5;
/// Time between two parts of an event stream to one reader.
pub(crate) const PART_EVERY: Duration = Duration::from_millis(5);
/// Time after which a reader that has not taken the last part is checked again.
pub(crate) const SLOW_EVERY: Duration = Duration::from_millis(100);
/// The response to a reader while nothing is sampled.
pub(crate) const NO_STREAM: &str =
    "503 Service Unavailable: there are no backends, or the proxy is stopping\n";

/// The figures of the pool as a whole.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    pub(crate) policy: &'static str,
    pub(crate) guard: Option<GuardView>,
    pub(crate) requests: u64,
    pub(crate) clients: usize,
    pub(crate) queue: usize,
    pub(crate) waited: u64,
    pub(crate) retries: u64,
    pub(crate) switches: u64,
    pub(crate) holds: u64,
    pub(crate) spills: u64,
    pub(crate) is_leaving: bool,
    /// Whether the last decisions are kept, so that they can be explained.
    pub(crate) explains: bool,
}

/// The page's data of one backend.
#[derive(Debug)]
struct Tracked {
    id: BackendId,
    name: String,
    url: String,
    /// The row of the last complete sample, as sent to readers.
    shown: Row,
    next: Row,
    history: History,
}

/// The predictions of a learner for one backend: requests in flight and the latency in ms.
pub(crate) type Curve = Vec<(u32, f64)>;

/// See the documentation of the module.
#[derive(Debug)]
pub(crate) struct Live {
    backends: Vec<Tracked>,
    /// Differs for every list of backends.
    generation: u64,
    is_listed: bool,
    /// The backend that a sample in progress continues with.
    at: Option<usize>,
    /// The time of the next step; `None` if nothing is sampled.
    step_at: Option<Instant>,
    sampled_at: Instant,
    samples: u64,
    pool: String,
    events: Events,
    /// The number of the last event in the ticks so far.
    shown_events: u64,
    was_in_charge: Option<bool>,
    /// The last ticks with their numbers; empty without readers.
    ticks: VecDeque<(u64, Arc<[u8]>)>,
    next_tick: u64,
    /// The last model with its number.
    model: Option<(u64, Arc<[u8]>)>,
}

/// The place of a reader in the stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cursor {
    generation: u64,
    backends: usize,
    tick: u64,
    model: u64,
}

/// The next text for a reader.
#[derive(Debug)]
pub(crate) enum Next {
    Text(Arc<[u8]>),
    /// The reader has everything.
    Nothing,
    /// The reader is too slow.
    Lost,
}

impl Live {
    pub(crate) fn new() -> Self {
        Self {
            backends: Vec::new(),
            // A new cursor has 0, so that every reader begins with a hello.
            generation: 1,
            is_listed: false,
            at: None,
            step_at: None,
            sampled_at: Instant::ZERO,
            samples: 0,
            pool: "{}".to_owned(),
            events: Events::default(),
            shown_events: 0,
            was_in_charge: None,
            ticks: VecDeque::new(),
            next_tick: 1,
            model: None,
        }
    }

    /// Starts or stops sampling.
    pub(crate) fn set_sampling(&mut self, now: Instant, is_wanted: bool) {
        if is_wanted != self.step_at.is_some() {
            self.step_at = is_wanted.then_some(now);
            self.at = None;
        }
    }

    /// Returns the time of the next step of a sample.
    pub(crate) const fn poll_timeout(&self) -> Option<Instant> {
        self.step_at
    }

    /// Adds an event to the time line.
    pub(crate) fn add_event(&mut self, now: Instant, kind: Kind, text: String) {
        if self.step_at.is_some() {
            self.events.add(now, kind, text);
        }
    }

    /// Whether a reader is so far behind that it cannot continue.
    pub(crate) fn is_lost(&self, cursor: &Cursor) -> bool {
        cursor.tick + (TICKS_KEPT as u64) < self.next_tick
    }

    /// Requests a new list of the backends with the next sample, because their order, names,
    /// addresses or limits may have changed.
    pub(crate) fn forget_list(&mut self) {
        self.is_listed = false;
    }

    /// Whether these are the backends that are sampled.
    pub(crate) fn has(&self, configured: &[BackendId]) -> bool {
        self.is_listed
            && self.backends.len() == configured.len()
            && self.backends.iter().map(|tracked| &tracked.id).eq(configured)
    }

    /// Sets a new list of backends, each with id, name and URL. Remaining backends keep their
    /// history, converted to the interval of the new list.
    pub(crate) fn set_backends(&mut self, list: Vec<(BackendId, String, String)>) {
        let (old_interval, new_interval) = (interval(self.backends.len()), interval(list.len()));
        let old = std::mem::take(&mut self.backends);
        let mut old: BTreeMap<BackendId, Tracked> =
            one_by_one(old.into_iter().map(|tracked| (tracked.id, tracked)));
        self.backends = list
            .into_iter()
            .map(|(id, name, url)| match old.remove(&id) {
                Some(mut tracked) => {
                    tracked.history.set_interval(old_interval, new_interval);
                    Tracked { name, url, ..tracked }
                }
                None => Tracked {
                    id,
                    name,
                    url,
                    shown: Row::EMPTY,
                    next: Row::EMPTY,
                    history: History::default(),
                },
            })
            .collect();
        self.generation += 1;
        self.is_listed = true;
        self.at = None;
        self.model = None;
    }

    /// Returns the backends of the next step of a sample. [`take`](Self::take) gets
    /// their rows; [`end_step`](Self::end_step) follows.
    pub(crate) fn step(&self, most: usize) -> std::ops::Range<usize> {
        let first = self.at.unwrap_or(0).min(self.backends.len());
        first..(first + most).min(self.backends.len())
    }

    /// Takes the row of a backend.
    pub(crate) fn take(&mut self, backend: usize, row: Row) {
        if let Some(tracked) = self.backends.get_mut(backend) {
            tracked.next = row;
        }
    }

    /// Returns the id of the backend at this index.
    pub(crate) fn id(&self, backend: usize) -> Option<BackendId> {
        self.backends.get(backend).map(|tracked| tracked.id)
    }

    /// Ends a step. Returns whether the sample has all backends; then [`finish`](Self::finish)
    /// follows.
    pub(crate) fn end_step(&mut self, now: Instant, next: usize) -> bool {
        if next < self.backends.len() {
            self.at = Some(next);
            self.step_at = Some(now + STEP);
            return false;
        }
        self.at = None;
        true
    }

    /// Completes a sample. Without readers, no text is built.
    pub(crate) fn finish(&mut self, now: Instant, pool: &Pool, has_readers: bool) {
        let regular = self.sampled_at + SAMPLE_EVERY;
        // After a pause the next sample is due a second after this one.
        let is_regular = regular <= now && now.since(regular) < SAMPLE_EVERY;
        let begun = if is_regular { regular } else { now };
        self.sampled_at = begun;
        self.step_at = Some((begun + SAMPLE_EVERY).max(now + STEP));
        self.samples += 1;
        self.note_guard(now, pool.guard.as_ref());
        let interval = interval(self.backends.len());
        for tracked in &mut self.backends {
            tracked.history.add(tracked.next.sample(), interval);
        }
        self.pool = pool_json(pool).to_string();
        if has_readers {
            let text = self.tick_text(now);
            if self.ticks.len() == TICKS_KEPT {
                self.ticks.pop_front();
            }
            self.ticks.push_back((self.next_tick, text));
        } else {
            self.ticks.clear();
        }
        self.next_tick += 1;
        self.shown_events = self.events.count();
        self.backends.iter_mut().for_each(|tracked| tracked.shown = tracked.next);
    }

    /// Whether a model is due for readers.
    pub(crate) const fn wants_model(&self) -> bool {
        self.model.is_none() || self.samples.is_multiple_of(MODEL_EVERY)
    }

    /// Takes the learner's predictions for each backend, in their order.
    pub(crate) fn set_model(&mut self, curves: &[Curve]) {
        let curves: Vec<Vec<[f64; 2]>> = curves
            .iter()
            .map(|curve| {
                curve
                    .iter()
                    .map(|(n, ms)| [f64::from(*n), (ms * 1000.0).round() / 1000.0])
                    .collect()
            })
            .collect();
        let text = event("model", &json!({ "curves": curves }).to_string());
        self.model = (!curves.is_empty()).then_some((self.samples, text));
    }

    /// Returns the next text for a reader, and advances its cursor.
    pub(crate) fn next(&self, now: Instant, cursor: &mut Cursor) -> Next {
        if cursor.generation != self.generation {
            *cursor =
                Cursor { generation: self.generation, backends: 0, tick: self.next_tick, model: 0 };
            return Next::Text(self.hello_text(now));
        }
        if cursor.tick < self.next_tick {
            let Some((_, text)) = self.ticks.iter().find(|(number, _)| *number == cursor.tick)
            else {
                return Next::Lost;
            };
            cursor.tick += 1;
            return Next::Text(Arc::clone(text));
        }
        if cursor.backends < self.backends.len() {
            let end = (cursor.backends + BACKENDS_AT_ONCE).min(self.backends.len());
            let text = self.backends_text(cursor.backends, end);
            cursor.backends = end;
            return Next::Text(text);
        }
        match &self.model {
            Some((number, text)) if *number != cursor.model => {
                cursor.model = *number;
                Next::Text(Arc::clone(text))
            }
            _ => Next::Nothing,
        }
    }

    fn note_guard(&mut self, now: Instant, guard: Option<&GuardView>) {
        let is_in_charge = guard.map(|guard| guard.is_learner_in_charge);
        let was = std::mem::replace(&mut self.was_in_charge, is_in_charge);
        if let (Some(was), Some(is)) = (was, is_in_charge)
            && was != is
        {
            let text = if is {
                "the learner is in charge again"
            } else {
                "least_request is in charge: the learner did worse than it"
            };
            self.add_event(now, Kind::Guard, text.to_owned());
        }
    }

    fn hello_text(&self, now: Instant) -> Arc<[u8]> {
        let mut data = format!(
            "{{\"program\":\"IntelliProxy {}\",\"at\":{},\"interval\":{},\"covered\":{},\"fields\":{},\
             \"states\":{},\"unusable\":{},\"eventsMax\":{},\"count\":{},\"pool\":{},\"events\":",
            env!("CARGO_PKG_VERSION"),
            now.as_nanos() / 1_000_000,
            interval(self.backends.len()),
            history::COVERED,
            json!(&FIELDS[..]),
            json!(State::ALL.map(State::name)),
            json!(
                State::ALL
                    .iter()
                    .filter(|one| !one.is_usable())
                    .map(|one| one.name())
                    .collect::<Vec<_>>()
            ),
            events::EVENTS_MAX,
            self.backends.len(),
            self.pool,
        );
        // Later events are in the next tick.
        self.events.write(1..=self.shown_events, &mut data);
        data.push('}');
        event("hello", &data)
    }

    fn backends_text(&self, first: usize, end: usize) -> Arc<[u8]> {
        let mut data = format!("{{\"first\":{first},\"backends\":[");
        for tracked in self.backends.get(first..end).unwrap_or_default() {
            let comma = if data.ends_with('[') { "" } else { "," };
            let (name, url) =
                (Value::from(tracked.name.as_str()), Value::from(tracked.url.as_str()));
            let _ = write!(data, "{comma}{{\"name\":{name},\"url\":{url},\"row\":");
            tracked.shown.write(&mut data);
            data.push_str(",\"history\":");
            tracked.history.write(&mut data);
            data.push('}');
        }
        data.push_str("]}");
        event("backends", &data)
    }

    fn tick_text(&self, now: Instant) -> Arc<[u8]> {
        let (at, pool) = (now.as_nanos() / 1_000_000, &self.pool);
        let mut data = format!("{{\"at\":{at},\"pool\":{pool},\"rows\":[");
        for (place, tracked) in self.backends.iter().enumerate() {
            tracked.next.write_changes(&tracked.shown, place, &mut data);
        }
        data.push_str("],\"events\":");
        self.events.write(self.shown_events + 1..=self.events.count(), &mut data);
        data.push('}');
        event("tick", &data)
    }
}

/// The text that ends a stream.
pub(crate) const END: &[u8] = b"0\r\n\r\n";

/// Returns the text that ends a stream that another reader replaces. It makes an automatic
/// reconnection wait a minute, so that two readers do not keep replacing each other.
pub(crate) fn replaced() -> Arc<[u8]> {
    const LAST: &str = "retry: 60000\nevent: replaced\ndata: {}\n\n";
    [format!("{:x}\r\n{LAST}\r\n", LAST.len()).as_bytes(), END].concat().into()
}

/// Returns an event as a chunk of the chunked coding (RFC 9112 section 7.1). `data` has no line
/// end.
fn event(name: &str, data: &str) -> Arc<[u8]> {
    let length = "event: \ndata: \n\n".len() + name.len() + data.len();
    format!("{length:x}\r\nevent: {name}\ndata: {data}\n\n\r\n").into_bytes().into()
}

fn pool_json(pool: &Pool) -> Value {
    let guard = pool.guard.as_ref().map(|guard| {
        json!({
            "inCharge": guard.is_learner_in_charge,
            "returnsInMs": guard.returns_in.map(|span| span.as_millis() as u64),
            "demotions": guard.demotions, "controls": guard.controls, "ratio": guard.ratio,
            "interval": guard.interval.map(|(low, high)| [low, high]), "alarm": guard.alarm,
        })
    });
    json!({
        "policy": pool.policy, "guard": guard, "requests": pool.requests, "clients": pool.clients,
        "queue": pool.queue, "waited": pool.waited, "retries": pool.retries,
        "switches": pool.switches, "holds": pool.holds, "spills": pool.spills,
        "leaving": pool.is_leaving, "explains": pool.explains,
    })
}

/// Appends a number as JSON, or `null` if it is not finite.
fn write_number(text: &mut String, number: f64) {
    let _ = if number.is_finite() { write!(text, "{number}") } else { write!(text, "null") };
}

#[cfg(test)]
mod tests;
