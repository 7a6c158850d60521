//! Figures of the process, read from the system at most four times a second.
use std::fs;
use std::time::{Duration, SystemTime};

use intelliproxy_core::Instant;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::pages::ProcessFigures;

/// Time for which figures are reused.
const AGE_MAX: Duration = Duration::from_millis(250);

/// Reads the figures, and notes the time at which they may be read again.
pub(super) struct Figures {
    start_seconds: Option<f64>,
    next: Instant,
}

impl Figures {
    pub(super) fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
        Self { start_seconds: now.map(|now| now.as_secs_f64()), next: Instant::ZERO }
    }

    /// New figures; `None` if the last ones are recent enough.
    pub(super) fn fresh(&mut self, now: Instant) -> Option<ProcessFigures> {
        if now < self.next {
            return None;
        }
        self.next = now + AGE_MAX;
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        Some(ProcessFigures {
            open_descriptors: open_descriptors(),
            descriptors_max: getrlimit(Resource::Nofile).current,
            resident_bytes: resident_bytes(),
            cpu_seconds: Some(cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9),
            start_seconds: self.start_seconds,
        })
    }
}

/// The number of open descriptors. From Linux 6.2 on it is the size of /proc/self/fd. Elsewhere the
/// entries are counted, which takes 1 ms for 10 000 of them.
fn open_descriptors() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").map_or(0, |folder| folder.len());
    if size > 0 {
        return Some(size);
    }
    let entries = fs::read_dir("/dev/fd").ok()?.count();
    // One of the entries is the descriptor of the folder itself.
    Some(entries.saturating_sub(1) as u64)
}

/// Resident memory in bytes, if /proc reports it. The second number in the file counts its pages.
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
