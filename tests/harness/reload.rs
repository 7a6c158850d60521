//! Configurations for a world to change to while it is running.
use std::time::Duration;

use intelliproxy::config::{Config, Overflow};
use intelliproxy_core::{AffinityBy, PolicyKind};

use crate::net::Net;
use crate::weather::Weather;

/// A backend by its name and its machine.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Named {
    /// Its name is `b` and this number.
    pub name: usize,
    /// Its place among the world's backends.
    pub machine: usize,
}

/// A configuration to apply.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The configuration without its backends.
    pub config: Config,
    /// The backends in their order.
    pub backends: Vec<Named>,
}

/// Makes the new configuration from the current one.
pub type Reload = Box<dyn Fn(&mut Wanted)>;

/// The effects of new configurations in a world.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reloads {
    /// Pieces of responses that backends sent after they had left or moved.
    pub ended_there: usize,
    /// Connections that the proxy closed at once when their backend left or moved.
    pub closed: usize,
}

/// Returns a random change of the configuration. In a world without faults (`Clear`) the change
/// must not harm a client. In a world with crashes (`Crashes`) the backend that never crashes keeps
/// its address.
pub fn plan(net: &mut Net, weather: Weather, machines: usize) -> Reload {
    let (kind, first, second) = (net.pick(0, 11), net.pick(0, 9), net.pick(0, 9));
    let (first, second) = (first as usize, second as usize);
    let fixed = usize::from(weather == Weather::Crashes);
    match kind {
        0..=1 => Box::new(move |wanted| {
            // One backend always stays.
            let free = wanted.backends.len().saturating_sub(fixed);
            if free > 0 && wanted.backends.len() > 1 {
                wanted.backends.remove(fixed + first % free);
            }
        }),
        2..=3 => Box::new(move |wanted| {
            let names = if fixed > 0 { 3.min(machines) } else { machines };
            let name = first_free(names, first, |name| {
                wanted.backends.iter().all(|other| other.name != name)
            });
            if let (Some(name), Some(machine)) = (name, free_machine(wanted, machines, second)) {
                wanted.backends.push(Named { name, machine });
            }
        }),
        4..=5 => Box::new(move |wanted| {
            let free = wanted.backends.len().saturating_sub(fixed);
            if let Some(machine) = free_machine(wanted, machines, second)
                && free > 0
            {
                wanted.backends[fixed + first % free].machine = machine;
            }
        }),
        6..=7 => Box::new(move |wanted| {
            wanted.config.routing.policy = PolicyKind::ALL[first % PolicyKind::ALL.len()];
            wanted.config.routing.probes.ping_interval = millis([300, 2000, 5000][second % 3]);
            wanted.config.routing.affinity.by =
                [None, Some(AffinityBy::Cookie), Some(AffinityBy::ClientAddress)]
                    [(first + second) % 3];
            // With several clients connected, all but one are in excess.
            wanted.config.limits.clients = [10_000, 1][second % 2];
        }),
        8 => Box::new(move |wanted| {
            wanted.config.pool.idle_per_backend = [0, 1, 100][first % 3];
            wanted.config.pool.idle = millis([20, 300, 4000][second % 3]);
            wanted.config.stats.allow = match first % 2 {
                0 => vec!["192.0.2.0/24".to_owned()],
                _ => Vec::new(),
            };
            wanted.config.forwarding.keep_host = second % 2 == 0;
            // The limits per client are off, or too high to refuse anything.
            wanted.config.limits.client_connections = [0, 1_000_000][first % 2];
            wanted.config.limits.client_requests_per_second = [0, 1_000_000][second % 2];
        }),
        9 => Box::new(move |wanted| {
            wanted.config.limits.clients = [1, 1, 2, 10_000][first % 4];
            if weather != Weather::Storm {
                return;
            }
            wanted.config.limits.attempts = 1 + second % 4;
            wanted.config.overflow = [Overflow::Wait, Overflow::Reject][second % 2];
            let timeouts = &mut wanted.config.timeouts;
            timeouts.request_head = millis([400, 3000, 10_000][first % 3]);
            timeouts.request_body = millis([1500, 3000, 10_000][second % 3]);
            timeouts.client_write = millis([400, 3000, 10_000][first % 3]);
            timeouts.connect = millis([100, 700, 2000][second % 3]);
            timeouts.response_head = millis([2500, 5000, 15_000][first % 3]);
            timeouts.response_body = millis([400, 3000, 15_000][second % 3]);
            timeouts.tunnel_idle = millis([300, 3000, 20_000][first % 3]);
        }),
        10 => Box::new(move |wanted| match first % 3 {
            0 => wanted.config.limits.clients = 0,
            1 => wanted.config.routing.switch.threshold = -1.0,
            _ => {
                let first = wanted.backends[0];
                wanted.backends.push(first);
                wanted.config.limits.attempts = 1 + second;
                wanted.config.pool.idle_per_backend = second;
            }
        }),
        _ => Box::new(move |wanted| {
            let last = wanted.backends.len() - 1;
            wanted.backends.swap(fixed.min(last), last);
        }),
    }
}

/// Returns a machine without a backend.
fn free_machine(wanted: &Wanted, machines: usize, from: usize) -> Option<usize> {
    first_free(machines, from, |machine| {
        wanted.backends.iter().all(|other| other.machine != machine)
    })
}

/// Returns the first free number below `count`, from `from` on with wrap-around.
fn first_free(count: usize, from: usize, is_free: impl Fn(usize) -> bool) -> Option<usize> {
    (from..from + count).map(|number| number % count).find(|&number| is_free(number))
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
