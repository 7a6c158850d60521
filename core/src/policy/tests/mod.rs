//! What holds under every policy.
mod declining;
mod idle;
mod poisoned;
