use super::*;
use crate::config::PolicyKind;
use crate::policy::testing::Bench;

fn learned(bench: &Bench, slot: usize) -> LearnedView {
    let PolicyView::Learned(view) = bench.view(slot) else { panic!("learned is in use") };
    view
}

/// A new pool: nothing known, slow start of two each, and requests spread over all.
#[test]
fn starts_slowly_and_evenly() {
    let mut bench = Bench::new(PolicyKind::Learned, 3);
    let mut counts = [0; 3];
    for _ in 0..6 {
        counts[bench.send(&[])] += 1;
    }
    assert_eq!(counts, [2; 3]);
    assert_eq!(learned(&bench, 0).state, LearnedState::SlowStart { window: 2 });
    assert_eq!(learned(&bench, 0).speed, 1.0);
}
