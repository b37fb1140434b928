//! What a stream stores: its rows, the questions that the machine asks of them, and their SQL.

pub(crate) mod activity;
mod append_ends;
mod decode;
pub(crate) mod hot_table;
#[cfg(feature = "memory")]
mod memory;
mod port;
pub mod rows;
pub mod sql;

#[cfg(feature = "memory")]
pub use memory::MemoryRows;
pub use port::{Guarded, Storage, StorageError};
