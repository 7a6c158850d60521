//! The text of /stats: built over several turns and shared by all clients that request it.
//! `pages/stats.rs` formats it, and `session/stats.rs` sends it.
//!
//! | backends | a request gets |
//! |---|---|
//! | at most [`AT_ONCE`] | a new text, built at once |
//! | more | the last text, if it was begun within [`AGE_MAX`]; otherwise the request waits for the next text |
//!
//! The first request that finds no text begins the next one, so at most four are begun per second.
//! It grows by [`AT_ONCE`] backends every [`STEP`], with traffic in between. The rows of one text
//! are therefore from slightly different times, and the ages in a row are relative to the row's
//! time. A new configuration discards the text, and the next step begins another one.
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::{BackendId, GuardView, Instant};

use super::Proxy;
use super::id::ConnId;
use super::session::{OwnPage, OwnText};
use super::upstreams::Decisions;
use crate::pages::explain::Decision;
use crate::pages::{StatsText, recording_field};

/// The number of backends written, and of clients served with the text, in one step.
const AT_ONCE: usize = 16;
/// Time between two steps.
const STEP: Duration = Duration::from_millis(1);
/// Time for which a text is served, counted from the start of its building.
const AGE_MAX: Duration = Duration::from_millis(250);

/// The current text, and the next one in progress.
#[derive(Debug, Default)]
pub(super) struct Stats {
    latest: Option<(Instant, Arc<[u8]>)>,
    build: Option<Build>,
    waiting: VecDeque<ConnId>,
    /// The time at which the next step is due.
    step_at: Option<Instant>,
}

#[derive(Debug)]
struct Build {
    begun: Instant,
    /// Backends that are not in the text yet, in reverse order.
    left: Vec<BackendId>,
    text: StatsText,
}

impl Stats {
    /// Returns the time at which [`Proxy::step_stats`] is due.
    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.step_at
    }

    /// Returns the current text if it is not too old.
    fn fresh(&self, now: Instant) -> Option<&Arc<[u8]>> {
        let latest = self.latest.as_ref();
        latest.filter(|(begun, _)| now.since(*begun) < AGE_MAX).map(|(_, text)| text)
    }

    /// Discards the last text and the one in progress: the backends may have changed.
    pub(super) fn handle_reconfigured(&mut self) {
        self.latest = None;
        self.build = None;
    }
}

impl Proxy {
    /// Handles a request for /stats.
    pub(super) fn ask_stats(&mut self, now: Instant, id: ConnId) {
        let wanted = self.table.session_mut(id).and_then(|session| session.awaited_page());
        match wanted {
            None => return,
            Some(OwnPage::Figures) => {}
            Some(page) => return self.answer_own_page(now, id, page),
        }
        let configured = self.upstreams.configured();
        if configured.len() <= AT_ONCE {
            let left = configured.iter().rev().copied().collect();
            let mut build = Build { begun: now, left, text: StatsText::new() };
            self.write_stats(now, &mut build);
            let text = build.text.finish().into();
            return self.answer_stats(now, id, &text);
        }
        match self.stats.fresh(now).map(Arc::clone) {
            Some(text) => self.answer_stats(now, id, &text),
            None => {
                self.stats.waiting.push_back(id);
                self.stats.step_at.get_or_insert(now + STEP);
            }
        }
    }

    /// Continues the text, or the responses to waiting clients, if a step is due.
    pub(super) fn step_stats(&mut self, now: Instant) {
        if self.stats.step_at.is_none_or(|at| at > now) {
            return;
        }
        self.stats.step_at = None;
        if self.stats.build.is_some() || self.stats.fresh(now).is_none() {
            self.grow_stats(now);
        }
        if self.stats.build.is_none()
            && let Some((_, text)) = &self.stats.latest
        {
            let text = Arc::clone(text);
            for _ in 0..AT_ONCE {
                let Some(id) = self.stats.waiting.pop_front() else { break };
                self.answer_stats(now, id, &text);
                self.serve(now, id);
            }
        }
        if self.stats.build.is_some() || !self.stats.waiting.is_empty() {
            self.stats.step_at = Some(now + STEP);
        }
    }

    /// Begins a text if none is in progress, and writes some of its backends.
    fn grow_stats(&mut self, now: Instant) {
        let mut build = self.stats.build.take().unwrap_or_else(|| {
            let left = self.upstreams.configured().iter().rev().copied().collect();
            Build { begun: now, left, text: StatsText::new() }
        });
        self.write_stats(now, &mut build);
        if build.left.is_empty() {
            self.stats.latest = Some((build.begun, build.text.finish().into()));
        } else {
            self.stats.build = Some(build);
        }
    }

    fn write_stats(&self, now: Instant, build: &mut Build) {
        let guard = self.upstreams.guard(now);
        let first = build.left.len().saturating_sub(AT_ONCE);
        for id in build.left.drain(first..).rev() {
            self.write_backend(now, id, guard.as_ref(), &mut build.text);
        }
    }

    fn answer_stats(&mut self, now: Instant, id: ConnId, text: &Arc<[u8]>) {
        let fields = OwnPage::Figures.vary().to_owned() + &self.stats_fields();
        if let Some(session) = self.table.session_mut(id) {
            let page = OwnText { status: 200, kind: "application/json", fields: &fields, text };
            session.handle_own_text(now, &page, &mut self.shared);
        }
    }

    /// Returns the header fields specific to /stats.
    pub(crate) fn stats_fields(&self) -> String {
        let recording = self.upstreams.recording().map_or_else(String::new, recording_field);
        let reloads = self.reload_counts.field();
        let retries = self.shared.retries.counts().field();
        let times = self.times_field();
        let fields = times + &recording + &reloads + &self.log_counts.field() + &retries;
        let access = self.shared.access.counts().field();
        fields + &self.queue.counts().field() + &self.counters.incidents.limited.field() + &access
    }

    /// Writes one backend with the current state of the guard.
    pub(crate) fn write_backend(
        &self,
        now: Instant,
        id: BackendId,
        guard: Option<&GuardView>,
        text: &mut StatsText,
    ) {
        if let Some(backend) = self.upstreams.backend_snapshot(now, id) {
            let url = self.upstreams.target(id).map(|target| target.url.as_str());
            text.push(&backend, url, guard, self.head_times(id), self.recent_times(id));
        }
    }

    /// Returns the last decisions, the newest first; empty without an admin listener.
    pub(crate) fn decisions(&self) -> impl Iterator<Item = &Decision> {
        self.upstreams.decisions().into_iter().flat_map(Decisions::iter)
    }

    /// Returns the state of the guard over the policy.
    pub(crate) fn guard(&self, now: Instant) -> Option<GuardView> {
        self.upstreams.guard(now)
    }
}
