//! Figures for tests.
use intelliproxy_core::{
    BackendId, BackendSnapshot, Health, Mode, PolicyView, ScoreParts, ScoreView, StandingView,
};

/// Returns a backend that was never probed and had no request.
pub(crate) fn unknown_backend(number: u32, name: &str) -> BackendSnapshot {
    let id = BackendId::from_index(number);
    BackendSnapshot {
        id,
        name: name.to_owned(),
        health: Health::Unknown,
        mode: Mode::Ready,
        weight: 100,
        is_backup: false,
        is_current: false,
        latency: None,
        latency_ewma_ms: None,
        latency_age: None,
        loss_ewma: None,
        ping_age: None,
        pings_answered: 0,
        pings_failed: 0,
        reports_read: 0,
        reports_failed: 0,
        requests: 0,
        errors: 0,
        refused: 0,
        held: None,
        at_work: 0,
        error_rate: 0.0,
        in_flight: 0,
        limit: None,
        response_ewma_ms: None,
        request_age: None,
        queue: None,
        queue_ewma: None,
        running: None,
        pressure: None,
        others: None,
        cpu_busy_ms: None,
        memory_bytes: None,
        report_age: None,
        score: ScoreParts { latency: 10_000.0, total: 10_000.0, ..ScoreParts::default() },
        standing: StandingView::In,
        ejections: 0,
        policy: PolicyView::Score(ScoreView { points: 10_000.0, full_at: Some(4), spills: 7 }),
    }
}
