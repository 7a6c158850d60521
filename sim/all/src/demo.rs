//! The faults of `--demo`: in each period the backend that has the traffic has one outage. The
//! kinds of outages take turns.
//!
//! | part of the period | backends |
//! |---|---|
//! | first quarter | healthy |
//! | second and third quarter | one of them has an outage |
//! | last quarter | healthy again |
use std::time::{Duration, Instant};

use intelliproxy_sim::Outage;

use crate::child::Role;

/// The plan of the outages.
#[derive(Debug)]
pub(crate) struct Demo {
    period: Duration,
    /// The time of the next change.
    next_at: Instant,
    turn: usize,
    /// The backend that has an outage.
    ill: Option<Role>,
}

/// An order for a backend: an outage, or `None` for the end of its outage.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Order {
    pub(crate) role: Role,
    pub(crate) outage: Option<Outage>,
}

impl Demo {
    pub(crate) fn new(now: Instant, period: Duration) -> Self {
        Self { period, next_at: now + period / 4, turn: 0, ill: None }
    }

    /// Returns the order that is due; `busiest` returns the backend that has the traffic.
    pub(crate) fn handle_time(
        &mut self,
        now: Instant,
        busiest: impl FnOnce() -> Role,
    ) -> Option<Order> {
        if now < self.next_at {
            return None;
        }
        self.next_at = now + self.period / 2;
        Some(match self.ill.take() {
            Some(role) => Order { role, outage: None },
            None => {
                let role = busiest();
                let outage = Outage::ALL[self.turn % Outage::ALL.len()];
                self.turn += 1;
                self.ill = Some(role);
                Order { role, outage: Some(outage) }
            }
        })
    }

    /// Returns an order as a sentence.
    pub(crate) fn sentence(&self, order: Order) -> String {
        let name = order.role.name();
        match order.outage {
            Some(outage) => {
                let seconds = (self.period / 2).as_secs_f64();
                format!("fault {}: {name} {} for {seconds} s", outage.name(), outage.effect())
            }
            None => format!("{name} is well again"),
        }
    }
}

impl Order {
    /// Returns the line for the backend's process.
    pub(crate) fn line(self) -> String {
        let word = self.outage.map_or(WELL, Outage::name);
        format!("{word}\n")
    }

    /// Parses such a line; `None` for any other text.
    pub(crate) fn outage_in(line: &str) -> Option<Option<Outage>> {
        if line == WELL { Some(None) } else { Outage::named(line).map(Some) }
    }
}

const WELL: &str = "well";

#[cfg(test)]
mod tests {
    use super::*;

    /// Over five periods by hand: each has an outage of the backend that is busiest then. The kinds
    /// take turns, and each outage ends before the next one begins.
    #[test]
    fn outages_take_turns() {
        let start = Instant::now();
        let mut demo = Demo::new(start, Duration::from_secs(20));
        let mut seen = Vec::new();
        for second in 0..100 {
            let busiest = || if second % 40 < 20 { Role::A } else { Role::B };
            let order = demo.handle_time(start + Duration::from_secs(second), busiest);
            seen.extend(order.map(|order| (second, order.role, order.line())));
        }
        let expected = [
            (5, Role::A, "slow\n"),
            (15, Role::A, "well\n"),
            (25, Role::B, "errors\n"),
            (35, Role::B, "well\n"),
            (45, Role::A, "silent\n"),
            (55, Role::A, "well\n"),
            (65, Role::B, "gone\n"),
            (75, Role::B, "well\n"),
            (85, Role::A, "slow\n"),
            (95, Role::A, "well\n"),
        ];
        let expected = expected.map(|(second, role, line)| (second, role, line.to_owned()));
        assert_eq!(seen, expected);
    }

    /// Orders are read as they were written, and described.
    #[test]
    fn orders_are_lines() {
        let demo = Demo::new(Instant::now(), Duration::from_secs(20));
        for outage in [None, Some(Outage::Slow), Some(Outage::Gone)] {
            let order = Order { role: Role::B, outage };
            assert_eq!(Order::outage_in(order.line().trim_end()), Some(outage));
        }
        assert_eq!(Order::outage_in("quit"), None);
        let slow = Order { role: Role::A, outage: Some(Outage::Slow) };
        assert_eq!(demo.sentence(slow), "fault slow: server A responds 1.5 s late for 10 s");
        let well = Order { role: Role::A, outage: None };
        assert_eq!(demo.sentence(well), "server A is well again");
    }
}
