//! Rules that hold under every policy.
mod declining;
mod idle;
mod poisoned;
