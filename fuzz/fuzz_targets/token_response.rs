#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ccg_session::fuzz::token_response(data));
