//! The shell for one machine: HTTP in front of one SQLite file per stream. The machine decides, and
//! the shell performs (the contract is in [`machine`]).
//!
//! The router ([`machine::router`]) finds the stream of a request, which becomes a job in the queue
//! of that stream. A thread of the pool runs the jobs one by one, each as a step of the machine,
//! and makes all their writes durable in one commit. Only then does any effect leave. Jobs that
//! arrive in the meantime share the next commit. Each live reader is a machine, too
//! ([`machine::live_reader`]), driven by its response.
#![forbid(unsafe_code)]

mod actor;
mod alarms;
mod clients;
mod cold;
mod commit;
pub mod config;
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
