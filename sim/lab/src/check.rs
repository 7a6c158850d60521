//! Range checks for a scenario's numbers. They run during parsing, so that errors have a line and a
//! path.
use intelliproxy_core::{PolicyKind, Rules};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

/// Reads a number above 0, at most 1e9.
pub(super) fn positive<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    let is_allowed = number > 0.0 && number <= NUMBER_MAX;
    is_allowed.then_some(number).ok_or_else(|| D::Error::custom("must be above 0, at most 1e9"))
}

/// Reads a number from 0 to 1e9.
pub(super) fn amount<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    let is_allowed = (0.0..=NUMBER_MAX).contains(&number);
    is_allowed.then_some(number).ok_or_else(|| D::Error::custom("must be from 0 to 1e9"))
}

/// Reads null, or a number from 0 to 1e9.
pub(super) fn some_amount<'a, D: Deserializer<'a>>(from: D) -> Result<Option<f64>, D::Error> {
    let number = Option::<f64>::deserialize(from)?;
    let is_allowed = number.is_none_or(|number| (0.0..=NUMBER_MAX).contains(&number));
    is_allowed.then_some(number).ok_or_else(|| D::Error::custom("must be from 0 to 1e9, or null"))
}

/// Reads null, or a number above 0, at most 1e9.
pub(super) fn some_positive<'a, D: Deserializer<'a>>(from: D) -> Result<Option<f64>, D::Error> {
    let number = Option::<f64>::deserialize(from)?;
    let is_allowed = number.is_none_or(|number| number > 0.0 && number <= NUMBER_MAX);
    is_allowed
        .then_some(number)
        .ok_or_else(|| D::Error::custom("must be above 0, at most 1e9, or null"))
}

/// Reads a time from 1 ms to a day, in seconds.
pub(super) fn run_seconds<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    let is_allowed = (0.001..=86_400.0).contains(&number);
    is_allowed.then_some(number).ok_or_else(|| D::Error::custom("must be from 0.001 to 86400"))
}

/// Reads a share from 0 to 1.
pub(super) fn share<'a, D: Deserializer<'a>>(from: D) -> Result<f64, D::Error> {
    let number = f64::deserialize(from)?;
    let is_allowed = (0.0..=1.0).contains(&number);
    is_allowed.then_some(number).ok_or_else(|| D::Error::custom("must be from 0 to 1"))
}

/// Reads a final HTTP status.
pub(super) fn status<'a, D: Deserializer<'a>>(from: D) -> Result<u16, D::Error> {
    let number = u16::deserialize(from)?;
    let is_allowed = (200..=599).contains(&number);
    is_allowed.then_some(number).ok_or_else(|| D::Error::custom("must be from 200 to 599"))
}

/// Reads a count from 1 to 10 000.
pub(super) fn count<'a, D: Deserializer<'a>>(from: D) -> Result<u32, D::Error> {
    let number = u32::deserialize(from)?;
    let is_allowed = (1..=COUNT_MAX).contains(&number);
    is_allowed.then_some(number).ok_or_else(|| D::Error::custom("must be from 1 to 10000"))
}

/// Reads the maximum number of backends for one request: from 1 to 16, as in the proxy.
pub(super) fn attempts<'a, D: Deserializer<'a>>(from: D) -> Result<u8, D::Error> {
    let number = u8::deserialize(from)?;
    let is_allowed = (1..=16).contains(&number);
    is_allowed.then_some(number).ok_or_else(|| D::Error::custom("must be from 1 to 16"))
}

/// Reads a size from 0 to 1 000 000.
pub(super) fn room<'a, D: Deserializer<'a>>(from: D) -> Result<u32, D::Error> {
    let number = u32::deserialize(from)?;
    let is_allowed = number <= 1_000_000;
    is_allowed.then_some(number).ok_or_else(|| D::Error::custom("must be from 0 to 1000000"))
}

/// Reads two numbers from 0 to 1e9, the lower one first.
pub(super) fn range<'a, D: Deserializer<'a>>(from: D) -> Result<[f64; 2], D::Error> {
    let range = <[f64; 2]>::deserialize(from)?;
    is_range(range)
        .then_some(range)
        .ok_or_else(|| D::Error::custom("must be [low, high], from 0 to 1e9"))
}

/// Reads null, or two numbers from 0 to 1e9, the lower one first.
pub(super) fn some_range<'a, D: Deserializer<'a>>(from: D) -> Result<Option<[f64; 2]>, D::Error> {
    let range = Option::<[f64; 2]>::deserialize(from)?;
    let is_allowed = range.is_none_or(is_range);
    is_allowed
        .then_some(range)
        .ok_or_else(|| D::Error::custom("must be [low, high], from 0 to 1e9, or null"))
}

/// Reads points of a quantile function: `[share, ms]`, shares rising from 0 to 1, times not
/// falling.
pub(super) fn quantiles<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<[f64; 2]>, D::Error> {
    let points = Vec::<[f64; 2]>::deserialize(from)?;
    let has_ends = matches!(points.as_slice(), [[first, _], .., [last, _]]
        if *first == 0.0 && *last == 1.0);
    let is_rising = points.windows(2).all(|pair| pair[0][0] < pair[1][0]);
    let is_monotone = points.windows(2).all(|pair| pair[0][1] <= pair[1][1]);
    let is_bounded = points.iter().all(|point| (0.0..=NUMBER_MAX).contains(&point[1]));
    (has_ends && is_rising && is_monotone && is_bounded).then_some(points).ok_or_else(|| {
        D::Error::custom("must be [share, ms] pairs: shares rising from 0 to 1, times not falling")
    })
}

/// Reads the rules of a router. The policy must be absent, because the lab sets it.
pub(super) fn rules<'a, D: Deserializer<'a>>(from: D) -> Result<Rules, D::Error> {
    let rules = Rules::deserialize(from)?;
    rules.validate().map_err(D::Error::custom)?;
    if rules.policy != PolicyKind::default() {
        return Err(D::Error::custom("policy: must be left out; the lab compares policies"));
    }
    Ok(rules)
}

fn is_range([low, high]: [f64; 2]) -> bool {
    low >= 0.0 && low <= high && high <= NUMBER_MAX
}

/// Above every sensible value, and below the overflow of its nanoseconds.
const NUMBER_MAX: f64 = 1e9;
/// Maximum number of backends of a router.
const COUNT_MAX: u32 = 10_000;
