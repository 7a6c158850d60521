//! Takes back the exposure of requests that turned out to cause no work.
use super::Unit;
use crate::policy::learned::curve::{LEVELS, bin};
use crate::policy::learned::pool::Pool;
use crate::time::millis;

impl Unit {
    /// Subtracts the exposure of a request that its client gave up after `elapsed_ms`. The exposure
    /// was counted at varying numbers in flight; it is subtracted at the current one.
    pub(in crate::policy::learned) fn abandoned(&mut self, pool: &mut Pool, elapsed_ms: f64) {
        let n = self.in_flight + 1;
        if pool.is_booting() {
            let part = elapsed_ms / f64::from(n).sqrt();
            pool.boot_exposure = (pool.boot_exposure - part).max(0.0);
            return;
        }
        let busy = self.busy(n);
        let exposure = elapsed_ms / self.shape.latency(&pool.curve, busy);
        self.due = (self.due - self.due_speed * exposure).max(0.0);
        if self.restraints.is_stalled {
            self.pending = (self.pending - exposure).max(0.0);
            return;
        }
        self.speed.withdraw(exposure);
        self.settle(pool);
        if self.restraints.is_normal() {
            let worked = self.shrunk_speed * elapsed_ms / f64::from(busy);
            let time = &mut pool.curve.time[(busy as usize).min(LEVELS)];
            *time = (*time - worked * self.shape.factor(busy)).max(0.0);
            let predicted = &mut self.shape.predicted[bin(busy)];
            let part = worked * f64::from(busy) / pool.curve.latency(busy);
            *predicted = (*predicted - part).max(0.0);
        }
    }

    /// Takes back the exposure that a stream has added in the last `elapsed_ms`, since no
    /// completion was due. When silence was counted as work, forty silent streams made a backend
    /// look half as fast. The stream's part is that of the last request in flight, not an equal
    /// share. After forty streams are taken back one by one, only the exposure of the other
    /// requests is left. The speed rises at most to the pool's median.
    pub(in crate::policy::learned) fn was_no_work(&mut self, pool: &mut Pool, elapsed_ms: f64) {
        let n = self.in_flight + 1;
        // Earlier time was not counted, or its exposure was dropped.
        let elapsed_ms = elapsed_ms.min(millis(self.looked_at.since(self.counted_from)));
        let more = f64::from(n);
        if pool.is_booting() {
            let part = (more.sqrt() - (more - 1.0).sqrt()) * elapsed_ms;
            pool.boot_exposure = (pool.boot_exposure - part).max(0.0);
            return;
        }
        let busy = self.busy(n);
        let pace = more / self.shape.latency(&pool.curve, busy);
        // The curve does not define a pace for 0 requests.
        let others = if self.in_flight == 0 {
            0.0
        } else {
            let busy = self.busy(self.in_flight);
            f64::from(self.in_flight) / self.shape.latency(&pool.curve, busy)
        };
        let exposure = (pace - others).max(0.0) * elapsed_ms;
        self.due = (self.due - self.due_speed * exposure).max(0.0);
        if self.restraints.is_stalled {
            self.pending = (self.pending - exposure).max(0.0);
            return;
        }
        // The curve counts no time of an ejected backend.
        if self.restraints.is_normal() {
            let predicted = &mut self.shape.predicted[bin(busy)];
            *predicted = (*predicted - self.shrunk_speed * exposure).max(0.0);
        }
        self.speed.withdraw_up_to(exposure, pool.center_speed);
        self.settle(pool);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::id::BackendId;
    use crate::policy::learned::curve::Curve;
    use crate::policy::learned::pool::BOOT;
    use crate::policy::learned::speed::MEMORIES;
    use crate::time::Instant;

    /// A stream that began before the exposure of its backend was counted, or while it was ejected,
    /// takes back only what it has added since: by hand, one second at a pace of one request. The
    /// rest belongs to other requests.
    #[test]
    fn a_stream_takes_back_its_own_part() {
        let mut pool = Pool::new();
        pool.completions = BOOT;
        pool.curve = Curve::new(10.0);
        let began = Instant::from_millis(100_000);
        for is_ejected in [false, true] {
            let mut unit = Unit::new(began, BackendId::from_index(0), 1, &pool);
            unit.set_pace(&pool);
            let others = 7.0;
            unit.speed.expose(others);
            unit.shape.predicted[bin(1)] = others;
            if is_ejected {
                unit.restraints.watch.eject(began);
            }
            // These responses prevent a stall.
            for ms in 1..=1000 {
                let now = began + Duration::from_millis(ms);
                unit.look(now, &mut pool);
                unit.quiet(now);
            }
            let longest = MEMORIES - 1;
            assert!(unit.speed.exposure[longest] > 50.0 + others, "{:?}", unit.speed);
            unit.in_flight = 0;
            unit.was_no_work(&mut pool, 90_000.0);
            let left = unit.speed.exposure[longest];
            assert!((left / others - 1.0).abs() < 0.5, "{is_ejected}: {left}");
            // The curve counts no time of an ejected backend.
            assert!(!is_ejected || unit.shape.predicted[bin(1)] == others);
        }
    }
}
