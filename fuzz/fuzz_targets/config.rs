#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ccg_session::testing::fuzz::config(data));
