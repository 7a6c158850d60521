//! The threads beside the reactor's own: the log, the keeper of the state, the writer of the
//! recording, and the reader of a new configuration.
//!
//! The reactor waits for none of them while the proxy serves. A reading of the configuration that
//! hangs is given up after `timeouts.reloadMs`; a late result is dropped.
pub(crate) mod access;
pub(crate) mod disk;
pub mod listen;
pub(crate) mod logging;
mod observe;
pub(crate) mod record;
pub mod reload;
pub mod resolve;
pub(crate) mod state;
mod worker;

use std::sync::Arc;

use intelliproxy_core::Instant;
use log::{info, warn};
use mio::Waker;

use self::access::AccessLog;
use self::logging::LogWatch;
use self::observe::{LineLimits, log_notice};
use self::record::RecordGuard;
use self::reload::{Reading, Reloader, Source};
use self::state::Keeper;
use crate::pages::{AccessCounts, LogCounts};
use crate::proxy::{Notice, Proxy};

/// The log, files and worker threads of one reactor.
pub(crate) struct Edge {
    log: LogWatch,
    /// Decides which lines about peers are written.
    limits: LineLimits,
    /// The counts of the log that the proxy knows.
    log_counts: LogCounts,
    access: Option<AccessLog>,
    access_counts: AccessCounts,
    keeper: Option<Keeper>,
    reloader: Option<Reloader>,
    waker: Arc<Waker>,
    /// Dropped after the proxy: its drop waits until the recording is written.
    _recording: Option<RecordGuard>,
}

impl Edge {
    pub(crate) fn new(
        log: LogWatch,
        keeper: Option<Keeper>,
        reload: Option<Source>,
        waker: Waker,
        recording: Option<RecordGuard>,
    ) -> Self {
        Self {
            log,
            limits: LineLimits::default(),
            log_counts: LogCounts::default(),
            access: None,
            access_counts: AccessCounts::default(),
            keeper,
            reloader: reload.map(Reloader::new),
            waker: Arc::new(waker),
            _recording: recording,
        }
    }

    /// Handles what is due at the end of a turn.
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

    /// Replaces the access log by another one, or by none.
    ///
    /// # Errors
    /// The new one cannot be started. The old one continues then.
    pub(crate) fn set_access_log(
        &mut self,
        now: Instant,
        opened: access::Opened,
        proxy: &mut Proxy,
    ) -> Result<(), String> {
        AccessLog::replace(&mut self.access, opened, now, proxy)
    }

    /// Passes records of the access log on, and reports its losses.
    fn handle_access(&mut self, now: Instant, proxy: &mut Proxy) {
        let Some(access) = &mut self.access else { return };
        access.handle_turn(now, proxy);
        let counts = access.counts();
        if counts != self.access_counts {
            self.access_counts = counts;
            proxy.handle_access_counts(counts);
        }
    }

    /// Opens the files of logs again: a renamed one is let go.
    #[cold]
    pub(crate) fn reopen_logs(&self) {
        match &self.access {
            Some(access) => access.reopen(),
            None => info!("SIGUSR1: no log is written to a file, ignored"),
        }
    }

    fn reading_until(&self) -> Option<Instant> {
        self.reloader.as_ref().and_then(Reloader::poll_timeout)
    }

    /// Logs a notice of the proxy.
    pub(crate) fn log_notice(&mut self, now: Instant, notice: &Notice, proxy: &Proxy) {
        let name = |backend| proxy.backend_name(backend);
        log_notice(now, notice, proxy.config(), &mut self.limits, name);
    }

    /// Starts reading the configuration again.
    pub(crate) fn reload(&mut self, now: Instant, proxy: &mut Proxy) {
        let Some(reloader) = &mut self.reloader else { return };
        let waker = Arc::clone(&self.waker);
        let wake = move || {
            // If the poll is gone, the reactor has ended.
            let _ = waker.wake();
        };
        if let Err(wrong) = reloader.ask(now, proxy.reload_time(), wake) {
            proxy.handle_config_refused(wrong);
        }
    }

    /// Applies the configuration that was read again, if it has arrived.
    pub(crate) fn take_reloaded(&mut self, now: Instant, proxy: &mut Proxy) {
        let Some(Reading { loaded, is_asked_again }) =
            self.reloader.as_mut().and_then(Reloader::take)
        else {
            return;
        };
        let result = loaded.and_then(|(config, targets)| {
            let result = proxy.handle_reconfigured(now, config, targets);
            result.map_err(|error| error.to_string())
        });
        match result {
            Ok(()) if self.keeper.is_none() => {
                // A changed `stateFile` is reported as a key that needs a restart; this line is
                // for an unchanged one.
                let path = proxy.state_file().filter(|_| proxy.policy_state().is_some());
                if let Some(path) = path {
                    warn!("state {path}: not used before a restart");
                }
            }
            Ok(()) => {}
            Err(wrong) => proxy.handle_config_refused(wrong),
        }
        if is_asked_again {
            self.reload(now, proxy);
        }
    }

    #[cold]
    fn give_up_reading(&mut self, now: Instant, proxy: &mut Proxy) {
        let Some(is_asked_again) = self.reloader.as_mut().and_then(|r| r.handle_timeout(now))
        else {
            return;
        };
        let ms = proxy.reload_time().as_millis();
        let what = "reading the file and resolving its names took longer than timeouts.reloadMs";
        proxy.handle_config_refused(format!("{what}, {ms} ms"));
        if is_asked_again {
            self.reload(now, proxy);
        }
    }

    /// Writes the last state, which may take up to a few seconds.
    pub(crate) fn finish(&mut self, now: Instant, proxy: &mut Proxy) {
        if let Some(access) = self.access.take() {
            access.finish(now, proxy);
        }
        if let Some(keeper) = self.keeper.take() {
            keeper.finish(proxy);
        }
        for line in self.limits.tell_all() {
            warn!("{line}");
        }
        info!("stopped");
    }
}
