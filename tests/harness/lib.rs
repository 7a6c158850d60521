//! The simulated world: the whole proxy without a socket or a clock.
//!
//! [`world::World`] puts the real `Proxy` between scripted [`client`]s and model [`backend`]s, over
//! a virtual [`net`]work, in virtual time. Everything follows from one seed: [`seeds`] makes the
//! random worlds of `tests/simulation.rs`. [`oracle`] has the rules, and [`reader`] reads every
//! message a second time.
pub mod backend;
pub mod client;
pub mod driver;
mod kinds;
pub mod ledger;
#[path = "../../core/tests/memory/mod.rs"]
mod memory;
pub mod net;
pub mod oracle;
mod pipe;
pub mod plan;
mod play;
pub mod reader;
mod reconfigure;
pub mod recording;
pub mod reload;
pub mod response;
pub mod seeds;
pub mod trace;
pub mod weather;
pub mod world;
pub mod written;
