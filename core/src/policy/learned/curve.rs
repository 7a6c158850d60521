//! The rate of completions by requests in flight: one congestion curve for the pool, and each
//! backend's slow deviation from it.
//!
//! The pool's curve `D(n)`, n = 1 … 96: completions per ms of a backend of speed 1 with n in
//! flight. Four workers give 1, 2, 3, 4, 4, 4 …; a server that batches gives a bending line. The
//! inputs are good completions `Cc[n]` and speed-weighted time `Ct[n]` at n in flight, both slowly
//! forgotten: `D(n) = (Cc[n] + 20)/(Ct[n] + 20/prior)`, `prior = D(n−1)·√(n/(n−1))`. Then pool
//! adjacent violators (weights `Cc + 20`) makes the latency `q(n) = n/D(n)` monotone, so that more
//! in flight never predicts less latency. Above 96, `D` is constant.
//!
//! A backend's shape: 14 bins of n with completions `bc` against `bx`, the completions that the
//! pool's curve predicts: `rho = exp(soft(ln((bc+1)/(bx+1)), 2·√(max(1,φ)/(bc+1))))`. Its own
//! latency `n/(D(n)·rho)` is made monotone by a running maximum.

/// The pool's curve.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// Good completions with n in flight before them.
    pub(super) completions: [f64; LEVELS + 1],
    /// Time at n in flight, ms, weighted by speed.
    pub(super) time: [f64; LEVELS + 1],
    /// Latency at n in flight of a backend of speed 1, ms: `q(n)`, never falling.
    latency: [f64; LEVELS + 1],
    /// `1/D(1)` before anything is known, ms.
    pub(super) scale: f64,
}

/// One backend's deviation from the pool's curve.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Good completions by bin.
    pub(super) completions: [f64; BINS],
    /// Completions that the pool's curve predicts at this backend's speed.
    pub(super) predicted: [f64; BINS],
    /// Inverse of the rate's factor, by bin.
    inverse: [f64; BINS],
    /// The highest latency of the bins below, at speed 1, ms.
    floor: [f64; BINS],
    /// The latency of a single request at speed 1, by the curve that was adopted last, ms.
    single: f64,
    /// Requests in flight that it works on at once, by that curve.
    width: u32,
}

impl Curve {
    /// A curve of `√n/scale` that anything learned replaces.
    pub(super) fn new(scale: f64) -> Self {
        let mut curve = Self {
            completions: [0.0; LEVELS + 1],
            time: [0.0; LEVELS + 1],
            latency: [0.0; LEVELS + 1],
            scale,
        };
        curve.fit();
        curve
    }

    /// Latency at n in flight of a backend of speed 1, ms.
    pub(super) fn latency(&self, n: u32) -> f64 {
        let level = n as usize;
        if level <= LEVELS {
            self.latency[level]
        } else {
            // A constant rate: each further request only waits longer.
            self.latency[LEVELS] * (f64::from(n) * (1.0 / LEVELS as f64))
        }
    }

    /// Forgets a share of the evidence, 0 to 1.
    pub(super) fn forget(&mut self, share: f64) {
        for number in self.completions.iter_mut().chain(&mut self.time) {
            *number *= 1.0 - share;
        }
    }

    /// Fits the curve to the evidence.
    pub(super) fn fit(&mut self) {
        // Pool adjacent violators: a stack of blocks with their mean latency, weight and size.
        let mut blocks = [(0.0_f64, 0.0_f64, 0_usize); LEVELS + 1];
        let mut top = 0;
        let mut rate = 1.0 / self.scale;
        for (level, root) in ROOTS.iter().enumerate().skip(1) {
            let n = level as f64;
            // The prior continues from the level below as learned. Without evidence, one more in
            // flight is between no gain (a saturated backend) and a full one (a free worker).
            let prior = rate * root;
            let weight = self.completions[level] + PRIOR;
            rate = weight / (self.time[level] + PRIOR / prior);
            let mut block = (n / rate, weight, 1);
            // A block that is slower than the one above it contradicts the order: merge them by
            // weight.
            while top > 0 && blocks[top - 1].0 > block.0 {
                top -= 1;
                let (below, of, size) = blocks[top];
                let sum = of + block.1;
                block = ((below * of + block.0 * block.1) / sum, sum, size + block.2);
            }
            blocks[top] = block;
            top += 1;
        }
        let mut level = 1;
        for (latency, _, size) in &blocks[..top] {
            self.latency[level..level + size].fill(*latency);
            level += size;
        }
    }

    /// Raises the curve by `factor`; the caller lowers the speeds as much.
    pub(super) fn rescale(&mut self, factor: f64) {
        self.scale /= factor;
        self.time.iter_mut().for_each(|time| *time /= factor);
        self.latency.iter_mut().for_each(|latency| *latency /= factor);
    }
}

impl Shape {
    pub(super) const fn new() -> Self {
        Self {
            completions: [0.0; BINS],
            predicted: [0.0; BINS],
            inverse: [1.0; BINS],
            floor: [0.0; BINS],
            single: 0.0,
            width: 1,
        }
    }

    /// The latency of this backend at n in flight if its speed were 1, ms.
    pub(super) fn latency(&self, curve: &Curve, n: u32) -> f64 {
        let bin = bin(n);
        // The floor keeps the latency monotone where a fast bin follows a slow one.
        (curve.latency(n) * self.inverse[bin]).max(self.floor[bin])
    }

    /// Requests in flight that it works on at once, 1 to 96: the most whose predicted latency is
    /// at most [`WIDTH_LATENCIES`] times that of a single one. 1 while the latency of a single
    /// request is unknown.
    pub(super) const fn width(&self) -> u32 {
        self.width
    }

    /// The latency of a single request if the speed were 1, ms.
    pub(super) const fn single(&self) -> f64 {
        self.single
    }

    /// The factor on the pool's rate at n in flight.
    pub(super) fn factor(&self, n: u32) -> f64 {
        1.0 / self.inverse[bin(n)]
    }

    /// Fits the deviation to the new evidence, and forgets a share of it, 0 to 1.
    pub(super) fn fit(&mut self, phi: f64, share: f64) {
        let mut below = 1.0;
        for bin in 0..BINS {
            let (seen, predicted) = (self.completions[bin], self.predicted[bin]);
            // A bin without evidence equals the bin below it, not the pool.
            if seen + predicted >= EVIDENCE_MIN {
                let ratio = libm::log((predicted + 1.0) / (seen + 1.0));
                let error = 2.0 * (phi.max(1.0) / (seen + 1.0)).sqrt();
                below = libm::exp(soft(ratio, error));
            }
            self.inverse[bin] = below;
            self.completions[bin] = seen * (1.0 - share);
            self.predicted[bin] = predicted * (1.0 - share);
        }
    }

    /// Adopts the current curve of the pool.
    pub(super) fn adopt(&mut self, curve: &Curve) {
        let mut floor = 0.0_f64;
        for bin in 0..BINS {
            self.floor[bin] = floor;
            // Within a bin latency never falls, so its highest is at the upper end.
            if let Some(end) = BIN_ENDS.get(bin) {
                floor = floor.max(curve.latency(*end) * self.inverse[bin]);
            }
        }
        self.single = self.latency(curve, 1);
        let most = WIDTH_LATENCIES * self.single;
        self.width = 1;
        // The latency of a single request has to have been seen: where a backend always has four
        // in flight, the prior would take that latency for the one of a single request. Latency
        // never falls with n.
        while curve.completions[1] >= PRIOR
            && self.width < LEVELS as u32
            && self.latency(curve, self.width + 1) <= most
        {
            self.width += 1;
        }
    }
}

/// The bin of n in flight.
pub(super) fn bin(n: u32) -> usize {
    BIN_OF[(n as usize).min(LEVELS)] as usize
}

/// `number` moved towards 0 by `error`, and not past it.
pub(super) fn soft(number: f64, error: f64) -> f64 {
    if number.abs() <= error { 0.0 } else { number - error.copysign(number) }
}

/// Levels of requests in flight that the pool's curve distinguishes. Beyond it a backend counts as
/// saturated.
pub(super) const LEVELS: usize = 96;
/// Bins of n that a backend's shape distinguishes.
pub(super) const BINS: usize = 14;
/// The last level of each bin but the last one. They widen by about 1.4, so that all get evidence.
const BIN_ENDS: [u32; BINS - 1] = [1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 45, 64, 90];
/// A latency above this many times that of a single request shows waiting for others. Chosen.
const WIDTH_LATENCIES: f64 = 1.25;
/// Completions that the prior weighs. Chosen; insensitive from half to twice.
const PRIOR: f64 = 20.0;
/// Completions seen or predicted from which on a bin speaks for itself.
/// Chosen; insensitive from half to twice.
const EVIDENCE_MIN: f64 = 1.0;

const BIN_OF: [u8; LEVELS + 1] = {
    let mut bins = [0; LEVELS + 1];
    let mut n = 1;
    while n <= LEVELS {
        let mut bin = 0;
        while bin < BINS - 1 && n > BIN_ENDS[bin] as usize {
            bin += 1;
        }
        bins[n] = bin as u8;
        n += 1;
    }
    bins
};

/// `√(n/(n−1))` by n, by Newton's method: the same bits everywhere.
const ROOTS: [f64; LEVELS + 1] = {
    let mut roots = [1.0; LEVELS + 1];
    let mut n = 2;
    while n <= LEVELS {
        let square = n as f64 / (n - 1) as f64;
        let mut root = square;
        let mut step = 0;
        while step < 8 {
            root = 0.5 * (root + square / root);
            step += 1;
        }
        roots[n] = root;
        n += 1;
    }
    roots
};

#[cfg(test)]
mod tests {
    use super::*;

    /// Without evidence the rate is √n/scale, so that latency is scale·√n; above 96 it grows as n.
    #[test]
    fn starts_as_a_root() {
        let curve = Curve::new(10.0);
        for n in [1, 2, 4, 9, 96] {
            let expected = 10.0 * f64::from(n).sqrt();
            assert!((curve.latency(n) - expected).abs() < 1e-9, "{n}: {}", curve.latency(n));
        }
        assert!((curve.latency(192) - 2.0 * curve.latency(96)).abs() < 1e-9);
    }

    /// Four workers of 10 ms after long observation: 10 ms each up to 4 in flight, and 2.5 ms more
    /// for each one above. Unseen levels follow the prior, and latency never falls.
    #[test]
    fn finds_four_workers() {
        let mut curve = Curve::new(1.0);
        for n in 1..=12_usize {
            curve.time[n] = 1e7;
            curve.completions[n] = 1e7 * n.min(4) as f64 / 10.0;
        }
        curve.fit();
        for (n, expected) in [(1, 10.0), (4, 10.0), (5, 12.5), (12, 30.0)] {
            let latency = curve.latency(n);
            assert!((latency - expected).abs() < 0.01, "{n}: {latency}");
        }
        for n in 1..200 {
            assert!(curve.latency(n + 1) >= curve.latency(n), "{n}");
        }
    }

    /// A level that seems faster than the one below is pooled with it: 20 ms and 10 ms of equal
    /// weight are both 15 ms.
    #[test]
    fn violators_are_pooled() {
        let mut curve = Curve::new(20.0);
        curve.completions[1] = 1e6 - PRIOR;
        curve.time[1] = 2e7 - PRIOR * 20.0;
        curve.completions[2] = 1e6 - PRIOR;
        curve.time[2] = 5e6 - PRIOR * 20.0 / 2.0_f64.sqrt();
        curve.fit();
        // The next level follows the prior, is even faster, and weighs twenty of two million.
        assert!((curve.latency(1) - 15.0).abs() < 1e-4, "{}", curve.latency(1));
        assert_eq!(curve.latency(2), curve.latency(1));
    }

    /// By hand: 400 completions where 800 were predicted: ln(801/401) = 0.69190 less twice
    /// 1/√401 = 0.09988 is 0.59203, so latency is e^0.59203 = 1.80765 times as long; a deviation
    /// within its error counts as zero; a bin without evidence equals the one below.
    #[test]
    fn shape_by_hand() {
        let curve = Curve::new(10.0);
        let mut shape = Shape::new();
        (shape.completions[1], shape.predicted[1]) = (400.0, 800.0);
        (shape.completions[0], shape.predicted[0]) = (100.0, 110.0);
        shape.fit(0.5, 0.0);
        shape.adopt(&curve);
        assert_eq!(shape.latency(&curve, 1), curve.latency(1));
        for n in [2, 3, 200] {
            let factor = shape.latency(&curve, n) / curve.latency(n);
            assert!((factor - 1.807_65).abs() < 1e-4, "{n}: {factor}");
        }
    }

    /// A fast high bin does not predict less latency than the slow bin below it.
    #[test]
    fn own_latency_never_falls() {
        let curve = Curve::new(10.0);
        let mut shape = Shape::new();
        (shape.completions[1], shape.predicted[1]) = (100.0, 2000.0);
        (shape.completions[2], shape.predicted[2]) = (2000.0, 500.0);
        shape.fit(1.0, 0.0);
        shape.adopt(&curve);
        for n in 1..150 {
            assert!(shape.latency(&curve, n + 1) >= shape.latency(&curve, n), "{n}");
        }
    }
}
