#![no_main]

#[path = "../../tests/invariants/mod.rs"]
mod invariants;
#[path = "../../tests/small_world/mod.rs"]
mod small_world;

libfuzzer_sys::fuzz_target!(|data: &[u8]| small_world::stories::fuzz(data));
