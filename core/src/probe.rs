//! When backends are asked how they are: what is due, outstanding and overdue.
//!
//! Each backend has one line of pings and one of reports, and a line is always in one state:
//!
//! | state | left by | for |
//! |---|---|---|
//! | due at a time | that time | outstanding |
//! | outstanding until a deadline | its result or the deadline | due again, or idle when retired |
//! | idle (retired) | the backend's return | due |
//!
//! So no line ever has two probes outstanding. The first probe of each line is due at once. The
//! next is due one interval after the last one's start, the second one earlier: backend `i` of `n`
//! waits for `(i + 1) / n` of the interval, which spreads the backends over it from then on. While
//! a health verdict is open, or few pings are in, the next ping follows a short time after the last
//! one's end.
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
    /// The time at which each line wants attention, in nanoseconds.
    deadlines: Tournament,
    /// The line of each outstanding probe; at most one for each line.
    outstanding: BTreeMap<ProbeId, LineId>,
    started: u64,
}

/// One backend's pings or reports.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct LineId {
    pub(crate) backend: BackendId,
    pub(crate) kind: ProbeKind,
}

/// Wish of a line when its time has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Due {
    /// Its next probe be started.
    Start(LineId),
    /// Its probe be given up: the deadline has passed.
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
    /// The wait after the first probe, which spreads the backends; `None` once waited.
    first_wait: Option<Duration>,
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

    /// Adds a new or returned backend, the `index`th of `count` and the `nth` that comes now: its
    /// first probes are due at once (in a large pool a little later for each batch before), or when
    /// those still outstanding from before it left have ended. Probes of another backend
    /// that had its slot before are given up: their results are late news.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        backend: BackendId,
        (index, count): (usize, usize),
        nth: usize,
        rules: &ProbeRules,
    ) {
        let at = now + BATCHES_APART * u32::try_from(nth / BATCH).unwrap_or(u32::MAX);
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
            self.lines.push(Line { id: line, state: idle, first_wait, is_retired: false });
            self.deadlines.push(ABSENT);
            self.enter(line, LineState::Due { at });
        }
    }

    /// A backend left: nothing more is started; what is outstanding may still end.
    pub(crate) fn retire(&mut self, backend: BackendId) {
        for kind in [ProbeKind::Ping, ProbeKind::Report] {
            let line = LineId { backend, kind };
            self.lines[line.slot()].is_retired = true;
            if matches!(self.lines[line.slot()].state, LineState::Due { .. }) {
                self.enter(line, LineState::Idle);
            }
        }
    }

    /// Takes new rules: no probe waits longer than the new interval from now.
    pub(crate) fn reconfigure(&mut self, now: Instant, rules: &ProbeRules) {
        for slot in 0..self.lines.len() {
            let Line { id: line, state, .. } = self.lines[slot];
            if let LineState::Due { at } = state {
                let at = at.min(now + rules.interval(line.kind));
                self.enter(line, LineState::Due { at });
            }
        }
    }

    /// Returns what is due by `now`; to be called until `None`.
    pub(crate) fn due(&self, now: Instant) -> Option<Due> {
        let winner = self.deadlines.winner()?;
        if winner.key > now.as_nanos() {
            return None;
        }
        match self.lines[winner.slot].state {
            LineState::Idle => None,
            LineState::Due { .. } => Some(Due::Start(self.lines[winner.slot].id)),
            LineState::Outstanding { probe, .. } => Some(Due::GiveUp(probe)),
        }
    }

    /// Starts the next probe of a line that is due; returns its id and deadline.
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
        self.enter(line, LineState::Outstanding { probe, started_at: now, deadline });
        (probe, deadline)
    }

    /// A probe came to its end; `None` when it is not outstanding. Its line is idle until
    /// [`schedule`](Self::schedule).
    pub(crate) fn finish(&mut self, probe: ProbeId) -> Option<EndedProbe> {
        let line = self.outstanding.remove(&probe)?;
        let LineState::Outstanding { started_at, deadline, .. } = self.lines[line.slot()].state
        else {
            debug_assert!(false, "an outstanding probe's line says so");
            return None;
        };
        self.enter(line, LineState::Idle);
        Some(EndedProbe { line, started_at, deadline })
    }

    /// Makes the line of an ended probe due again, unless its backend is retired. `is_open`: a
    /// health verdict or an average that has only begun waits for the next one.
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

    /// Sees to it that a backend's next ping starts at `at` or before, unless one is outstanding.
    pub(crate) fn hasten(&mut self, backend: BackendId, at: Instant) {
        let line = LineId { backend, kind: ProbeKind::Ping };
        if let LineState::Due { at: due } = self.lines[line.slot()].state
            && due > at
        {
            self.enter(line, LineState::Due { at });
        }
    }

    /// The earliest time at which a line wants attention.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadlines.winner().map(|entry| Instant::from_nanos(entry.key))
    }

    /// States what holds between calls; panics where it does not.
    pub(crate) fn check_invariants(&self) {
        for (slot, line) in self.lines.iter().enumerate() {
            let id = line.id;
            assert!(
                self.deadlines.key(slot) == line.state.key(),
                "the deadlines know {id:?} as it is"
            );
            match line.state {
                LineState::Outstanding { probe, .. } => assert!(
                    self.outstanding.get(&probe) == Some(&id),
                    "the outstanding probe of {id:?} is found by its id"
                ),
                LineState::Due { .. } => {
                    assert!(!line.is_retired, "a retired backend has no probe due");
                }
                LineState::Idle => assert!(line.is_retired, "only retired backends rest"),
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

/// Backends that come together and are first probed at the same time.
const BATCH: usize = 16;
/// The first probes of two such batches are this far apart. A probe costs the proxy some 0.1 ms,
/// so that the 2000 of 1000 backends that come together would hold it up for 0.2 s.
const BATCHES_APART: Duration = Duration::from_millis(8);

impl LineId {
    const fn slot(self) -> usize {
        2 * self.backend.index() + matches!(self.kind, ProbeKind::Report) as usize
    }
}

impl LineState {
    /// When it wants attention; the far future counts as never.
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

/// `part / whole` of a span of at most an hour, which no number of backends makes overflow.
fn portion(span: Duration, part: usize, whole: usize) -> Duration {
    let nanos = span.as_nanos() * part as u128 / whole.max(1) as u128;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
