#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz::subscription(bytes));

libfuzzer_sys::fuzz_mutator!(|tape: &mut [u8], size: usize, size_max: usize, seed: u32| {
    fuzz::change_tape(tape, size, size_max, seed, libfuzzer_sys::fuzzer_mutate)
});
