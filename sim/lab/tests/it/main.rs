//! The lab through its public interface.
mod lab;
mod report;
mod returns;
mod wide;
