//! Measured figures of this process: CPU time and memory.
//!
//! They are read from /proc on Linux, and reported as unknown elsewhere. They cover the whole
//! process, so backends in one process report the same figures.
use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use intelliproxy_core::Instant;

/// CPU time over the last second, from samples at shorter intervals.
#[derive(Debug, Default)]
pub(crate) struct CpuMeter {
    samples: VecDeque<(Instant, Duration)>,
}

impl CpuMeter {
    /// Records the CPU time that the process has used up to `now`. An unknown time is ignored.
    pub(crate) fn handle_sample(&mut self, now: Instant, used: Option<Duration>) {
        let Some(used) = used else { return };
        self.samples.push_back((now, used));
        // Keep the latest sample that is at least a window old, and all later ones.
        while self.samples.get(1).is_some_and(|(at, _)| now.since(*at) >= CPU_WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Returns milliseconds of CPU time per second of wall time; `None` before a second has been
    /// measured.
    pub(crate) fn busy_ms(&self) -> Option<f64> {
        let (first_at, first_used) = self.samples.front()?;
        let (last_at, last_used) = self.samples.back()?;
        let wall = last_at.since(*first_at);
        let used = last_used.saturating_sub(*first_used);
        (wall >= CPU_WINDOW).then(|| used.as_secs_f64() / wall.as_secs_f64() * 1000.0)
    }
}

/// Returns the CPU time of this process, in user and kernel mode.
pub(crate) fn cpu_time() -> Option<Duration> {
    parse_stat(&fs::read_to_string("/proc/self/stat").ok()?)
}

/// Returns the resident memory of this process in bytes.
pub(crate) fn memory_rss() -> Option<u64> {
    parse_status(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Parses the fields utime and stime of proc_pid_stat(5). The name before them may contain spaces
/// and brackets.
fn parse_stat(stat: &str) -> Option<Duration> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * TICK_MS))
}

/// Parses VmRSS of proc_pid_status(5): unlike statm it counts in kB, whatever the page size.
fn parse_status(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

const CPU_WINDOW: Duration = Duration::from_secs(1);
/// Linux shows times to user space in hundredths of a second (USER_HZ) on all current platforms.
const TICK_MS: u64 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures are found after a confusing process name.
    #[test]
    fn proc_files_are_parsed() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 95 0 0 0 120 34 5 6 20 0 1 0 7 8 9";
        assert_eq!(parse_stat(stat), Some(Duration::from_millis(1540)));
        assert_eq!(parse_stat("42 (a) S 1 2"), None);
        assert_eq!(parse_stat(""), None);
        assert_eq!(
            parse_status("Name:\ta\nVmRSS:\t    2048 kB\nRssAnon:\t 9 kB\n"),
            Some(2_097_152)
        );
        assert_eq!(parse_status("Name:\ta\n"), None);
    }

    /// On Linux the real files are readable and have plausible values.
    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_measured() {
        assert!(cpu_time().is_some());
        assert!(memory_rss().is_some_and(|bytes| bytes > 100_000));
    }

    /// The meter has a figure after the first full second, and it covers about the last second
    /// only: 200 ms of CPU in the first second and none later.
    #[test]
    fn cpu_is_measured_over_the_last_second() {
        let mut meter = CpuMeter::default();
        for step in 0..=30_u64 {
            let used = Duration::from_millis((step * 20).min(200));
            meter.handle_sample(Instant::from_millis(step * 100), Some(used));
            match step {
                0..10 => assert_eq!(meter.busy_ms(), None),
                10 => assert_eq!(meter.busy_ms(), Some(200.0)),
                15 => assert_eq!(meter.busy_ms(), Some(100.0)),
                20.. => assert_eq!(meter.busy_ms(), Some(0.0)),
                _ => {}
            }
            assert!(meter.samples.len() <= 12);
        }
    }

    /// An unknown CPU time stays unknown.
    #[test]
    fn unknown_cpu_stays_unknown() {
        let mut meter = CpuMeter::default();
        for second in 0..5 {
            meter.handle_sample(Instant::from_millis(second * 1000), None);
        }
        assert_eq!(meter.busy_ms(), None);
    }
}
