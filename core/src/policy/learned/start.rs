//! The initial speed of a backend whose relative capacity is configured.
use super::pool::Pool;
use super::unit::Unit;

impl Unit {
    /// Starts the speed at `factor`, unless there are completions or `factor` is 1. Returns whether
    /// the speed has changed.
    pub(super) fn start(&mut self, factor: f64, pool: &Pool) -> bool {
        let is_started = self.speed.start(factor);
        if is_started {
            self.settle(pool);
            self.due_speed = self.shrunk_speed;
        }
        is_started
    }
}
