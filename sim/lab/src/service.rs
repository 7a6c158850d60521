//! The work of a request: distributions as quantile functions.
//!
//! Every distribution turns one uniform draw into a time (inverse transform). The draw belongs to
//! the request, so it is the same for every backend and policy (common random numbers).
use serde::{Deserialize, Serialize};

use super::check;

/// The service time of a request at a backend of speed 1 that serves nothing else.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub enum Service {
    /// A constant, ms.
    Constant(#[serde(deserialize_with = "check::amount")] f64),
    /// Exponential with this mean, ms.
    Exponential(#[serde(deserialize_with = "check::positive")] f64),
    /// Uniform from low to high, ms.
    Uniform(#[serde(deserialize_with = "check::range")] [f64; 2]),
    /// Lognormal.
    #[serde(rename_all = "camelCase")]
    Lognormal {
        /// Median, ms.
        #[serde(deserialize_with = "check::positive")]
        median_ms: f64,
        /// Standard deviation of the logarithm.
        #[serde(deserialize_with = "check::amount")]
        sigma: f64,
        /// Lower and upper bound, to which other times are clipped, ms.
        #[serde(default, deserialize_with = "check::some_range")]
        clip_ms: Option<[f64; 2]>,
    },
    /// Pareto: heavy tails.
    #[serde(rename_all = "camelCase")]
    Pareto {
        /// Minimum, ms.
        #[serde(deserialize_with = "check::positive")]
        min_ms: f64,
        /// The tail's exponent. Without a clip it must be above 1 for a finite mean.
        #[serde(deserialize_with = "check::positive")]
        shape: f64,
        /// Lower and upper bound, to which other times are clipped, ms.
        #[serde(default, deserialize_with = "check::some_range")]
        clip_ms: Option<[f64; 2]>,
    },
    /// A random choice among several distributions.
    Mixture(Vec<Part>),
    /// Measured: points `[share, ms]` of the quantile function, interpolated linearly.
    Empirical(#[serde(deserialize_with = "check::quantiles")] Vec<[f64; 2]>),
}

/// One of a mixture's distributions.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Part {
    /// Its share of draws, relative to the shares of the others.
    #[serde(deserialize_with = "check::positive")]
    pub share: f64,
    /// The distribution drawn from.
    pub service: Service,
}

impl Service {
    /// Returns the time, in ms, below which a share of `draw` lies. `draw` is from 0 up to but not
    /// including 1.
    pub fn quantile_ms(&self, draw: f64) -> f64 {
        match self {
            Self::Constant(ms) => *ms,
            Self::Exponential(mean) => -mean * libm::log(1.0 - draw),
            Self::Uniform([low, high]) => low + (high - low) * draw,
            Self::Lognormal { median_ms, sigma, clip_ms } => {
                clip(median_ms * libm::exp(sigma * normal_quantile(draw)), *clip_ms)
            }
            Self::Pareto { min_ms, shape, clip_ms } => {
                clip(min_ms * libm::pow(1.0 - draw, -1.0 / shape), *clip_ms)
            }
            Self::Mixture(parts) => mixture_quantile(parts, draw),
            Self::Empirical(points) => empirical_quantile(points, draw),
        }
    }

    /// Returns the mean, ms. Infinite for an unclipped Pareto of shape 1 or less.
    pub fn mean_ms(&self) -> f64 {
        match self {
            Self::Constant(ms) => *ms,
            Self::Exponential(mean) => *mean,
            Self::Uniform([low, high]) => low.midpoint(*high),
            Self::Lognormal { median_ms, sigma, clip_ms: None } => {
                median_ms * libm::exp(sigma * sigma / 2.0)
            }
            Self::Pareto { min_ms, shape, clip_ms: None } => {
                if *shape > 1.0 {
                    min_ms * shape / (shape - 1.0)
                } else {
                    f64::INFINITY
                }
            }
            Self::Lognormal { .. } | Self::Pareto { .. } => self.integrated_mean_ms(),
            Self::Mixture(parts) => {
                let shares: f64 = parts.iter().map(|part| part.share).sum();
                parts.iter().map(|part| part.share / shares * part.service.mean_ms()).sum()
            }
            Self::Empirical(points) => {
                points.windows(2).map(|p| (p[1][0] - p[0][0]) * p[0][1].midpoint(p[1][1])).sum()
            }
        }
    }

    /// Returns the mean, computed by the midpoint rule over the quantile function. Used for clipped
    /// distributions, whose quantile function is bounded.
    fn integrated_mean_ms(&self) -> f64 {
        const STEPS: u32 = 10_000;
        let step = |index| self.quantile_ms((f64::from(index) + 0.5) / f64::from(STEPS));
        (0..STEPS).map(step).sum::<f64>() / f64::from(STEPS)
    }
}

fn clip(ms: f64, range: Option<[f64; 2]>) -> f64 {
    range.map_or(ms, |[low, high]| ms.clamp(low, high))
}

fn mixture_quantile(parts: &[Part], draw: f64) -> f64 {
    let shares: f64 = parts.iter().map(|part| part.share).sum();
    let mut left = draw * shares;
    for part in parts {
        if left < part.share {
            return part.service.quantile_ms(left / part.share);
        }
        left -= part.share;
    }
    // Because of rounding, the draw may lie after the last part. An empty mixture has no work.
    parts.last().map_or(0.0, |part| part.service.quantile_ms(DRAW_MAX))
}

fn empirical_quantile(points: &[[f64; 2]], draw: f64) -> f64 {
    let above = points.partition_point(|point| point[0] <= draw);
    match (points.get(above.wrapping_sub(1)), points.get(above)) {
        (Some([share, ms]), Some([next_share, next_ms])) => {
            ms + (next_ms - ms) * (draw - share) / (next_share - share)
        }
        (Some([_, ms]), None) | (None, Some([_, ms])) => *ms,
        (None, None) => 0.0,
    }
}

/// Returns the standard normal quantile by Acklam's rational approximation (2003), with a relative
/// error below 1.2e-9.
fn normal_quantile(draw: f64) -> f64 {
    const CENTRE_TOP: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const CENTRE_BOTTOM: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const TAIL_TOP: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const TAIL_BOTTOM: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    const TAIL: f64 = 0.024_25;
    let draw = draw.clamp(f64::MIN_POSITIVE, DRAW_MAX);
    let tail = |share: f64| {
        let x = (-2.0 * libm::log(share)).sqrt();
        polynomial(&TAIL_TOP, x) / polynomial(&TAIL_BOTTOM, x)
    };
    if draw < TAIL {
        tail(draw)
    } else if draw > 1.0 - TAIL {
        -tail(1.0 - draw)
    } else {
        let x = draw - 0.5;
        x * polynomial(&CENTRE_TOP, x * x) / polynomial(&CENTRE_BOTTOM, x * x)
    }
}

/// Evaluates a polynomial by Horner's rule. The coefficient of the highest power comes first.
fn polynomial(coefficients: &[f64], x: f64) -> f64 {
    coefficients.iter().fold(0.0, |sum, coefficient| sum * x + coefficient)
}

/// The largest draw: 1 minus one step of 2^-53.
const DRAW_MAX: f64 = 1.0 - f64::EPSILON / 2.0;

#[cfg(test)]
mod tests {
    use super::*;

    /// The normal quantile agrees with a table and is symmetric.
    #[test]
    fn normal_quantiles() {
        let cases =
            [(0.5, 0.0), (0.975, 1.959_963_985), (0.999, 3.090_232_306), (0.01, -2.326_347_874)];
        for (draw, expected) in cases {
            assert!((normal_quantile(draw) - expected).abs() < 1e-8, "{draw}");
            assert!((normal_quantile(1.0 - draw) + expected).abs() < 1e-8, "{draw}");
        }
        assert!(normal_quantile(0.0).is_finite());
    }

    /// For every kind, the mean agrees with the quantile function, up to the error of the midpoint
    /// rule for an unbounded tail. Quantiles never fall.
    #[test]
    fn means_agree_with_quantiles() {
        let uniform = |low, high| Service::Uniform([low, high]);
        let parts = vec![
            Part { share: 0.9, service: uniform(1.6, 2.4) },
            Part { share: 0.1, service: uniform(80.0, 120.0) },
        ];
        let cases = [
            (Service::Constant(16.0), 16.0),
            (Service::Exponential(10.0), 10.0),
            (uniform(2.0, 4.0), 3.0),
            (Service::Lognormal { median_ms: 10.0, sigma: 0.5, clip_ms: None }, 11.331_48),
            (Service::Pareto { min_ms: 5.0, shape: 3.0, clip_ms: None }, 7.5),
            (Service::Mixture(parts), 11.8),
            (Service::Empirical(vec![[0.0, 1.0], [0.5, 3.0], [1.0, 9.0]]), 4.0),
        ];
        for (service, mean) in cases {
            assert!((service.mean_ms() / mean - 1.0).abs() < 1e-6, "{service:?}");
            assert!((service.integrated_mean_ms() / mean - 1.0).abs() < 2e-3, "{service:?}");
            let quantiles = (0..1000).map(|step| service.quantile_ms(f64::from(step) / 1000.0));
            assert!(quantiles.is_sorted(), "{service:?}");
        }
    }

    /// Clips bound both ends.
    #[test]
    fn clips_hold() {
        let clip_ms = Some([500.0, 20_000.0]);
        let service = Service::Lognormal { median_ms: 2500.0, sigma: 0.8, clip_ms };
        assert_eq!(service.quantile_ms(0.0), 500.0);
        assert_eq!(service.quantile_ms(DRAW_MAX), 20_000.0);
        assert!((service.quantile_ms(0.5) - 2500.0).abs() < 1e-6);
        assert!((3300.0..3450.0).contains(&service.mean_ms()), "{}", service.mean_ms());
    }
}
