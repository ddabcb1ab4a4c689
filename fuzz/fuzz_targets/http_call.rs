#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    graft_fuzz_targets::HTTP_CALL.run(data);
});
