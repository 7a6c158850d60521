//! Messages to the service manager (`notify.rs`), and the start of a successor (`upgrade.rs`).
use std::sync::Arc;
use std::time::Duration;

use intelliproxy_core::Instant;
use log::{error, info};
use mio::Waker;

use super::handover::Handover;
use super::notify::{Environment, Notifier};
use super::upgrade::{Program, Upgrader};

/// Messages to the service manager, and the start of a successor.
#[derive(Debug)]
pub(crate) struct Service {
    notifier: Notifier,
    /// Whether the manager waits for the end of a reload.
    is_reloading: bool,
    upgrader: Option<Upgrader>,
    waker: Arc<Waker>,
}

impl Service {
    pub(crate) fn new(
        manager: &Environment,
        program: Option<Program>,
        waker: Arc<Waker>,
        now: Instant,
    ) -> Self {
        Self {
            notifier: Notifier::new(manager, now),
            is_reloading: false,
            upgrader: program.map(Upgrader::new),
            waker,
        }
    }

    /// Reports that clients are accepted.
    pub(crate) fn handle_ready(&self) {
        self.notifier.ready();
    }

    /// Reports that the proxy stops. From now on a successor cannot take over, and one that is
    /// starting is abandoned.
    pub(crate) fn handle_stopping(&mut self) {
        self.notifier.stopping();
        self.upgrader.iter_mut().for_each(Upgrader::cancel);
    }

    /// Whether a successor is starting, or being abandoned.
    pub(crate) fn is_upgrading(&self) -> bool {
        self.upgrader.as_ref().is_some_and(Upgrader::is_running)
    }

    /// Ends a successor that is still starting.
    pub(crate) fn finish(self) {
        self.upgrader.into_iter().for_each(Upgrader::finish);
    }

    /// Reports that a reload begins.
    pub(crate) fn handle_reload(&mut self) {
        self.is_reloading = true;
        self.notifier.reloading();
    }

    /// Reports the end of a reload, and sends watchdog messages.
    pub(crate) fn handle_turn(&mut self, now: Instant, is_reading: bool) {
        if self.is_reloading && !is_reading {
            self.is_reloading = false;
            self.notifier.ready();
        }
        self.notifier.handle_turn(now);
    }

    /// The time at which a turn is due even if nothing happens.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.notifier.poll_timeout()
    }

    /// Starts the program again; the new process gets `handover` and must be ready within `time`.
    pub(crate) fn upgrade(&mut self, handover: Handover, time: Duration) {
        let Some(upgrader) = &mut self.upgrader else { return };
        let waker = Arc::clone(&self.waker);
        let wake = move || {
            // If the poll is gone, the reactor has ended.
            let _ = waker.wake();
        };
        match upgrader.start(handover, time, wake) {
            Ok(path) => info!("SIGUSR2: starting {path} in place of this process"),
            Err(wrong) => error!("upgrade failed, still serving: {wrong}"),
        }
    }

    /// Returns the id of the successor once it serves. A failed start is logged.
    pub(crate) fn take_successor(&mut self) -> Option<u32> {
        let upgrader = self.upgrader.as_mut()?;
        match upgrader.take()? {
            Ok(pid) => {
                self.notifier.succeeded_by(pid);
                self.upgrader = None;
                Some(pid)
            }
            Err(wrong) if upgrader.is_cancelled() => {
                info!("upgrade given up: {wrong}");
                None
            }
            Err(wrong) => {
                error!("upgrade failed, still serving: {wrong}");
                None
            }
        }
    }
}
