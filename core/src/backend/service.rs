//! Whether a backend is in service, which an operator decides, and its relative capacity.
use super::Backend;
use crate::config::Mode;

impl Backend {
    /// Sets the relative capacity, and whether the backend is in service.
    pub(crate) const fn set_service(&mut self, weight: u32, mode: Mode) {
        (self.weight, self.mode) = (weight, mode);
    }

    /// Relative capacity, percent.
    pub(crate) const fn weight(&self) -> u32 {
        self.weight
    }

    /// Whether an operator has taken it out of service.
    pub(crate) const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether the configuration lets it get new requests: it is ready and its weight is not 0.
    pub(crate) const fn is_in_service(&self) -> bool {
        matches!(self.mode, Mode::Ready) && self.weight > 0
    }

    /// Whether it is up and in service.
    pub(crate) fn is_available(&self) -> bool {
        self.is_up() && self.is_in_service()
    }
}
