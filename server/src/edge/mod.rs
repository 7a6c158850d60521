//! Files, names and processes: everything that may block. Separate threads write the log, the
//! access log, the state and the recording, read a new configuration, and start an upgrade.
//!
//! This file has `Edge`, which the reactor calls when work is due. `service.rs` talks to the
//! service manager and starts an upgrade.
//!
//! While the proxy serves, the reactor does not wait for any of these threads. If reading the
//! configuration hangs, it is abandoned after `timeouts.reloadMs`, and a late result is dropped.
pub(crate) mod access;
pub(crate) mod activation;
pub(crate) mod candidate;
pub(crate) mod discovery;
pub(crate) mod disk;
pub(crate) mod early;
pub(crate) mod folders;
pub(crate) mod handover;
mod json;
pub mod listen;
pub(crate) mod logging;
pub(crate) mod notify;
mod observe;
pub(crate) mod record;
pub mod reload;
pub mod resolve;
pub(crate) mod service;
pub mod setup;
pub(crate) mod socket;
pub(crate) mod state;
pub(crate) mod tls;
pub(crate) mod upgrade;
pub(crate) mod user;
pub(crate) mod worker;

use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::Instant;
use log::{info, warn};
use mio::Waker;

use self::access::AccessLog;
use self::candidate::{Candidate, Current, Files};
use self::discovery::Discovery;
use self::logging::LogWatch;
use self::observe::{LineLimits, log_notice};
use self::record::{Names, Opened, RecordGuard};
use self::reload::{Reading, Reloader, Source};
use self::state::{Keeper, Kept};
use self::worker::Ended;
use crate::config::{Config, Found};
use crate::pages::{AccessCounts, LogCounts};
use crate::proxy::{Notice, Proxy};

/// The log, files and worker threads of one reactor.
pub(crate) struct Edge {
    log: LogWatch,
    /// Limits the log lines that peers can cause.
    limits: LineLimits,
    /// The log's counts as last passed to the proxy.
    log_counts: LogCounts,
    access: Option<AccessLog>,
    access_totals: Arc<access::Totals>,
    /// The totals as last passed to the proxy.
    access_counts: AccessCounts,
    keeper: Option<Keeper>,
    /// The learned state of the policy that the last `policy` command replaced.
    learned: Option<String>,
    /// Reads the configuration again; `None` if SIGHUP is ignored.
    source: Option<Source>,
    discovery: Discovery,
    reloader: Reloader<Candidate>,
    /// Whether another reading was requested during the last one.
    is_asked_again: bool,
    waker: Arc<Waker>,
    /// Watches the files of certificates.
    certificates: tls::Watch,
    /// Dropped after the proxy, because its drop waits until the recording is written.
    recording: Option<RecordGuard>,
    /// Recordings that a new configuration has ended; they may still be written.
    ending: Vec<RecordGuard>,
    /// Former writers of the state and of the access log; they may still be writing.
    ending_writers: Vec<Ended>,
}

impl Edge {
    pub(crate) fn new(
        log: LogWatch,
        keeper: Option<Keeper>,
        reload: Option<Source>,
        discovery: Discovery,
        waker: Arc<Waker>,
        recording: Option<RecordGuard>,
    ) -> Self {
        Self {
            log,
            limits: LineLimits::default(),
            log_counts: LogCounts::default(),
            access: None,
            access_totals: Arc::default(),
            access_counts: AccessCounts::default(),
            keeper,
            learned: None,
            source: reload,
            discovery,
            reloader: Reloader::new(),
            is_asked_again: false,
            waker,
            recording,
            certificates: tls::Watch::default(),
            ending: Vec::new(),
            ending_writers: Vec::new(),
        }
    }

    /// Handles what is due. Called when [`poll_timeout`](Self::poll_timeout) or
    /// [`records_max`](Self::records_max) is reached, when [`losses`](Self::losses) has changed,
    /// after a line of the log, and at least once in a second with traffic.
    pub(crate) fn handle_turn(&mut self, now: Instant, proxy: &mut Proxy) {
        if let Some(keeper) = &mut self.keeper {
            keeper.handle_turn(now, proxy);
        }
        if self.access.is_some() {
            self.handle_access(now, proxy);
        }
        if self.limits.poll_timeout().is_some_and(|at| at <= now) {
            self.limits.tell(now).iter().for_each(|line| warn!("{line}"));
        }
        let counts = LogCounts { limited: self.limits.limited(), ..self.log.counts() };
        if counts != self.log_counts {
            self.log_counts = counts;
            proxy.handle_log_counts(counts);
        }
        if self.reading_until().is_some_and(|at| at <= now) {
            self.give_up_reading(now, proxy);
        }
    }

    /// The time at which a turn is due even if nothing happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let access = self.access.as_ref().and_then(AccessLog::poll_timeout);
        let times = [self.reading_until(), self.limits.poll_timeout(), access];
        times.into_iter().flatten().min()
    }

    /// Waiting bytes of the access log's records with which a turn is due.
    pub(crate) fn records_max(&self) -> usize {
        self.access.as_ref().map_or(usize::MAX, AccessLog::records_max)
    }

    /// Passes the waiting records of the access log on.
    pub(crate) fn pass_records(&mut self, now: Instant, proxy: &mut Proxy) {
        if let Some(access) = &mut self.access {
            access.flush(now, proxy);
        }
    }

    /// The number of losses and failed writes of the logs so far. When it has changed,
    /// [`handle_turn`](Self::handle_turn) is due.
    pub(crate) fn losses(&self) -> u64 {
        let (log, access) = (self.log.counts(), self.access_totals.counts());
        log.dropped + log.failed_writes + access.dropped + access.failed_writes
    }

    /// Replaces the access log by another one, or by none.
    ///
    /// # Errors
    /// The new one cannot be started. In that case the old one continues.
    pub(crate) fn set_access_log(
        &mut self,
        now: Instant,
        opened: access::Opened,
        proxy: &mut Proxy,
    ) -> Result<(), String> {
        let old = AccessLog::replace(&mut self.access, opened, &self.access_totals, now, proxy)?;
        self.end_later(old);
        Ok(())
    }

    /// Passes records of the access log on, and reports its losses.
    fn handle_access(&mut self, now: Instant, proxy: &mut Proxy) {
        let Some(access) = &mut self.access else { return };
        access.handle_turn(now, proxy);
        let counts = self.access_totals.counts();
        if counts != self.access_counts {
            self.access_counts = counts;
            proxy.handle_access_counts(counts);
        }
    }

    /// Opens the log files again, so that renamed ones are closed.
    pub(crate) fn reopen_logs(&self) {
        info!("SIGUSR1: opening the files of logs again");
        self.log.reopen();
        if let Some(access) = &self.access {
            access.reopen();
        }
    }

    /// Whether the configuration is being read.
    pub(crate) fn is_reading(&self) -> bool {
        self.reading_until().is_some()
    }

    /// Ends the saving of the state and the recording, because the successor writes these files.
    pub(crate) fn hand_over(&mut self, proxy: &mut Proxy) {
        let keeper = self.keeper.take().map(Keeper::end);
        self.end_later(keeper);
        proxy.stop_recording();
        self.ending.extend(self.recording.take());
    }

    fn reading_until(&self) -> Option<Instant> {
        self.reloader.poll_timeout()
    }

    /// Logs a notice of the proxy.
    pub(crate) fn log_notice(&mut self, now: Instant, notice: &Notice, proxy: &Proxy) {
        let name = |backend| proxy.backend_name(backend);
        log_notice(now, notice, proxy.config(), &mut self.limits, name);
    }

    /// The names of the current recording's files.
    pub(crate) fn recording_names(&self) -> Option<Names> {
        self.recording.as_ref().map(RecordGuard::names)
    }

    /// Starts reading the configuration again, or records that another reading is needed.
    ///
    /// Returns how many readings must end until this request is served: 1, or 2 if one is in
    /// progress. `None` without a source of configuration.
    pub(crate) fn reload(
        &mut self,
        now: Instant,
        proxy: &mut Proxy,
        current: Current,
    ) -> Option<u64> {
        let source = self.source.clone()?;
        let readings = if self.reading_until().is_some() { 2 } else { 1 };
        let (discovery, time) = (self.discovery.clone(), proxy.reload_time() / 2);
        let load = move || source.candidate(current, &discovery, time);
        if let Err(wrong) = self.reloader.ask(now, proxy.reload_time(), load, self.waking()) {
            proxy.handle_config_refused(now, wrong);
        }
        Some(readings)
    }

    /// Begins to find the backends of a configuration, in which `found` are in use.
    pub(crate) fn follow(&self, config: &Config, found: Found) {
        self.discovery.follow(config, found, self.waking());
    }

    /// Returns a function with which other threads wake the reactor.
    fn waking(&self) -> impl Fn() + Send + use<> {
        let waker = Arc::clone(&self.waker);
        move || {
            // If the poll is gone, the reactor has ended.
            let _ = waker.wake();
        }
    }

    /// Watches the files of the TLS of listeners and of backends.
    pub(crate) fn watch_certificates(&mut self, servers: &tls::Servers, clients: &tls::Clients) {
        let wake = self.waking();
        self.certificates.follow(servers, clients, wake);
    }

    /// Returns the TLS of listeners and of backends, if a file of it has changed.
    pub(crate) fn take_certificates(&self) -> Option<(tls::Servers, tls::Clients, Vec<String>)> {
        self.certificates.take()
    }

    /// Returns the backends that were found, if they have changed.
    pub(crate) fn take_found(&self) -> Option<Found> {
        self.discovery.take()
    }

    /// Keeps and saves the learned state. Called before a command changes the policy.
    pub(crate) fn remember(&mut self, proxy: &Proxy) {
        if let Some(state) = proxy.policy_state() {
            self.learned = Some(state.to_json());
        }
        if let Some(keeper) = &mut self.keeper {
            keeper.save(proxy);
        }
    }

    /// Restores the state that [`remember`](Self::remember) kept, if it belongs to this policy.
    pub(crate) fn recall(&self, proxy: &mut Proxy) {
        let Some(text) = &self.learned else { return };
        // The state of another policy is refused, and kept until that policy is used again.
        if proxy.policy_state().is_some() && proxy.restore(text).is_ok() {
            info!("the policy continues with what it had learned");
        }
    }

    /// Returns the configuration that was read again, if it has arrived.
    pub(crate) fn take_reloaded(&mut self) -> Option<Result<Candidate, String>> {
        let Reading { loaded, is_asked_again } = self.reloader.take()?;
        self.is_asked_again |= is_asked_again;
        Some(loaded)
    }

    /// Returns whether another reading was requested during the last one, and resets that.
    pub(crate) fn take_asked_again(&mut self) -> bool {
        std::mem::take(&mut self.is_asked_again)
    }

    /// Saves the learned state if `next` has another state file or another policy.
    pub(crate) fn save(&self, proxy: &Proxy, next: &Config) {
        let now = proxy.config();
        let stays = now.state_file == next.state_file && now.routing.policy == next.routing.policy;
        if let Some(keeper) = self.keeper.as_ref().filter(|_| !stays) {
            keeper.save(proxy);
        }
    }

    /// Takes the files of a configuration that was just applied.
    pub(crate) fn adopt(
        &mut self,
        now: Instant,
        wall_clock_nanos: u64,
        files: Files,
        is_other_policy: bool,
        proxy: &mut Proxy,
    ) {
        self.adopt_state(now, files.state, is_other_policy, proxy);
        if let Some(opened) = files.log {
            self.log.set(opened);
        }
        if let Some(opened) = files.access_log
            && let Err(wrong) = self.set_access_log(now, opened, proxy)
        {
            warn!("{wrong}: keeping the old one");
        }
        if let Some(recording) = files.recording {
            // The old journal ends first, because the new one begins with the router's current
            // state.
            proxy.stop_recording();
            self.ending.retain(|guard| !guard.has_ended());
            self.ending.extend(self.recording.take());
            self.recording = recording.map(|Opened { recorder, guard }| {
                proxy.record_from_now(now, Box::new(recorder), wall_clock_nanos);
                guard
            });
        }
    }

    /// Notes a writer that ends by itself, to wait for it at the program's end.
    fn end_later(&mut self, writer: Option<Ended>) {
        self.ending_writers.retain(|ended| !ended.wait(Duration::ZERO));
        self.ending_writers.extend(writer);
    }

    fn adopt_state(
        &mut self,
        now: Instant,
        kept: Option<Kept>,
        is_other_policy: bool,
        proxy: &mut Proxy,
    ) {
        let is_same = |keeper: &Keeper| kept.as_ref().is_some_and(|kept| keeper.is_at(kept));
        if let Some(keeper) = self.keeper.take_if(|keeper| !is_same(keeper)) {
            self.end_later(Some(keeper.end()));
        }
        let Some(kept) = kept else { return };
        // A policy that was already learning has newer figures than the file.
        match &self.keeper {
            Some(keeper) if is_other_policy => keeper.restore(kept, proxy),
            Some(_) => {}
            None => match Keeper::begin(kept, is_other_policy, proxy, now) {
                Ok(keeper) => self.keeper = Some(keeper),
                Err(wrong) => warn!("{wrong}: the state is not saved"),
            },
        }
    }

    fn give_up_reading(&mut self, now: Instant, proxy: &mut Proxy) {
        let Some(is_asked_again) = self.reloader.handle_timeout(now) else { return };
        let ms = proxy.reload_time().as_millis();
        let what = "reading the file and resolving its names took longer than timeouts.reloadMs";
        proxy.handle_config_refused(now, format!("{what}, {ms} ms"));
        if is_asked_again {
            self.is_asked_again = true;
            let _ = self.waker.wake();
        }
    }

    /// Writes the rest of the access log, the last state, and the counts of omitted lines. Waits up
    /// to a few seconds.
    pub(crate) fn finish(&mut self, now: Instant, proxy: &mut Proxy) {
        if let Some(access) = self.access.take() {
            access.finish(now, proxy);
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.finish(proxy);
        }
        for ended in self.ending_writers.drain(..) {
            let _ = ended.wait(state::FINISH_TIME);
        }
        for line in self.limits.tell_all() {
            warn!("{line}");
        }
        info!("stopped");
    }
}
