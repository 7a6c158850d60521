//! Makes a random world from a seed: weather, configuration, backends, clients and faults.
use std::time::Duration;

use intelliproxy::config::{Config, Overflow};
use intelliproxy_core::{AffinityBy, Instant};

use crate::client::Pace;
use crate::net::{Listening, Net, Path};
use crate::plan;
use crate::reload;
use crate::weather::Weather;
use crate::world::{Change, World};

/// Returns the world of a seed. With `is_shown` it prints its events.
pub fn world(seed: u64, is_shown: bool) -> World {
    let mut world = World::seeded(seed, is_shown);
    let weather = match world.net().pick(0, 9) {
        0..=2 => Weather::Clear,
        3 | 4 => Weather::Crashes,
        _ => Weather::Storm,
    };
    world = world.weather(weather);
    let mut config = Config::default();
    shape(world.net(), &mut config, weather);
    // Worlds of even seeds record their exchanges. This needs no random draw, so the rest of a
    // world is the same with and without a record.
    config.access_log.file = seed.is_multiple_of(2).then(|| "access".to_owned());
    world.ledger().half_closes = config.forwarding.half_close;
    world = world.config(|own| *own = config);
    let backends = world.net().pick(if weather == Weather::Clear { 1 } else { 2 }, 3);
    for _ in 0..backends {
        world = world.backend(Vec::new());
        if world.net().chance(15) {
            let bytes = world.net().pick(2000, 8000) as usize;
            let pause = Duration::from_millis(world.net().pick(1, 10));
            world = world.backend_pace(Pace::Slow { bytes, pause });
        }
    }
    let spares = world.net().pick(0, 2);
    for _ in 0..spares {
        world = world.spare(Vec::new());
    }
    if world.net().chance(15) {
        let states = [Listening::Refusing, Listening::Unreachable, Listening::Hanging];
        let state = states[world.net().pick(0, 2) as usize];
        world = world.dead_address(state);
    }
    let (inward, outward) = (path(world.net()), path(world.net()));
    world = world.backend_paths(inward, outward);
    let stops = weather != Weather::Crashes && world.net().chance(15);
    let is_fair = weather == Weather::Clear && !stops;
    if is_fair {
        world = world.fair();
    }
    for _ in 0..[0, 0, 1, 2, 5][world.net().pick(0, 4) as usize] {
        let at = world.net().pick(0, 5000);
        let reload = reload::plan(world.net(), weather, (backends + spares) as usize);
        world.add_reload(Instant::from_millis(at), reload);
    }
    let clients = world.net().pick(1, 8);
    for _ in 0..clients {
        add_client(&mut world, weather);
    }
    if weather != Weather::Clear {
        add_faults(&mut world, backends as usize, weather);
    }
    for _ in 0..if is_fair { 0 } else { world.net().pick(0, 3) } {
        let at = world.net().pick(0, 4000);
        let backend = world.net().pick(0, backends - 1) as usize;
        world.add_change(Instant::from_millis(at), Change::CloseIdle(backend));
    }
    if stops {
        let at = world.net().pick(0, 3000);
        world.add_change(Instant::from_millis(at), Change::Stop);
    } else if weather != Weather::Clear {
        add_witness(&mut world);
    }
    world
}

/// The time at which the last fault is over.
const CALM_AT: Instant = Instant::from_millis(6000);
/// The start of the witness: by then health has recovered, and every timeout has expired.
const WITNESS_AT: Instant = Instant::from_millis(120_000);

fn add_client(world: &mut World, weather: Weather) {
    let is_polite = weather == Weather::Clear || world.net().chance(55);
    let script = world.script(if is_polite { plan::polite } else { plan::rude });
    let at = world.net().pick(0, 3000);
    let paths = (path(world.net()), path(world.net()));
    let client = world.add_client(Instant::from_millis(at), script);
    client.is_polite = is_polite && weather == Weather::Clear;
    client.paths = Some(paths);
}

/// Adds a client that connects after all faults: it must be served.
fn add_witness(world: &mut World) {
    let script = world.script(plan::polite);
    let client = world.add_client(WITNESS_AT, script);
    client.must_be_served = true;
}

fn add_faults(world: &mut World, backends: usize, weather: Weather) {
    let first = usize::from(weather == Weather::Crashes);
    for backend in first..backends {
        for _ in 0..world.net().pick(0, 2) {
            let at = world.net().pick(0, 5000);
            let until = world.net().pick(at, 6000);
            let states = [
                Listening::Refusing,
                Listening::Unreachable,
                Listening::Hanging,
                Listening::Exhausted,
            ];
            // Missing descriptors of the proxy lose a request without a crash.
            let last = if weather == Weather::Storm { 3 } else { 2 };
            let state = states[world.net().pick(0, last) as usize];
            let change = Change::Listening(backend, state);
            world.add_change(Instant::from_millis(at), change);
            let change = Change::Listening(backend, Listening::Yes);
            world.add_change(Instant::from_millis(until), change);
        }
        world.add_change(CALM_AT, Change::Listening(backend, Listening::Yes));
    }
    world.add_change(CALM_AT, Change::Calm);
}

fn path(net: &mut Net) -> Path {
    Path {
        latency: Duration::from_micros([50, 200, 1000, 5000][net.pick(0, 3) as usize]),
        jitter: Duration::from_micros([0, 0, 300, 3000][net.pick(0, 3) as usize]),
        segment_max: [1, 3, 40, 1460, 9000, 65_536][net.pick(0, 5) as usize],
        capacity: [800, 5000, 65_536, 300_000][net.pick(0, 3) as usize],
        is_harsh: net.chance(30),
    }
}

fn shape(net: &mut Net, config: &mut Config, weather: Weather) {
    config.forwarding.keep_host = net.chance(70);
    config.forwarding.half_close = net.chance(40);
    if net.chance(30) {
        config.stats.allow = vec!["192.0.2.0/24".to_owned()];
    }
    config.pool.idle = Duration::from_millis([20, 300, 4000][net.pick(0, 2) as usize]);
    config.pool.idle_per_backend = [0, 1, 100, 100][net.pick(0, 3) as usize];
    // This uses no additional random draw, so that the worlds of all seeds stay the same.
    config.routing.affinity.by = match (config.pool.idle_per_backend, config.forwarding.keep_host) {
        (0, _) => Some(AffinityBy::Cookie),
        (1, _) => Some(AffinityBy::ClientAddress),
        (_, false) => Some(AffinityBy::Header),
        (_, true) => None,
    };
    if net.chance(15) {
        config.limits.clients = net.pick(1, 4) as usize;
        let may_reject = weather == Weather::Storm && net.chance(50);
        config.overflow = if may_reject { Overflow::Reject } else { Overflow::Wait };
    }
    if weather != Weather::Storm {
        return;
    }
    let mut span = |choices: [u64; 3]| Duration::from_millis(choices[net.pick(0, 2) as usize]);
    let timeouts = &mut config.timeouts;
    timeouts.request_head = span([400, 3000, 10_000]);
    // A client waits 700 ms for a 100 before it sends its body.
    timeouts.request_body = span([1500, 3000, 10_000]);
    timeouts.client_idle = span([8000, 20_000, 60_000]);
    timeouts.client_write = span([400, 3000, 10_000]);
    timeouts.connect = span([100, 700, 2000]);
    // A slow backend reads a large body for up to two seconds before it responds.
    timeouts.response_head = span([2500, 5000, 15_000]);
    timeouts.response_body = span([400, 3000, 15_000]);
    timeouts.tunnel_idle = span([300, 3000, 20_000]);
    timeouts.linger = span([50, 500, 2000]);
    timeouts.linger_total = span([50, 1000, 30_000]);
    timeouts.shutdown = span([100, 1000, 5000]);
    config.limits.attempts = net.pick(1, 4) as usize;
    config.limits.per_backend = [0, 0, 1, 3][net.pick(0, 3) as usize];
    config.limits.queue_length = [0, 1, 1000][net.pick(0, 2) as usize];
    config.limits.queue = Duration::from_millis([50, 500, 5000][net.pick(0, 2) as usize]);
}
