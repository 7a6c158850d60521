//! The rate of completions as a function of the requests in flight: one congestion curve for the
//! pool, and each backend's lasting deviation from it. The speed of a backend is in
//! [`speed`](super::speed).
//!
//! [`Curve`]: `D(n)` is the number of completions per ms of a backend of speed 1 with n in flight,
//! for n from 1 to 96. With four workers the rates are proportional to 1, 2, 3, 4, 4, 4 …; a server
//! that batches has a concave curve. Above 96 the rate is constant. The evidence at n in flight is
//! the number of good `completions` and the `time`, weighted by the backend's speed. Both decay
//! slowly.
//!
//! - `D(n) = (completions[n] + 20) / (time[n] + 20/prior)`
//! - `prior = D(n−1)·√(n/(n−1))`; for n = 1 it is `1/scale`
//! - The latency is `q(n) = n/D(n)`. Pool adjacent violators, with the weights
//!   `completions[n] + 20`, makes it monotone, so that more requests in flight never predict less
//!   latency.
//!
//! [`Shape`]: 14 bins of n, each with the backend's good `completions` and with `predicted`, the
//! number that the pool's curve predicts for its speed. The factor on the pool's rate in a bin is
//! `exp(soft(ln((completions+1)/(predicted+1)), 2·√(max(1,φ)/(completions+1))))`. φ is the
//! dispersion of the backend's completions: their variance over that of a Poisson process. [`soft`]
//! moves the logarithm towards 0 by two standard errors. The backend's own latency `q(n)/factor` is
//! made monotone by a running maximum over the bins.

/// The pool's curve.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// Good completions, by the number in flight just before each.
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
    /// Completions that the pool's curve predicts for this backend's speed, by bin.
    pub(super) predicted: [f64; BINS],
    /// Inverse of the factor on the pool's rate, by bin.
    inverse: [f64; BINS],
    /// The highest latency of the bins below, at speed 1, ms.
    floor: [f64; BINS],
    /// The latency of a single request at speed 1, by the curve that was adopted last, ms.
    single: f64,
    /// Number of requests that the backend works on at once, by that curve.
    width: u32,
}

impl Curve {
    /// A curve without evidence: `D(n) = √n/scale`.
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
            // The rate is constant, so latency grows in proportion to n.
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
            // The prior continues from the fitted rate of the level below. Without evidence, one
            // more request in flight is assumed to multiply the rate by √(n/(n−1)), between 1 (a
            // saturated backend) and n/(n−1) (a free worker).
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

    /// Multiplies the rates by `factor`. The caller divides the speeds by it.
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

    /// The latency of this backend at n in flight, at speed 1, ms.
    pub(super) fn latency(&self, curve: &Curve, n: u32) -> f64 {
        let bin = bin(n);
        // The floor keeps the latency monotone where a fast bin follows a slow one.
        (curve.latency(n) * self.inverse[bin]).max(self.floor[bin])
    }

    /// Number of requests that the backend works on at once, 1 to 96: the highest number whose
    /// predicted latency is at most [`WIDTH_LATENCIES`] times that of a single request. It is 1
    /// while the latency of a single request is unknown.
    pub(super) const fn width(&self) -> u32 {
        self.width
    }

    /// The latency of a single request at speed 1, ms.
    pub(super) const fn single(&self) -> f64 {
        self.single
    }

    /// The factor on the pool's rate at n in flight.
    pub(super) fn factor(&self, n: u32) -> f64 {
        1.0 / self.inverse[bin(n)]
    }

    /// Fits the deviation to the evidence, and then forgets `share` of the evidence, 0 to 1. `phi`
    /// is the dispersion of the backend's completions.
    pub(super) fn fit(&mut self, phi: f64, share: f64) {
        let mut below = 1.0;
        for bin in 0..BINS {
            let (seen, predicted) = (self.completions[bin], self.predicted[bin]);
            // A bin without evidence uses the factor of the bin below it, not that of the pool.
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
            // Within a bin latency never falls, so it is highest at the upper end.
            if let Some(end) = BIN_ENDS.get(bin) {
                floor = floor.max(curve.latency(*end) * self.inverse[bin]);
            }
        }
        self.single = self.latency(curve, 1);
        let most = WIDTH_LATENCIES * self.single;
        self.width = 1;
        // The width is relative to the latency of a single request. Before any single request has
        // completed in the pool, that latency is only the prior's guess, and the width stays 1.
        // Latency never falls with n, so the first level above `most` ends the search.
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

/// Number of levels in the pool's curve. Above this many requests in flight a backend counts as
/// saturated.
pub(super) const LEVELS: usize = 96;
/// Number of bins in a backend's shape.
pub(super) const BINS: usize = 14;
/// The last level of each bin except the last bin, which has no end. From 3 on, each end is about
/// 1.4 times the previous one, so that all bins get evidence.
const BIN_ENDS: [u32; BINS - 1] = [1, 2, 3, 4, 6, 8, 11, 16, 22, 32, 45, 64, 90];
/// The numbers of requests in flight at which a curve is shown: the last level of each bin.
pub(super) fn shown() -> impl Iterator<Item = u32> {
    BIN_ENDS.into_iter()
}

/// A latency above this many times that of a single request means waiting for others. Chosen.
const WIDTH_LATENCIES: f64 = 1.25;
/// The weight of the prior, in completions. Chosen; halving or doubling it hardly changes results.
const PRIOR: f64 = 20.0;
/// A bin is fitted if the sum of its seen and predicted completions is at least this. Chosen;
/// halving or doubling it hardly changes results.
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

/// `√(n/(n−1))` for each n of at least 2, computed by Newton's method.
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
    /// for each one above. Latency never falls, not even at the unseen levels above 12.
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

    /// A level that seems faster than the one below is pooled with it: 20 ms and 10 ms with equal
    /// weights both become 15 ms.
    #[test]
    fn violators_are_pooled() {
        let mut curve = Curve::new(20.0);
        curve.completions[1] = 1e6 - PRIOR;
        curve.time[1] = 2e7 - PRIOR * 20.0;
        curve.completions[2] = 1e6 - PRIOR;
        curve.time[2] = 5e6 - PRIOR * 20.0 / 2.0_f64.sqrt();
        curve.fit();
        // Levels 3 and 4 follow the prior, at 12.2 and 14.1 ms, so they are pooled too. They weigh
        // forty of two million.
        assert!((curve.latency(1) - 15.0).abs() < 1e-4, "{}", curve.latency(1));
        assert_eq!(curve.latency(2), curve.latency(1));
    }

    /// By hand: 400 completions where 800 were predicted. ln(801/401) = 0.69190, and the error is
    /// 2/√401 = 0.09988. The difference is 0.59202, so the latency is e^0.59202 = 1.80764 times as
    /// long. A deviation within its error counts as zero. A bin without evidence equals the one
    /// below.
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
