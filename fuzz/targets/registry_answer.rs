#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ecr_push::fuzzing::registry_answer(data));
