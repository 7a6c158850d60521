//! The whole proxy under a list of operations: clients and backends that send any bytes in any
//! pieces at any time, connections that fail in every way, passing time, new configurations.
//!
//! After each operation the proxy's invariants hold. At the end the proxy comes to rest, and
//! [`oracle`] checks all bytes of the connections.
mod operations;
mod oracle;
mod texts;

use std::time::Duration;

use self::operations::Operations;
use intelliproxy::config::{Config, Overflow};
use intelliproxy::fuzzing::Source;
use intelliproxy::proxy::ConnectFailure;
use intelliproxy_core::AffinityBy;

/// Reads three bytes of configuration, then operations.
///
/// # Panics
/// If an invariant does not hold, if a message differs from the one sent, or if the proxy never
/// comes to rest.
pub fn session(data: &[u8]) {
    let mut source = Source::new(data);
    let flags = source.byte();
    let counts = source.byte();
    let ends_by_stop = source.byte() & 1 == 1;
    let addresses = 1 + usize::from(flags >> 5 & 1);
    let mut operations = Operations::new(config(flags, counts), usize::from(counts % 4), addresses);
    let mut steps = 0;
    while !source.is_empty() && steps < STEPS_MAX {
        step(&mut operations, &mut source);
        operations.check();
        steps += 1;
    }
    operations.finish(ends_by_stop);
    oracle::check(&operations.links());
}

/// Maximum number of operations of one list, because each may cost a check of everything.
const STEPS_MAX: usize = 400;

fn config(flags: u8, counts: u8) -> Config {
    let mut config = Config::default();
    config.forwarding.keep_host = flags & 1 != 0;
    config.forwarding.half_close = flags & 64 != 0;
    config.forwarding.retry_refused = flags & 32 == 0;
    config.overflow = if flags & 2 != 0 { Overflow::Reject } else { Overflow::Wait };
    if flags & 4 != 0 {
        config.limits.head_bytes_max = 1024;
        config.limits.target_bytes_max = 64;
        config.limits.fields_max = 8;
        config.limits.body_bytes_max = 64;
        config.limits.trailer_bytes_max = 32;
        config.limits.chunk_extension_bytes_max = 8;
    }
    config.pool.idle_per_backend = if flags & 8 != 0 { 0 } else { 2 };
    config.limits.attempts = if flags & 16 != 0 { 1 } else { 3 };
    config.limits.clients = 1 + usize::from(counts >> 2 & 3);
    config.timeouts.tunnel_idle = Duration::from_secs(90);
    config.routing.affinity.by = match counts >> 4 & 3 {
        0 => None,
        1 => Some(AffinityBy::Cookie),
        2 => Some(AffinityBy::Header),
        _ => Some(AffinityBy::ClientAddress),
    };
    config.access_log.file = (flags & 128 != 0).then(|| "access".to_owned());
    config
}

fn step(operations: &mut Operations, source: &mut Source<'_>) {
    let operation = source.byte();
    match operation % 16 {
        0 => operations.accept(operation & 16 != 0),
        // Any bytes, from any peer.
        1 => {
            let link = operations.pick(source.byte());
            let count = usize::from(source.byte());
            let bytes = source.take(count);
            operations.say(link, bytes, usize::MAX);
            operations.mark_wild(link);
        }
        // A valid text, cut into pieces.
        2 | 3 => {
            let (link, which, step) =
                (operations.pick(source.byte()), source.byte(), source.byte());
            let text = operations.text(link, which);
            operations.say(link, &text, if step == 0 { usize::MAX } else { step.into() });
        }
        // Many equal bytes.
        4 => {
            let (link, count) = (operations.pick(source.byte()), usize::from(source.byte()));
            operations.say(link, &vec![b'x'; 300 * count], usize::MAX);
        }
        5 => {
            let (link, count) = (operations.pick(source.byte()), usize::from(source.byte()));
            operations.write(link, if count == 0 { usize::MAX } else { count });
        }
        6 => operations.write_all(),
        7 => {
            let link = operations.pick(source.byte());
            operations.end(link);
        }
        8 => {
            let link = operations.pick(source.byte());
            operations.fail(link);
        }
        9 => {
            let link = operations.pick(source.byte());
            operations.fail_writing(link);
        }
        10 => {
            let link = operations.pick(source.byte());
            let result = match operation >> 4 {
                0..=10 => Ok(()),
                11..=13 => Err(ConnectFailure::Refused),
                14 => Err(ConnectFailure::Exhausted),
                _ => Err(ConnectFailure::Unreachable),
            };
            operations.connect(link, result);
        }
        11 => operations.connect_all(),
        12 => {
            const MILLIS: [u64; 8] = [0, 1, 40, 900, 2_100, 4_500, 31_000, 61_000];
            let millis = MILLIS[usize::from(operation >> 5)];
            operations.pass(Duration::from_millis(millis), operation & 16 != 0);
        }
        13 => operations.wait(),
        14 => {
            let which = source.byte();
            if operation == 0xfe {
                operations.reconfigure(which);
            } else {
                operations.send_late_event(which);
            }
        }
        _ => {
            if operation == 0xff {
                operations.stop();
            } else {
                operations.connect_all();
                operations.write_all();
            }
        }
    }
}
