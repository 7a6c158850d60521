//! The lab as its users meet it.
mod lab;
mod wide;
