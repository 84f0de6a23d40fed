#![no_main]

#[path = "../../tests/model/mod.rs"]
mod reference;

libfuzzer_sys::fuzz_target!(|data: &[u8]| reference::bytes::fuzz(data));
