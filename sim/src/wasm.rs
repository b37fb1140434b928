//! What the wasm build exports. A caller passes a tape and gets JSON, both through buffers here.

use std::panic::set_hook;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::report::{self, Replay, World};
use crate::run;

static INPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());
static OUTPUT: Mutex<Vec<u8>> = Mutex::new(Vec::new());

/// Returns the hashes of many seeds as one.
#[unsafe(no_mangle)]
pub extern "C" fn combined_hash(first: u64, count: u64) -> u64 {
    run::combined_hash(first, count)
}

/// Makes room for a tape, and returns where the caller writes it.
#[unsafe(no_mangle)]
pub extern "C" fn input(length: usize) -> *mut u8 {
    let mut input = buffer(&INPUT);
    *input = vec![0; length];
    input.as_mut_ptr()
}

/// Runs the tape up to an event. The output is a [`Replay`]. If the run
/// panics, the output is the text of the panic, and the call traps.
#[unsafe(no_mangle)]
pub extern "C" fn replay(world: u32, until: u64) {
    write(&run_input(world, until));
}

/// The same, without the trace.
#[unsafe(no_mangle)]
pub extern "C" fn state(world: u32, until: u64) {
    write(&Replay {
        trace: Vec::new(),
        ..run_input(world, until)
    });
}

/// Returns where the output is.
#[unsafe(no_mangle)]
pub extern "C" fn output() -> *const u8 {
    buffer(&OUTPUT).as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn output_length() -> usize {
    buffer(&OUTPUT).len()
}

fn run_input(world: u32, until: u64) -> Replay {
    // Nothing unwinds here, so that only the hook can learn the text of a panic.
    set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("a panic");
        *buffer(&OUTPUT) = text.as_bytes().to_vec();
    }));
    buffer(&OUTPUT).clear();
    let tape = buffer(&INPUT).clone();
    report::replay(World::numbered(world), &tape, until)
}

fn write(replay: &Replay) {
    let json = serde_json::to_vec(replay).expect("a replay can be written as JSON");
    *buffer(&OUTPUT) = json;
}

fn buffer(buffer: &Mutex<Vec<u8>>) -> MutexGuard<'_, Vec<u8>> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}
