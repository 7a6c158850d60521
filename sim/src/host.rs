//! The state shared by the threads of a backend: model, counters, connections and phase.
//!
//! Time comes from the OS clock, counted from the start of the backend.
use std::collections::BTreeMap;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant as Clock, SystemTime, UNIX_EPOCH};

use intelliproxy_core::Instant;
use log::{Level, log};

use crate::config::{Config, Counters, LogLevel};
use crate::metrics::{self, Measured};
use crate::model::{Fate, Model, RequestKind};
use crate::parameters::Parameters;
use crate::process::{self, CpuMeter};
use crate::work::Work;

/// The phase of a backend. It only advances.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Phase {
    Running,
    Draining,
    Killed,
}

/// State shared by the threads of a backend.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) port: u16,
    log: LogLevel,
    connections_max: usize,
    started: Clock,
    model: Mutex<Model>,
    work: OnceLock<Work>,
    cpu: Mutex<CpuMeter>,
    counters: Mutex<Counters>,
    phase: Mutex<Phase>,
    phase_changed: Condvar,
    connections: Mutex<BTreeMap<u64, Arc<Connection>>>,
    connection_ended: Condvar,
}

/// A connection as seen by other threads.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    is_idle: AtomicBool,
}

impl Connection {
    pub(crate) const fn new(stream: TcpStream) -> Self {
        Self { stream, is_idle: AtomicBool::new(false) }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::SeqCst)
    }
}

impl Host {
    pub(crate) fn new(port: u16, config: Config) -> Self {
        Self {
            port,
            log: config.log,
            connections_max: config.connections_max,
            started: Clock::now(),
            model: Mutex::new(Model::new(config.parameters, config.seed, Instant::ZERO)),
            work: OnceLock::new(),
            cpu: Mutex::default(),
            counters: Mutex::default(),
            phase: Mutex::new(Phase::Running),
            phase_changed: Condvar::new(),
            connections: Mutex::default(),
            connection_ended: Condvar::new(),
        }
    }

    /// Lets the model decide about a request.
    pub(crate) fn request(&self, kind: RequestKind) -> Fate {
        let now = self.now();
        lock(&self.model).request(now, kind)
    }

    pub(crate) fn set_parameters(&self, parameters: Parameters) {
        let now = self.now();
        lock(&self.model).handle_parameters(now, parameters);
    }

    pub(crate) fn parameters(&self) -> Parameters {
        lock(&self.model).parameters().clone()
    }

    pub(crate) fn counters(&self) -> Counters {
        let connections_open = lock(&self.connections).len();
        Counters { connections_open, ..lock(&self.counters).clone() }
    }

    /// Returns the current response to /metrics.
    pub(crate) fn report(&self) -> String {
        let measured = Measured {
            port: self.port,
            cpu_busy_ms: lock(&self.cpu).busy_ms(),
            memory_rss: process::memory_rss(),
            uptime: self.started.elapsed(),
            unix_time: unix_time(),
        };
        let now = self.now();
        let mut model = lock(&self.model);
        model.handle_timeout(now);
        metrics::to_json(&model, &measured)
    }

    /// Works on the CPU, unless the backend is killed meanwhile.
    pub(crate) fn work(&self, cpu: Duration) {
        if cpu > Duration::ZERO {
            let work = self.work.get_or_init(Work::calibrate);
            work.run(cpu, || *lock(&self.phase) == Phase::Killed);
        }
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Counters)) {
        count(&mut lock(&self.counters));
    }

    pub(crate) fn log(&self, level: LogLevel, message: impl FnOnce() -> String) {
        if level <= self.log {
            let level = if level == LogLevel::Debug { Level::Debug } else { Level::Info };
            log!(target: "sim", level, "backend {}: {}", self.port, message());
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        *lock(&self.phase) == Phase::Running
    }

    /// Marks a connection as one that may be closed at any time. Returns false if it must close
    /// itself.
    pub(crate) fn enter_idle(&self, connection: &Connection) -> bool {
        // Set under the lock, so that a thread that ends the phase later sees the mark.
        let phase = lock(&self.phase);
        connection.is_idle.store(true, Ordering::SeqCst);
        *phase == Phase::Running
    }

    pub(crate) fn leave_idle(&self, connection: &Connection) {
        connection.is_idle.store(false, Ordering::SeqCst);
    }

    /// Adds a connection to the list, unless the list is full.
    pub(crate) fn register(self: &Arc<Self>, connection: &Arc<Connection>) -> Option<Registered> {
        let id = {
            let mut counters = lock(&self.counters);
            counters.connections += 1;
            counters.connections
        };
        let is_full = {
            let mut connections = lock(&self.connections);
            let is_full = connections.len() >= self.connections_max;
            if !is_full {
                connections.insert(id, Arc::clone(connection));
            }
            is_full
        };
        if is_full {
            self.count(|counters| counters.connections_refused += 1);
            return None;
        }
        Some(Registered { host: Arc::clone(self), id })
    }

    /// Samples the CPU time until the end.
    pub(crate) fn measure(&self) {
        loop {
            lock(&self.cpu).handle_sample(self.now(), process::cpu_time());
            if self.wait_for_phase(Phase::Draining, CPU_SAMPLE_EVERY) >= Phase::Draining {
                return;
            }
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        let mut current = lock(&self.phase);
        *current = phase.max(*current);
        self.phase_changed.notify_all();
    }

    /// Waits until `phase` is reached, at most for `wait_max`. Returns the current phase.
    pub(crate) fn wait_for_phase(&self, phase: Phase, wait_max: Duration) -> Phase {
        let current = lock(&self.phase);
        let (current, _) = self
            .phase_changed
            .wait_timeout_while(current, wait_max, |current| *current < phase)
            .unwrap_or_else(PoisonError::into_inner);
        *current
    }

    /// Closes the connections for which `is_meant` returns true. Their threads notice that and end.
    pub(crate) fn cut(&self, is_meant: impl Fn(&Connection) -> bool) {
        for connection in lock(&self.connections).values() {
            if is_meant(connection) {
                // Fails for a connection that the client has closed already.
                drop(connection.stream.shutdown(Shutdown::Both));
            }
        }
    }

    /// Waits until no connection is open, at most for `wait_max`. Returns whether none is.
    pub(crate) fn wait_for_connections(&self, wait_max: Duration) -> bool {
        let connections = lock(&self.connections);
        let (connections, _) = self
            .connection_ended
            .wait_timeout_while(connections, wait_max, |connections| !connections.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        connections.is_empty()
    }

    fn now(&self) -> Instant {
        Instant::ZERO + self.started.elapsed()
    }
}

/// Removes a connection from the list when its thread ends, even by a panic.
pub(crate) struct Registered {
    pub(crate) host: Arc<Host>,
    id: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.host.connections).remove(&self.id);
        self.host.connection_ended.notify_all();
    }
}

/// Returns the time since 1970; zero for a clock set before that.
pub(crate) fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// No thread here leaves shared data in an inconsistent state when it panics, so a poisoned lock is
/// usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const CPU_SAMPLE_EVERY: Duration = Duration::from_millis(100);
