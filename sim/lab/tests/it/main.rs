//! The lab through its public interface.
mod lab;
mod returns;
mod wide;
