//! The workers and the queue of a backend.
//!
//! All requests in service advance at the same pace: `speed / (1 + sharing · (k − 1))` with k in
//! service. So one clock of completed work is enough for all: a request ends when that clock has
//! advanced by its work. A change of speed only changes the pace of the clock. The same code covers
//! k FIFO workers (`sharing` 0) and a batching server.
use std::collections::VecDeque;

use super::earliest::NEVER;

/// Workers and queue. Times in ns, work in ns at speed 1.
#[derive(Debug)]
pub(super) struct Station {
    workers: usize,
    queue_max: usize,
    sharing: f64,
    speed: f64,
    /// The requests in service, by the value of `work_done` at which they end, the next one last.
    serving: Vec<(f64, u64)>,
    /// Waiting requests with their work.
    waiting: VecDeque<(u64, f64)>,
    work_done: f64,
    advanced_to: u64,
    busy: Busy,
}

/// Busy time of the workers by second.
#[derive(Debug, Default)]
struct Busy {
    second: u64,
    this_second: f64,
    last_second: f64,
}

impl Station {
    pub(super) fn new(workers: usize, queue_max: usize, sharing: f64, speed: f64) -> Self {
        Self {
            workers,
            queue_max,
            sharing,
            speed,
            serving: Vec::with_capacity(workers),
            waiting: VecDeque::with_capacity(queue_max),
            work_done: 0.0,
            advanced_to: 0,
            busy: Busy::default(),
        }
    }

    /// Accepts a request, which is served or waits. Returns false if the queue is full.
    pub(super) fn accept(&mut self, now: u64, request: u64, work: f64) -> bool {
        if self.serving.len() < self.workers {
            self.advance(now);
            self.serve(request, work);
            return true;
        }
        let has_room = self.waiting.len() < self.queue_max;
        if has_room {
            self.waiting.push_back((request, work));
        }
        has_room
    }

    /// Ends the request of [`ends_at`](Self::ends_at) and serves the next one.
    pub(super) fn end(&mut self, now: u64) -> Option<u64> {
        self.advance(now);
        let (end, request) = self.serving.pop()?;
        // The event is at a whole nanosecond, but the clock of work has the exact value.
        self.work_done = self.work_done.max(end);
        if let Some((next, work)) = self.waiting.pop_front() {
            self.serve(next, work);
        }
        Some(request)
    }

    /// Continues the request that ends now, on the same worker, with more work.
    pub(super) fn resume(&mut self, now: u64, work: f64) {
        self.advance(now);
        if let Some((end, request)) = self.serving.pop() {
            self.work_done = self.work_done.max(end);
            self.serve(request, work);
        }
    }

    /// Returns the request that ends next.
    pub(super) fn ending(&self) -> Option<u64> {
        self.serving.last().map(|(_, request)| *request)
    }

    /// Removes and returns all requests.
    pub(super) fn clear(&mut self, now: u64) -> Vec<u64> {
        self.advance(now);
        let serving = self.serving.drain(..).map(|(_, request)| request);
        serving.chain(self.waiting.drain(..).map(|(request, _)| request)).collect()
    }

    pub(super) fn set_speed(&mut self, now: u64, speed: f64) {
        self.advance(now);
        self.speed = speed;
    }

    /// Returns the time at which the next request ends, if nothing changes before then.
    pub(super) fn ends_at(&self) -> u64 {
        let (Some((end, _)), pace) = (self.serving.last(), self.pace()) else {
            return NEVER;
        };
        if pace <= 0.0 {
            return NEVER;
        }
        let span = ((end - self.work_done) / pace).max(0.0).ceil();
        // Saturates: far beyond any run.
        self.advanced_to.saturating_add(span as u64)
    }

    /// Returns the number of requests in service and waiting.
    pub(super) fn len(&self) -> usize {
        self.serving.len() + self.waiting.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) const fn speed(&self) -> f64 {
        self.speed
    }

    /// Returns the expected waiting and service time of a request behind `ahead` others, computed
    /// from the mean work alone; `None` if the queue would be full.
    pub(super) fn expected(&self, ahead: usize, mean_work: f64) -> Option<f64> {
        self.expected_at(self.speed, ahead, mean_work)
    }

    /// Returns the same for a given speed.
    pub(super) fn expected_at(&self, speed: f64, ahead: usize, mean_work: f64) -> Option<f64> {
        if ahead < self.workers {
            return Some(mean_work * self.slowdown(ahead + 1) / speed);
        }
        if ahead >= self.workers + self.queue_max {
            return None;
        }
        let service = mean_work * self.slowdown(self.workers) / speed;
        let turns = (ahead + 1 - self.workers) as f64 / self.workers as f64;
        Some(service * (1.0 + turns))
    }

    /// Returns the busy time of the workers within the last whole second, ms: 1000 for each worker
    /// that was always busy.
    pub(super) fn busy_ms(&mut self, now: u64) -> f64 {
        self.advance(now);
        self.busy.last_second / 1e6
    }

    fn serve(&mut self, request: u64, work: f64) {
        let end = self.work_done + work;
        let place = self.serving.partition_point(|(other, _)| *other > end);
        self.serving.insert(place, (end, request));
    }

    fn advance(&mut self, now: u64) {
        let span = (now - self.advanced_to) as f64;
        self.work_done += span * self.pace();
        self.busy.add(self.advanced_to, now, self.serving.len() as f64);
        self.advanced_to = now;
    }

    fn pace(&self) -> f64 {
        self.speed / self.slowdown(self.serving.len())
    }

    fn slowdown(&self, serving: usize) -> f64 {
        1.0 + self.sharing * serving.saturating_sub(1) as f64
    }
}

impl Busy {
    fn add(&mut self, from: u64, to: u64, workers: f64) {
        let second = to / SECOND;
        if second == self.second {
            self.this_second += (to - from) as f64 * workers;
            return;
        }
        // The part of the span that lies in the second before the current one.
        let last_began_at = (second - 1) * SECOND;
        let before = if self.second == second - 1 { self.this_second } else { 0.0 };
        let span = second * SECOND - from.max(last_began_at);
        self.last_second = before + span as f64 * workers;
        self.this_second = (to - second * SECOND) as f64 * workers;
        self.second = second;
    }
}

const SECOND: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets the station work until it is idle. Returns the ends of requests with their times.
    fn drain(station: &mut Station) -> Vec<(u64, u64)> {
        let mut ended = Vec::new();
        while station.ends_at() != NEVER {
            let at = station.ends_at();
            ended.push((at, station.end(at).expect("one is in service")));
        }
        ended
    }

    /// Two workers and a queue of one, by hand: the third request waits for the first free worker,
    /// the fourth finds the queue full, and a shorter request overtakes a longer one.
    #[test]
    fn workers_serve_in_order_of_arrival() {
        let mut station = Station::new(2, 1, 0.0, 1.0);
        assert!(station.accept(0, 1, 100.0));
        assert!(station.accept(10, 2, 30.0));
        assert!(station.accept(20, 3, 50.0));
        assert!(!station.accept(20, 4, 1.0));
        assert_eq!((station.len(), station.waiting()), (3, 1));
        assert_eq!(drain(&mut station), [(40, 2), (90, 3), (100, 1)]);
    }

    /// A new speed applies at once, even to requests in service. By hand: of 100 ns of work, 50 are
    /// done by 50, and the rest is done at a tenth of the speed. At speed 0 nothing ends.
    #[test]
    fn speed_changes_in_service() {
        let mut station = Station::new(1, 1, 0.0, 1.0);
        assert!(station.accept(0, 1, 100.0));
        station.set_speed(50, 0.1);
        assert_eq!(station.ends_at(), 550);
        station.set_speed(150, 0.0);
        assert_eq!(station.ends_at(), NEVER);
        station.set_speed(1150, 4.0);
        assert_eq!(drain(&mut station), [(1160, 1)]);
    }

    /// Sharing 0.5: alone a request takes 100. With another one, both run at 1/1.5 of the speed.
    #[test]
    fn sharing_slows_everybody() {
        let mut station = Station::new(8, 0, 0.5, 1.0);
        assert!(station.accept(0, 1, 100.0));
        assert!(station.accept(40, 2, 100.0));
        // At 40, request 1 has 60 left at 2/3 of the pace, so it ends at 130. By then the other one
        // has 40 of its 100 left.
        assert_eq!(drain(&mut station), [(130, 1), (170, 2)]);
    }

    /// The expected time by hand: with free workers, then with a queue, then with a full queue.
    #[test]
    fn expects_by_means() {
        let station = Station::new(4, 2, 0.0, 2.0);
        let expected: Vec<_> = (0..7).map(|ahead| station.expected(ahead, 10.0)).collect();
        let by_hand = [5.0, 5.0, 5.0, 5.0, 6.25, 7.5].map(Some);
        assert_eq!(expected[..6], by_hand);
        assert_eq!(expected[6], None);
        let shared = Station::new(4, 2, 0.5, 1.0);
        assert_eq!(shared.expected(1, 10.0), Some(15.0));
    }

    /// Busy time counts by whole seconds: half a second of one worker, then an idle second, then a
    /// second in which one worker is always busy.
    #[test]
    fn busy_time_of_the_last_second() {
        let mut station = Station::new(2, 0, 0.0, 1.0);
        assert!(station.accept(0, 1, 500e6));
        assert_eq!(station.end(500_000_000), Some(1));
        assert_eq!(station.busy_ms(900_000_000), 0.0);
        assert_eq!(station.busy_ms(1_200_000_000), 500.0);
        assert_eq!(station.busy_ms(2_200_000_000), 0.0);
        assert!(station.accept(2_500_000_000, 2, 10e9));
        assert_eq!(station.busy_ms(4_100_000_000), 1000.0);
    }
}
