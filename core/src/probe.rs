//! Schedules probes: starts those that are due, tracks the outstanding ones, and gives up overdue
//! ones. The results are applied in `router/probing.rs`.
//!
//! Each backend has one line of pings and one of reports. A line is always in one state:
//!
//! | state | left on | for |
//! |---|---|---|
//! | due at a time | that time | outstanding |
//! | outstanding until a deadline | its result or the deadline | due again, or idle when retired |
//! | idle (retired) | the backend's return | due |
//!
//! A line therefore never has two probes outstanding. The first probe of each line is due at once.
//! The next one is due one interval after the start of the last. Only the wait for the second one
//! is shorter: backend `i` of `n`, counted from 0, waits `(i + 1) / n` of the interval. This then
//! spreads the backends over the interval. While a health verdict is open, or there are few pings,
//! the next ping follows a short time after the end of the last one.
use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::ProbeRules;
use crate::event::ProbeKind;
use crate::id::{BackendId, ProbeId};
use crate::time::Instant;
use crate::tournament::{ABSENT, Tournament};

/// The lines of probes, two for each backend.
///
/// Commands: `add`, `retire`, `start`, `finish`, `schedule`. Getters: `due`, `deadline`.
#[derive(Debug)]
pub(crate) struct ProbeSchedule {
    lines: Vec<Line>,
    /// The time at which each line is due, in nanoseconds.
    deadlines: Tournament,
    /// The line of each outstanding probe; at most one per line.
    outstanding: BTreeMap<ProbeId, LineId>,
    started: u64,
}

/// One backend's pings or reports.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct LineId {
    pub(crate) backend: BackendId,
    pub(crate) kind: ProbeKind,
}

/// The work of a line that is due.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Due {
    /// Start its next probe.
    Start(LineId),
    /// Give up its probe: the deadline has passed.
    GiveUp(ProbeId),
}

/// A probe that is no longer outstanding.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedProbe {
    pub(crate) line: LineId,
    pub(crate) started_at: Instant,
    pub(crate) deadline: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    id: LineId,
    state: LineState,
    /// The wait after the first probe, which spreads the backends; `None` once it has passed.
    first_wait: Option<Duration>,
    /// The start of the last probe.
    last_start: Option<Instant>,
    is_retired: bool,
}

#[derive(Clone, Copy, Debug)]
enum LineState {
    Idle,
    Due { at: Instant },
    Outstanding { probe: ProbeId, started_at: Instant, deadline: Instant },
}

impl ProbeSchedule {
    pub(crate) fn new() -> Self {
        Self {
            lines: Vec::new(),
            deadlines: Tournament::new(),
            outstanding: BTreeMap::new(),
            started: 0,
        }
    }

    /// Adds a new or returned backend: number `index` of `count`, and the `nth` of those that join
    /// now. Its first probes are due at once or, in a large pool, a little later for each batch
    /// before it. If a probe from before its removal is still outstanding, the next one of the same
    /// kind is due after that one's end. Probes of a previous backend in its slot are abandoned;
    /// their results count as late.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        backend: BackendId,
        (index, count): (usize, usize),
        nth: usize,
        rules: &ProbeRules,
    ) {
        let at = now + batch_wait(nth);
        for kind in [ProbeKind::Ping, ProbeKind::Report] {
            let line = LineId { backend, kind };
            let first_wait = Some(portion(rules.interval(kind), index + 1, count));
            if let Some(old) = self.lines.get_mut(line.slot()) {
                if let LineState::Outstanding { probe, .. } = old.state
                    && old.id != line
                {
                    self.outstanding.remove(&probe);
                    old.state = LineState::Idle;
                }
                old.last_start = old.last_start.filter(|_| old.id == line);
                old.id = line;
                old.is_retired = false;
                old.first_wait = first_wait;
                if matches!(old.state, LineState::Idle) {
                    self.enter(line, LineState::Due { at });
                }
                continue;
            }
            debug_assert!(self.lines.len() == line.slot(), "slots are given out without gaps");
            let idle = LineState::Idle;
            let (last_start, is_retired) = (None, false);
            self.lines.push(Line { id: line, state: idle, first_wait, last_start, is_retired });
            self.deadlines.push(ABSENT);
            self.enter(line, LineState::Due { at });
        }
    }

    /// Stops starting probes for a backend that was removed. Outstanding ones may still end.
    pub(crate) fn retire(&mut self, backend: BackendId) {
        for kind in [ProbeKind::Ping, ProbeKind::Report] {
            let line = LineId { backend, kind };
            self.lines[line.slot()].is_retired = true;
            if matches!(self.lines[line.slot()].state, LineState::Due { .. }) {
                self.enter(line, LineState::Idle);
            }
        }
    }

    /// Applies new rules, which `rules` returns for a backend: no probe waits longer than the new
    /// interval from now.
    pub(crate) fn reconfigure(&mut self, now: Instant, rules: impl Fn(BackendId) -> ProbeRules) {
        for slot in 0..self.lines.len() {
            let Line { id: line, state, .. } = self.lines[slot];
            if let LineState::Due { at } = state {
                let at = at.min(now + rules(line.backend).interval(line.kind));
                self.enter(line, LineState::Due { at });
            }
        }
    }

    /// The next work that is due by `now`. The caller repeats the call until `None`.
    pub(crate) fn due(&self, now: Instant) -> Option<Due> {
        let winner = self.deadlines.winner()?;
        if winner.key > now.as_nanos() {
            return None;
        }
        match self.lines[winner.slot].state {
            // An idle line has no deadline, so another one wins.
            LineState::Idle => None,
            LineState::Due { .. } => Some(Due::Start(self.lines[winner.slot].id)),
            LineState::Outstanding { probe, .. } => Some(Due::GiveUp(probe)),
        }
    }

    /// Starts the next probe of a line that is due. Returns its id and deadline.
    pub(crate) fn start(
        &mut self,
        now: Instant,
        line: LineId,
        rules: &ProbeRules,
    ) -> (ProbeId, Instant) {
        debug_assert!(
            matches!(self.lines[line.slot()].state, LineState::Due { .. }),
            "a probe is started only when none is outstanding"
        );
        self.started += 1;
        let probe = ProbeId(self.started);
        let deadline = now + rules.timeout(line.kind);
        self.outstanding.insert(probe, line);
        self.lines[line.slot()].last_start = Some(now);
        self.enter(line, LineState::Outstanding { probe, started_at: now, deadline });
        (probe, deadline)
    }

    /// Skips the due probe of a line: the next one is due after another interval.
    pub(crate) fn skip(&mut self, now: Instant, line: LineId, rules: &ProbeRules) {
        self.lines[line.slot()].first_wait = None;
        self.enter(line, LineState::Due { at: now + rules.interval(line.kind) });
    }

    /// Ends a probe; `None` if it is not outstanding. Its line is idle until
    /// [`schedule`](Self::schedule).
    pub(crate) fn finish(&mut self, probe: ProbeId) -> Option<EndedProbe> {
        let line = self.outstanding.remove(&probe)?;
        let LineState::Outstanding { started_at, deadline, .. } = self.lines[line.slot()].state
        else {
            debug_assert!(false, "the line of an outstanding probe is outstanding");
            return None;
        };
        self.enter(line, LineState::Idle);
        Some(EndedProbe { line, started_at, deadline })
    }

    /// Schedules the next probe of a line whose probe has ended, unless its backend is retired.
    /// `is_open` is whether a health verdict or a new average needs the next ping soon.
    pub(crate) fn schedule(
        &mut self,
        now: Instant,
        ended: EndedProbe,
        is_open: bool,
        rules: &ProbeRules,
    ) {
        let line = &mut self.lines[ended.line.slot()];
        if line.is_retired {
            return;
        }
        let interval = rules.interval(ended.line.kind);
        // From the start of the last probe, so that slow probes do not stretch the interval.
        // A reload may have made the interval shorter than the first wait.
        let regular = ended.started_at + line.first_wait.unwrap_or(interval).min(interval);
        let retry = now + rules.ping_retry;
        let at = if is_open && retry < regular {
            retry
        } else {
            line.first_wait = None;
            regular
        };
        self.enter(ended.line, LineState::Due { at });
    }

    /// Moves a backend's next ping to `at` if it is due later. Does nothing while one is
    /// outstanding.
    pub(crate) fn hasten(&mut self, backend: BackendId, at: Instant) {
        let line = LineId { backend, kind: ProbeKind::Ping };
        if let LineState::Due { at: due } = self.lines[line.slot()].state
            && due > at
        {
            self.enter(line, LineState::Due { at });
        }
    }

    /// Moves a backend's next ping to a moment after `now`, or to [`HASTENED_APART`] after the start
    /// of its last one if that is later. It is the `nth` backend for which this happens now: many
    /// are pinged in batches, like those that join. Does nothing if the ping is due earlier, or
    /// while one is outstanding.
    pub(crate) fn hasten_early(&mut self, now: Instant, backend: BackendId, nth: usize) {
        let line = LineId { backend, kind: ProbeKind::Ping };
        let last = self.lines[line.slot()].last_start;
        let at = now + HASTENED_BY;
        let at = last.map_or(at, |last| at.max(last + HASTENED_APART));
        self.hasten(backend, at + batch_wait(nth));
    }

    /// The earliest time at which a line is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.winner().map(|entry| Instant::from_nanos(entry.key))
    }

    /// Checks what must hold between calls, and panics otherwise.
    pub(crate) fn check_invariants(&self) {
        for (slot, line) in self.lines.iter().enumerate() {
            let id = line.id;
            assert!(
                self.deadlines.key(slot) == line.state.key(),
                "the deadlines have the current time of {id:?}"
            );
            match line.state {
                LineState::Outstanding { probe, .. } => assert!(
                    self.outstanding.get(&probe) == Some(&id),
                    "the outstanding probe of {id:?} is found by its id"
                ),
                LineState::Due { .. } => {
                    assert!(!line.is_retired, "a retired backend has no probe due");
                }
                LineState::Idle => {
                    assert!(line.is_retired, "only lines of retired backends are idle")
                }
            }
        }
        let outstanding = self.lines.iter().filter(|line| line.state.is_outstanding()).count();
        assert!(outstanding == self.outstanding.len(), "every outstanding probe has its line");
    }

    fn enter(&mut self, line: LineId, state: LineState) {
        self.lines[line.slot()].state = state;
        self.deadlines.set(line.slot(), state.key());
    }
}

/// Backends that join together and are first probed at the same time.
const BATCH: usize = 16;
/// The first probes of two such batches are this far apart. A probe costs the proxy some 0.1 ms:
/// without batches the 2000 first probes of 1000 backends would occupy it for 0.2 s.
const BATCHES_APART: Duration = Duration::from_millis(8);
/// The minimum time between the starts of two pings of a backend of which the second is early
/// because no backend is usable. Whatever requests do, a pool without a usable backend gets at most
/// five times the pings of the default interval. Chosen: a backend that was found dead less than a
/// second ago has rarely returned, and requests find it as well.
const HASTENED_APART: Duration = Duration::from_secs(1);
/// The wait before an early ping. With it, no event makes work due at its own time, so a driver
/// never handles a timeout twice at one time.
const HASTENED_BY: Duration = Duration::from_millis(1);

/// The wait of the `nth` of several first or early probes.
fn batch_wait(nth: usize) -> Duration {
    BATCHES_APART * u32::try_from(nth / BATCH).unwrap_or(u32::MAX)
}

impl LineId {
    const fn slot(self) -> usize {
        2 * self.backend.index() + matches!(self.kind, ProbeKind::Report) as usize
    }
}

impl LineState {
    /// The time at which the line is due; the far future means never.
    const fn key(self) -> u64 {
        match self {
            Self::Idle => ABSENT,
            Self::Due { at } => at.as_nanos(),
            Self::Outstanding { deadline, .. } => deadline.as_nanos(),
        }
    }

    const fn is_outstanding(self) -> bool {
        matches!(self, Self::Outstanding { .. })
    }
}

impl ProbeRules {
    const fn interval(&self, kind: ProbeKind) -> Duration {
        match kind {
            ProbeKind::Ping => self.ping_interval,
            ProbeKind::Report => self.report_interval,
        }
    }

    const fn timeout(&self, kind: ProbeKind) -> Duration {
        match kind {
            ProbeKind::Ping => self.ping_timeout,
            ProbeKind::Report => self.report_timeout,
        }
    }
}

/// Returns `part / whole` of a span of at most an hour. In 128 bits it cannot overflow.
fn portion(span: Duration, part: usize, whole: usize) -> Duration {
    let nanos = span.as_nanos() * part as u128 / whole.max(1) as u128;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
