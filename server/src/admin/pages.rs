//! The pages whose length depends on the number of backends. They are built over several turns and
//! shared by the clients that request them.
//!
//! | backends | a request gets |
//! |---|---|
//! | at most [`AT_ONCE`] | a current text, built at once |
//! | more | a text that is less than [`AGE_MAX`] old; otherwise the request waits for the next text |
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::{BackendId, Instant};

use crate::pages::metrics::MetricsText;
use crate::pages::{ProcessFigures, StatsText};
use crate::proxy::Proxy;

/// Backends added in one step.
const AT_ONCE: usize = 16;
/// Number of pairs of a metric family and a backend that one step writes.
const PAIRS: usize = 64;
/// Time between two steps.
const STEP: Duration = Duration::from_millis(1);
/// Time for which a text is served.
const AGE_MAX: Duration = Duration::from_millis(250);

/// A page by its name.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Page {
    Stats,
    Metrics,
}

/// The finished texts and the ones in progress.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    pub(super) process: ProcessFigures,
    stats: Growing,
    metrics: Growing,
}

/// One page: its last text and the one in progress.
#[derive(Debug, Default)]
struct Growing {
    /// The last text, and the time at which it was finished.
    latest: Option<(Instant, Arc<Vec<u8>>)>,
    build: Option<Build>,
    /// The time at which the next step is due.
    step_at: Option<Instant>,
}

/// A text in progress, with the remaining backends in reverse order.
#[derive(Debug)]
enum Build {
    Stats { left: Vec<BackendId>, text: StatsText },
    Metrics { left: Vec<BackendId>, text: Box<MetricsText> },
}

impl Pages {
    /// Returns a page; `None` if it is in progress. [`grow`](Self::grow) reports its completion.
    pub(crate) fn ask(&mut self, now: Instant, page: Page, proxy: &Proxy) -> Option<Arc<Vec<u8>>> {
        if proxy.configured().len() <= AT_ONCE {
            let mut build = Build::new(now, page, proxy, &self.process);
            while !build.step(now, proxy) {}
            return Some(Arc::new(build.finish()));
        }
        let growing = self.growing(page);
        let latest = growing.latest.as_ref();
        let fresh = latest.filter(|(made, _)| now.since(*made) < AGE_MAX);
        if fresh.is_none() {
            growing.step_at.get_or_insert(now + STEP);
        }
        fresh.map(|(_, text)| Arc::clone(text))
    }

    /// Continues the texts in progress. Returns the pages that are complete now.
    pub(crate) fn grow(&mut self, now: Instant, proxy: &Proxy) -> [Option<Page>; 2] {
        [Page::Stats, Page::Metrics].map(|page| {
            let process = self.process;
            let growing = self.growing(page);
            growing.latest.take_if(|(made, _)| now.since(*made) >= AGE_MAX);
            if growing.step_at.is_none_or(|at| at > now) {
                return None;
            }
            let begin = || Build::new(now, page, proxy, &process);
            let mut build = growing.build.take().unwrap_or_else(begin);
            if build.step(now, proxy) {
                growing.latest = Some((now, Arc::new(build.finish())));
                growing.step_at = None;
                Some(page)
            } else {
                growing.build = Some(build);
                growing.step_at = Some(now + STEP);
                None
            }
        })
    }

    /// Returns the time at which [`grow`](Self::grow) is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let times = [&self.stats, &self.metrics].map(|page| {
            let ends = page.latest.as_ref().map(|(made, _)| *made + AGE_MAX);
            page.step_at.into_iter().chain(ends).min()
        });
        times.into_iter().flatten().min()
    }

    fn growing(&mut self, page: Page) -> &mut Growing {
        match page {
            Page::Stats => &mut self.stats,
            Page::Metrics => &mut self.metrics,
        }
    }
}

impl Build {
    fn new(now: Instant, page: Page, proxy: &Proxy, process: &ProcessFigures) -> Self {
        let left = proxy.configured().iter().rev().copied().collect();
        match page {
            Page::Stats => Self::Stats { left, text: StatsText::new() },
            Page::Metrics => {
                let text = Box::new(MetricsText::new(&proxy.overall(now), process));
                Self::Metrics { left, text }
            }
        }
    }

    /// Writes a part. Returns whether the text is complete.
    fn step(&mut self, now: Instant, proxy: &Proxy) -> bool {
        match self {
            Self::Stats { left, text } => {
                let guard = proxy.guard(now);
                for id in next(left) {
                    proxy.write_backend(now, id, guard.as_ref(), text);
                }
                left.is_empty()
            }
            Self::Metrics { left, text } if left.is_empty() => text.write_some(PAIRS),
            Self::Metrics { left, text } => {
                next(left).filter_map(|id| proxy.figures(now, id)).for_each(|row| text.push(row));
                false
            }
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Stats { text, .. } => text.finish(),
            Self::Metrics { text, .. } => text.finish(),
        }
    }
}

/// Takes the next [`AT_ONCE`] backends from the list.
fn next(left: &mut Vec<BackendId>) -> impl Iterator<Item = BackendId> {
    let first = left.len().saturating_sub(AT_ONCE);
    left.drain(first..).rev()
}
