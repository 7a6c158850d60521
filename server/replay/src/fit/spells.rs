//! The periods of a backend's faults.
//!
//! The history is cut into pieces in which about [`EXPECTED`] requests should have ended. Adjacent
//! pieces with the same kind of fault are joined to spells.
use std::fmt;

use intelliproxy_core::sorting::sort_by;
use serde_json::{Value, json};

use super::super::text::quantile;
use super::history::{BackendHistory, Contact, Ending, Visit};
use super::rounded;
use super::width::{Change, Width};

/// A period with a fault.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Spell {
    pub(super) from_s: f64,
    pub(super) to_s: f64,
    pub(super) what: What,
}

/// Fault of a spell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum What {
    /// A change of its speed, as a factor.
    Speed(f64),
    /// Errors at once, after this many ms.
    Sinkhole(f64),
    /// This share of its responses were errors.
    Errors(f64),
    /// No responses.
    BlackHole,
    /// No listener.
    Refusing,
}

impl Spell {
    pub(super) fn contains(&self, at_s: f64) -> bool {
        (self.from_s..self.to_s).contains(&at_s)
    }

    /// Returns the fault in the lab's format.
    pub(super) fn to_json(&self) -> Value {
        let what = match self.what {
            What::Speed(factor) => json!({ "speed": rounded(factor) }),
            What::Sinkhole(ms) => json!({ "sinkhole": { "afterMs": rounded(ms) } }),
            What::Errors(share) => json!({ "errors": rounded(share) }),
            What::BlackHole => json!("blackHole"),
            What::Refusing => json!("refusing"),
        };
        let (from, length) = (rounded(self.from_s), rounded(self.to_s - self.from_s));
        json!({ "fromS": from, "forS": length, "what": what })
    }

    /// Returns whether both are adjacent and of the same kind.
    fn joins(&self, next: &Self) -> bool {
        let is_near = next.from_s - self.to_s < 1e-6;
        is_near && std::mem::discriminant(&self.what) == std::mem::discriminant(&next.what)
    }
}

impl fmt::Display for Spell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {:.1} s to {:.1} s: ", self.from_s, self.to_s)?;
        match self.what {
            What::Speed(factor) => write!(f, "{factor:.2} times its speed"),
            What::Sinkhole(ms) => write!(f, "errors at once, after {ms:.1} ms"),
            What::Errors(share) => write!(f, "{:.1} % errors", 100.0 * share),
            What::BlackHole => write!(f, "no responses"),
            What::Refusing => write!(f, "refuses connections"),
        }
    }
}

/// Returns the spells of a backend in order.
pub(super) fn spells(backend: &BackendHistory, width: Option<&Width>, end_s: f64) -> Vec<Spell> {
    let mut spells = refusals(backend, end_s);
    if let Some(width) = width {
        let pieces = pieces(backend, width, end_s);
        let usual = usual_speed(&pieces);
        let good = backend.visits.iter().filter(|visit| visit.is_good());
        let mut good_ms: Vec<f64> = good.map(|visit| visit.latency_ms).collect();
        good_ms.sort_by(f64::total_cmp);
        let usual_ms = quantile(&good_ms, 0.5).unwrap_or_default();
        let mut found: Vec<Spell> = Vec::new();
        for piece in &pieces {
            let is_refusing = spells.iter().any(|spell| spell.contains(piece.from_s));
            let Some(what) = piece.what(usual, usual_ms).filter(|_| !is_refusing) else {
                continue;
            };
            let next = Spell { from_s: piece.from_s, to_s: piece.to_s, what };
            match found.last_mut() {
                Some(last) if last.joins(&next) => {
                    last.what = mix(last, &next);
                    last.to_s = next.to_s;
                }
                _ => found.push(next),
            }
        }
        spells.extend(found.into_iter().filter(|spell| spell.to_s - spell.from_s >= SPELL_MIN_S));
    }
    sort_by(&mut spells, |a, b| a.from_s.total_cmp(&b.from_s));
    spells
}

/// Returns the median speed by time. A median by pieces would favour slow times, which have more
/// pieces.
fn usual_speed(pieces: &[Piece]) -> f64 {
    let mut speeds: Vec<(f64, f64)> =
        pieces.iter().map(|piece| (piece.speed, piece.to_s - piece.from_s)).collect();
    sort_by(&mut speeds, |a, b| a.0.total_cmp(&b.0));
    let half = speeds.iter().map(|(_, length)| length).sum::<f64>() / 2.0;
    let mut passed = 0.0;
    let middle = speeds.iter().find(|(_, length)| {
        passed += length;
        passed >= half
    });
    middle.map_or(1.0, |(speed, _)| speed.max(1e-9))
}

/// Combines two spells, each weighted by its length.
fn mix(one: &Spell, two: &Spell) -> What {
    let (a, b) = (one.to_s - one.from_s, two.to_s - two.from_s);
    let mean = |x: f64, y: f64| (x * a + y * b) / (a + b);
    match (one.what, two.what) {
        (What::Speed(x), What::Speed(y)) => What::Speed(mean(x, y)),
        (What::Sinkhole(x), What::Sinkhole(y)) => What::Sinkhole(mean(x, y)),
        (What::Errors(x), What::Errors(y)) => What::Errors(mean(x, y)),
        (what, _) => what,
    }
}

/// Returns the spells from a refused connection to the next response.
fn refusals(backend: &BackendHistory, end_s: f64) -> Vec<Spell> {
    let mut contacts = backend.contacts.clone();
    sort_by(&mut contacts, |a, b| a.at_s.total_cmp(&b.at_s));
    let (mut spells, mut since) = (Vec::new(), None);
    for Contact { at_s, is_refused } in contacts {
        match (since, is_refused) {
            (None, true) => since = Some(at_s),
            (Some(from_s), false) => {
                spells.push(Spell { from_s, to_s: at_s, what: What::Refusing });
                since = None;
            }
            _ => {}
        }
    }
    if let Some(from_s) = since {
        spells.push(Spell { from_s, to_s: end_s, what: What::Refusing });
    }
    spells
}

/// A piece of a backend's history.
#[derive(Clone, Debug)]
struct Piece {
    from_s: f64,
    to_s: f64,
    /// The number of requests that ended, divided by the number that should have.
    speed: f64,
    good: u32,
    errors: u32,
    timed_out: u32,
    error_ms: f64,
}

impl Piece {
    fn what(&self, usual: f64, usual_ms: f64) -> Option<What> {
        let (good, errors) = (f64::from(self.good), f64::from(self.errors));
        let share = errors / f64::max(good + errors, 1.0);
        if self.good == 0 && (self.timed_out > 0 || self.errors == 0) {
            return Some(What::BlackHole);
        }
        if share >= 0.5 && self.error_ms < 0.3 * usual_ms {
            return Some(What::Sinkhole(self.error_ms));
        }
        if share >= 0.2 {
            return Some(What::Errors(share));
        }
        let factor = self.speed / usual;
        (!(0.6..1.7).contains(&factor)).then_some(What::Speed(factor))
    }
}

/// Cuts the history at equal amounts of expected work, in whole seconds.
///
/// Takes time and memory proportional to the visits, whatever duration the recording claims:
/// seconds in which no request began or ended are handled together.
fn pieces(backend: &BackendHistory, width: &Width, end_s: f64) -> Vec<Piece> {
    // A request with no duration, such as a refused one, held no worker.
    let held = backend.visits.iter().filter(|visit| visit.end_s > visit.at_s);
    let mut changes: Vec<Change> = held.flat_map(Change::both).collect();
    sort_by(&mut changes, Change::order);
    let mut ended: Vec<&Visit> = backend.visits.iter().collect();
    sort_by(&mut ended, |a, b| a.end_s.total_cmp(&b.end_s));
    let busy = changes.iter().map(|change| change.at_s);
    let mut seconds: Vec<u64> =
        busy.chain(ended.iter().map(|visit| visit.end_s)).map(|at| at as u64).collect();
    seconds.sort_unstable();
    seconds.dedup();
    let mut cutter = Cutter {
        per_second: width.per_second,
        end_s,
        pieces: Vec::new(),
        from: 0,
        next: 0,
        expected: 0.0,
        ended: Vec::new(),
    };
    let (mut held, mut changes, mut ended) =
        (0_u32, changes.into_iter().peekable(), ended.into_iter().peekable());
    for second in seconds {
        cutter.pass_to(second, f64::from(held.min(width.workers)));
        let (mut work, mut last) = (0.0, second as f64);
        while let Some(change) = changes.next_if(|change| change.at_s as u64 == second) {
            work += f64::from(held.min(width.workers)) * (change.at_s - last);
            last = change.at_s;
            held = if change.is_begin { held + 1 } else { held.saturating_sub(1) };
        }
        work += f64::from(held.min(width.workers)) * (second as f64 + 1.0 - last);
        while let Some(visit) = ended.next_if(|visit| visit.end_s as u64 == second) {
            cutter.ended.push(visit);
        }
        cutter.pass(work);
    }
    cutter.pieces
}

/// Goes from second to second and ends a piece after enough work.
struct Cutter<'a> {
    /// Requests that a second of work should finish.
    per_second: f64,
    end_s: f64,
    pieces: Vec<Piece>,
    /// The second in which the current piece began.
    from: u64,
    /// The next second.
    next: u64,
    /// Requests that should have ended in the current piece.
    expected: f64,
    /// Requests that ended in the current piece.
    ended: Vec<&'a Visit>,
}

impl Cutter<'_> {
    /// Passes the seconds before `second`, in each of which `workers` were busy and no request
    /// ended.
    fn pass_to(&mut self, second: u64, workers: f64) {
        let each = workers * self.per_second;
        let mut quiet = second.saturating_sub(self.next);
        // These seconds belong to a piece in which a request has ended.
        if each > 0.0 {
            let missing = ((EXPECTED - self.expected) / each).ceil().max(1.0) as u64;
            if missing <= quiet {
                self.next += missing - 1;
                self.expected += each * (missing - 1) as f64;
                self.pass(workers);
                quiet -= missing;
                // All further pieces are empty, so one piece of their total length has the same
                // result.
                let length = (EXPECTED / each).ceil().max(1.0) as u64;
                let whole = quiet / length * length;
                if whole > 0 {
                    self.next += whole;
                    self.expected = each * whole as f64;
                    self.end_piece();
                    quiet -= whole;
                }
            }
        }
        self.next += quiet;
        self.expected += each * quiet as f64;
    }

    /// Passes one second with this amount of work.
    fn pass(&mut self, work: f64) {
        self.next += 1;
        self.expected += work * self.per_second;
        if self.expected >= EXPECTED {
            self.end_piece();
        }
    }

    fn end_piece(&mut self) {
        let ended = std::mem::take(&mut self.ended);
        let count = |is: fn(&Visit) -> bool| ended.iter().filter(|visit| is(visit)).count() as u32;
        let good = count(Visit::is_good);
        let of_errors = ended.iter().filter(|visit| visit.ending == Ending::Error);
        let mut error_ms: Vec<f64> = of_errors.map(|visit| visit.latency_ms).collect();
        error_ms.sort_by(f64::total_cmp);
        self.pieces.push(Piece {
            from_s: self.from as f64,
            to_s: (self.next as f64).min(self.end_s),
            speed: f64::from(good) / self.expected,
            good,
            errors: count(Visit::is_error),
            timed_out: count(|visit| visit.ending == Ending::TimedOut),
            error_ms: quantile(&error_ms, 0.5).unwrap_or(f64::INFINITY),
        });
        (self.from, self.expected) = (self.next, 0.0);
    }
}

/// Requests that should have ended in a piece.
const EXPECTED: f64 = 30.0;
/// Shorter spells count as random variation, s.
const SPELL_MIN_S: f64 = 2.0;
