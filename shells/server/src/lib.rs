//! The shell for one machine: HTTP in front of a few SQLite files, the shards, each with many
//! streams. The machine decides, and the shell performs (the contract is in [`machine`]).
//!
//! The router ([`machine::router`]) finds the stream of a request, which becomes a job in the queue
//! of that stream. A thread of the pool takes the streams of a shard that have jobs, runs each job
//! as a step of the machine, and makes all their writes durable in one commit. Only then does any
//! effect leave. Jobs that arrive in the meantime share the next commit. Jobs that only read run on
//! other threads, and wait for no commit of another stream. Each live reader is a machine, too
//! ([`machine::live_reader`]), driven by its response.
#![forbid(unsafe_code)]

mod actor;
mod admin;
mod alarms;
mod clients;
mod cold;
mod commit;
pub mod config;
pub mod directory;
mod framing;
mod health;
mod http;
mod idle;
mod metrics;
pub mod object_stores;
mod page;
mod page_cache;
mod platform;
mod reader;
pub mod reshard;
mod room;
mod serve;
mod shards;
mod socket;
mod storage;
mod streams;
mod subscribers;
#[cfg(feature = "test-routes")]
mod test_routes;
mod webhooks;

pub use config::{Bounds, Config};
pub use platform::{Native, Platform, Work};
pub use serve::{Accepted, Incoming, Listener, Server, Tcp, Unseen, Watch};
pub use storage::{Due, Reader, Rows, Storage, Writer, shard_of};
