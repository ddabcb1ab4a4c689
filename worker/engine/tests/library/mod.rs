//! onnxruntime for tests: where it is not installed, they say so and pass, unless it is asked for.

use graft_engine::OnnxRuntimeEngine;

/// With this variable in the environment a machine without onnxruntime is a failure.
const REQUIRED: &str = "GRAFT_TEST_ONNXRUNTIME";

/// The engine, if the library is here.
pub fn onnxruntime() -> Option<OnnxRuntimeEngine> {
    match OnnxRuntimeEngine::open(None, None) {
        Ok(engine) => Some(engine),
        Err(missing) if std::env::var_os(REQUIRED).is_some() => panic!("{missing}"),
        Err(missing) => {
            eprintln!("not tried: {missing}");
            None
        }
    }
}
