//! The simulator: the state machine in a simulated Cloudflare, and oracles that notice when it is
//! wrong.
//!
//! One run is one seed, or one tape of choices ([`choices`]). It draws its [`settings`], builds a
//! [`world`] of clients, edges and objects, and lets it run while the [`model`] and the [`oracles`]
//! watch. `FIDELITY.md` says what the world is like and what it leaves out.
#![cfg_attr(not(target_arch = "wasm32"), forbid(unsafe_code))]

pub mod choices;
pub mod cold_tier;
pub mod coverage;
pub mod digest;
pub mod engine;
pub mod fidelity;
pub mod forks;
pub mod http_cache;
pub mod ids;
#[cfg(not(target_arch = "wasm32"))]
pub mod layer;
pub mod model;
pub mod oracles;
pub mod platform;
pub mod report;
pub mod request;
pub mod run;
pub mod segments;
pub mod settings;
pub mod shrink;
pub mod storage;
pub mod subscriptions;
pub mod trace;
#[cfg(target_arch = "wasm32")]
pub mod wasm;
pub mod workload;
pub mod world;
