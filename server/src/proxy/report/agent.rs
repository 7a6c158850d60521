//! The line of an agent, as in HAProxy's agent check: words separated by spaces, tabs or commas,
//! and optionally a reason after `#`.
//!
//! | word | effect |
//! |---|---|
//! | `75%` | weight, percent of the configured one |
//! | `ready` | ends `drain` and `maint` |
//! | `drain`, `maint` | no new requests until `ready` |
//! | `up` | ends `down` |
//! | `down`, `fail`, `failed`, `stopped` | no new requests until `up` |
//! | `maxconn:N` | ignored |
use intelliproxy_core::{AgentState, LoadReport};

use super::{Reading, ReportFault, excerpt};

/// The maximum length of a line, bytes.
pub(crate) const LINE_BYTES_MAX: usize = 1024;

/// Reads a line. One unknown word makes the whole line a fault, because applying only part of it
/// could be wrong.
pub(super) fn read(line: &[u8]) -> Reading {
    let end = line.iter().position(|byte| b"\r\n#".contains(byte)).unwrap_or(line.len());
    let words = line[..end].split(|byte| b" \t,".contains(byte)).filter(|word| !word.is_empty());
    let mut report = LoadReport::default();
    let mut state = AgentState::default();
    for word in words {
        match word.to_ascii_lowercase().as_slice() {
            b"ready" => state.is_out = Some(false),
            b"drain" | b"maint" => state.is_out = Some(true),
            b"up" => state.is_down = Some(false),
            b"down" | b"fail" | b"failed" | b"stopped" => state.is_down = Some(true),
            word if word.starts_with(b"maxconn:") => {}
            word => match percent(word) {
                Some(percent) => state.percent = Some(percent),
                None => {
                    let excerpt = excerpt::of_backend(&line[..end]);
                    return Reading::failed(ReportFault::Unreadable { excerpt });
                }
            },
        }
    }
    if state != AgentState::default() {
        report.agent = Some(state);
        // The share of its capacity that it no longer offers.
        report.pressure = state.percent.map(|percent| 1.0 - f64::from(percent.min(100)) / 100.0);
    }
    Reading { report: Some(report), fault: None }
}

/// Reads a weight from 0 % to 256 %, the maximum in HAProxy.
fn percent(word: &[u8]) -> Option<u16> {
    let digits = word.strip_suffix(b"%")?;
    let is_plain = (1..=3).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let number: u16 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(number).filter(|number| is_plain && *number <= 256)
}
