//! The scripted events of a scenario: faults, joins, leaves and redraws.
use super::backend::seconds;
use super::fault::FaultKind;
use super::group::BackendGroup;
use super::later::Later;
use super::scenario::Scenario;

/// Returns the scripted events with their times, in ns. Of repeated redraws, only the first.
pub(super) fn script(scenario: &Scenario) -> Vec<(u64, Later)> {
    let mut events = Vec::new();
    let mut backend = 0;
    for group in &scenario.backends {
        for turn in 1..=group.count {
            add_backend(&mut events, group, backend, f64::from(turn) / f64::from(group.count));
            backend += 1;
        }
    }
    events
}

/// Adds the events of one backend. `turn` is its place within a redraw period, as a fraction.
fn add_backend(events: &mut Vec<(u64, Later)>, group: &BackendGroup, backend: usize, turn: f64) {
    let joins = Later::Member { backend, is_configured: true };
    events.push((seconds(group.joins_s), joins));
    if let Some(span) = group.stays_s {
        let leaves = Later::Member { backend, is_configured: false };
        events.push((seconds(group.joins_s + span), leaves));
    }
    for (index, fault) in group.faults.iter().enumerate() {
        let from = seconds(fault.from_s);
        events.push((from, Later::Fault { backend, index, is_active: true }));
        if let Some(span) = fault.for_s {
            let ends = Later::Fault { backend, index, is_active: false };
            events.push((seconds(fault.from_s + span), ends));
        }
        if let FaultKind::Redraw { every_s, .. } = fault.what {
            let every = seconds(every_s);
            let first = from + (turn * every as f64) as u64;
            events.push((first, Later::Redraw { backend, index, every }));
        }
    }
}
