//! The lab through its public interface.
mod lab;
mod wide;
