//! The state that a backend's agent reports. It can lower the backend's weight and take it out of
//! service.
use super::Backend;
use crate::config::{BackendLimits, Mode};
use crate::event::AgentState;

/// The last values that an agent has reported. If a report lacks a value, the old one stays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Agent {
    /// Percent of the configured weight.
    percent: u16,
    is_out: bool,
    is_down: bool,
}

impl Default for Agent {
    fn default() -> Self {
        Self { percent: 100, is_out: false, is_down: false }
    }
}

impl Backend {
    /// Applies a report of the backend's agent. Returns whether anything changed.
    pub(crate) fn heed_agent(&mut self, said: AgentState) -> bool {
        let old = self.agent;
        self.agent = Agent {
            percent: said.percent.unwrap_or(old.percent),
            is_out: said.is_out.unwrap_or(old.is_out),
            is_down: said.is_down.unwrap_or(old.is_down),
        };
        self.agent != old
    }

    /// Forgets the reports of an agent that is no longer polled.
    pub(super) fn forget_agent(&mut self) {
        self.agent = Agent::default();
    }

    /// Applies the agent's values to the configured weight and mode. A weight above 0 becomes 0
    /// only if the agent reports 0.
    pub(crate) fn with_agent(&self, weight: u32, mode: Mode) -> (u32, Mode) {
        let Agent { percent, is_out, is_down } = self.agent;
        let part = weight.saturating_mul(percent.into()).div_ceil(100);
        let is_away = is_out || is_down;
        let mode = if is_away && mode == Mode::Ready { Mode::Drain } else { mode };
        (part.min(BackendLimits::WEIGHT_MAX), mode)
    }
}
