//! Streams and other objects that call each other.

mod inquiries;
mod server;
mod sessions;
mod subscriptions;
mod workers;
