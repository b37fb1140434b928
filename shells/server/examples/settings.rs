//! Prints the table of limits and settings as JSON: those of both shells, those of the Worker,
//! those of the server for one machine, and the numbers that only simulations choose. `cargo xtask
//! settings` writes the documentation from it.

#![allow(clippy::print_stdout, reason = "the command that asks reads it there")]

use machine::Limits;
use machine::router::settings;
use machine::table::Scope;
use server::config;

fn main() -> serde_json::Result<()> {
    let fixed = Limits::TABLE.iter().filter(|row| row.variable.is_none());
    let fixed = fixed.map(|row| row.setting(&Limits::DEFAULT, Scope::Simulator));
    let own = [config::places(), config::cold(), config::bounds()].concat();
    let table: Vec<_> = settings::table()
        .into_iter()
        .chain(settings::of_worker())
        .chain(own)
        .chain(fixed)
        .collect();
    println!("{}", serde_json::to_string(&table)?);
    Ok(())
}
