//! The fate of a request at a simulated backend: a seeded model without I/O.
//!
//! The model does not sleep, compute or respond. Its host does ([`crate::Backend`], or a simulator
//! in virtual time). Time is a parameter. It has two streams of random numbers, one for requests
//! and one for the queue, and a fixed number of draws per request and per step. The fate of the
//! n-th request therefore depends on the seed and on n, not on its time, unless a queue above 80 %
//! of its maximum adds loss. A change of one rate does not shift the draws of another.
use std::time::Duration;

use intelliproxy_core::{Instant, Rng};

use crate::parameters::{Faults, Parameters};

/// A backend's behaviour.
///
/// Methods: [`Model::new`]; facts by `handle_*`; [`Model::request`] returns its decision at once;
/// the others are pure getters. There is no deadline to poll: the queue catches up at every call
/// with a time.
#[derive(Clone, Debug)]
pub struct Model {
    parameters: Parameters,
    request_rng: Rng,
    queue_rng: Rng,
    channel: Channel,
    queue: u32,
    queue_stepped_at: Instant,
}

impl Model {
    /// Returns a model at `now` with a good channel and a queue at a quarter of its maximum.
    pub fn new(parameters: Parameters, seed: u64, now: Instant) -> Self {
        Self {
            queue: parameters.queue_max / 4,
            parameters,
            request_rng: Rng::new(seed),
            queue_rng: Rng::new(seed ^ QUEUE_STREAM),
            channel: Channel::Good,
            queue_stepped_at: now,
        }
    }

    /// Lets the queue walk on to `now`. Early or repeated calls are harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        let step_nanos = QUEUE_STEP.as_nanos();
        let due = now.since(self.queue_stepped_at).as_nanos() / step_nanos;
        // After this many steps the starting point has no influence, so older steps are skipped.
        let steps = due.min(QUEUE_STEPS_MAX);
        for _ in 0..steps {
            self.step_queue();
        }
        let forgotten = Duration::from_nanos(((due - steps) * step_nanos) as u64);
        self.queue_stepped_at += QUEUE_STEP * steps as u32 + forgotten;
    }

    /// Uses other parameters from `now` on. The channel's state and the draws continue.
    pub fn handle_parameters(&mut self, now: Instant, parameters: Parameters) {
        self.handle_timeout(now);
        self.queue = self.queue.min(parameters.queue_max);
        self.parameters = parameters;
    }

    /// Decides the fate of a request that has arrived.
    pub fn request(&mut self, now: Instant, kind: RequestKind) -> Fate {
        self.handle_timeout(now);
        if kind == RequestKind::Traffic && self.parameters.faults == Faults::Health {
            return Fate::Answered(Answer::default());
        }
        // Always four draws, whatever they decide.
        let draws: [f64; 4] = std::array::from_fn(|_| self.request_rng.unit());
        let [step_draw, loss_draw, error_draw, slow_draw] = draws;
        self.step_channel(step_draw);
        let losses = losses(loss_draw, self.loss());
        if losses > 0 && kind == RequestKind::Ping {
            return Fate::Dropped;
        }
        let slow = if slow_draw < self.parameters.slow_rate { self.parameters.slow_ms } else { 0 };
        Fate::Answered(Answer {
            is_error: error_draw < self.parameters.error_rate,
            delay: Duration::from_millis(u64::from(slow)) + retransmission_delay(losses),
            cpu: Duration::from_millis(u64::from(self.parameters.cpu_load_ms)),
        })
    }

    /// Returns the current parameters.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Returns the channel's state after the last request.
    pub fn channel(&self) -> Channel {
        self.channel
    }

    /// Returns the queue's length at the last time passed in.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// Returns the share of requests lost in the current state of channel and queue.
    pub fn loss(&self) -> f64 {
        let channel = match self.channel {
            Channel::Good => self.parameters.loss_in_g,
            Channel::Bad => self.parameters.loss_in_b,
        };
        let fill = f64::from(self.queue) / f64::from(self.parameters.queue_max.max(1));
        let overload = ((fill - OVERLOAD_FILL) / (1.0 - OVERLOAD_FILL)).clamp(0.0, 1.0);
        let dropped = self.parameters.overload_drop_multiplier * overload;
        1.0 - (1.0 - channel) * (1.0 - dropped)
    }

    fn step_channel(&mut self, draw: f64) {
        self.channel = match self.channel {
            Channel::Good if draw < self.parameters.p_g_to_b => Channel::Bad,
            Channel::Bad if draw < self.parameters.p_b_to_g => Channel::Good,
            unchanged => unchanged,
        };
    }

    fn step_queue(&mut self) {
        let max = self.parameters.queue_max;
        let reach = (max / QUEUE_REACHES).max(1);
        let up_or_down = self.queue_rng.below(u64::from(2 * reach + 1)) as u32;
        self.queue = (self.queue + up_or_down).saturating_sub(reach).min(max);
    }
}

/// State of the Gilbert-Elliott channel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Channel {
    /// Few losses.
    Good,
    /// Many losses.
    Bad,
}

/// Kind of a request that arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RequestKind {
    /// A health probe.
    Ping,
    /// A request for any other path.
    Traffic,
}

/// Fate of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// No response.
    Dropped,
    /// A response, after its delay and its work.
    Answered(Answer),
}

/// Response to a request.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Answer {
    /// Whether the status is 500 instead of 200.
    pub is_error: bool,
    /// Idle time before the response: slowness and retransmissions.
    pub delay: Duration,
    /// CPU work before the response.
    pub cpu: Duration,
}

/// Returns the number of consecutive losses of a packet, from one uniform draw. The chance of n
/// losses in a row is `loss` to the power of n, so there are at least n of them if the draw is
/// below that.
fn losses(draw: f64, loss: f64) -> u32 {
    let mut count = 0;
    let mut chance = loss;
    while draw < chance && count < RETRANSMISSIONS_MAX {
        count += 1;
        chance *= loss;
    }
    count
}

/// Returns the time until the transmission after `losses` lost ones, with doubling waits.
fn retransmission_delay(losses: u32) -> Duration {
    RETRANSMISSION_FIRST * ((1 << losses) - 1)
}

/// Separates the queue's stream of draws from that of the requests.
const QUEUE_STREAM: u64 = 0x5155_4555_4557_414c;
/// The queue walks four times a second: from one end to the other it takes some minutes.
const QUEUE_STEP: Duration = Duration::from_millis(250);
/// A step changes the length by at most the maximum divided by this number: 5 of 80.
const QUEUE_REACHES: u32 = 16;
/// Enough steps for about ten crossings of the whole range.
const QUEUE_STEPS_MAX: u128 = 10_000;
/// The share of the maximum above which a queue drops requests.
const OVERLOAD_FILL: f64 = 0.8;
/// Linux' minimum retransmission timeout.
const RETRANSMISSION_FIRST: Duration = Duration::from_millis(200);
/// Bounds the delay at 6.2 s, even if everything is lost.
const RETRANSMISSIONS_MAX: u32 = 5;

#[cfg(test)]
mod tests;
