//! A whole run of the world of forks: the bytes are its tape, which `cargo sim replay --forks`
//! takes as well.

use sim::forks::Forks;
use sim::layer::{Layer as _, Source};
use sim::run::Options;

/// Runs the tape.
///
/// # Panics
///
/// When an oracle of the simulator fails.
pub fn forks(tape: &[u8]) {
    let outcome = Forks::run(Source::Tape(tape), Options::default());
    if let Some(failure) = outcome.failure {
        panic!(
            "oracle {}: expected {}, actual {}, at event {}",
            failure.oracle, failure.expected, failure.actual, failure.event
        );
    }
}
