//! The one-machine shell: HTTP in front of one SQLite file per stream. It carries out what the
//! machine decides, and decides nothing itself (the executor's contract is in [`machine`]).
//!
//! A request is routed ([`machine::router`]) and becomes a job in its stream's queue. A thread of the
//! pool takes the queue's jobs one by one, each in a step of the machine, and makes all their
//! writes durable in one commit; only then does anything of them leave. What arrives meanwhile
//! shares the next commit. Broadcast readers are `machine::tail` machines, driven by their own
//! responses.
#![forbid(unsafe_code)]

mod actor;
mod alarms;
mod clients;
mod cold;
mod commit;
mod config;
mod files;
mod framing;
mod health;
mod http;
mod metrics;
pub mod object_stores;
mod platform;
mod reader;
mod room;
mod serve;
mod socket;
mod storage;

mod streams;
mod subscribers;
#[cfg(feature = "test-routes")]
mod test_routes;

pub use config::{Bounds, Config};
pub use platform::{Native, Platform, Work};
pub use serve::{Accepted, Incoming, Listener, Server, Tcp, Unseen, Watch};
pub use storage::{Database, Due, Storage};
