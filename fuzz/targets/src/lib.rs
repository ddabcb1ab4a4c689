//! What decodes bytes that come from others, each as a function of bytes that must neither panic nor take memory or time out of
//! proportion.
//!
//! `cargo fuzz run TARGET` (nightly Rust, in the folder above) drives them without end; `tests/short.rs` for seconds.

use std::path::Path;

use graft_model::{DType, Manifest, Model, ModelId, ReadOptions, Tensor, TensorSpec, samples};
use graft_plan::{Devices, FormatFile, Plan, Profile, Scenario, Workload};
use graft_transport::{Authority, Role, Tokens};
use graft_wire::{
    ClientReply, ClientRequest, Control, ControlReply, Limits, PREFIX_BYTES, Prefix, ToPlanner, ToRouter,
    ToWorker, TraceContext, WorkReply, WorkRequest, decode_header,
};

/// A target: its name, what it does with bytes, and inputs to begin with.
pub struct Target {
    /// Its name: of the file in `fuzz_targets`, and of the folder in `corpus`.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&[u8]),
    /// Sound inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "frame",
        run: frame,
        seeds: frames,
    },
    Target {
        name: "control",
        run: control,
        seeds: controls,
    },
    Target {
        name: "http_call",
        run: http_call,
        seeds: calls,
    },
    Target {
        name: "model",
        run: model,
        seeds: models,
    },
    Target {
        name: "manifest",
        run: manifest,
        seeds: manifests,
    },
    Target {
        name: "formats",
        run: formats,
        seeds: files,
    },
    Target {
        name: "tensor",
        run: tensor,
        seeds: tensors,
    },
    Target {
        name: "token",
        run: token,
        seeds: tokens,
    },
    Target {
        name: "trace",
        run: trace,
        seeds: traces,
    },
];

/// A frame of a stranger, or of a part: its prefix, and its header as each message that it could be.
pub fn frame(data: &[u8]) {
    let Some((prefix, rest)) = data.split_first_chunk::<PREFIX_BYTES>() else {
        return;
    };
    let Ok(prefix) = Prefix::decode(prefix, Limits::default()) else {
        return;
    };
    assert!(prefix.header_bytes <= 64 << 10 && prefix.payload_bytes <= 64 << 20);
    let header = &rest[..prefix.header_bytes.min(rest.len())];
    let _all = (
        decode_header::<ClientRequest>(header),
        decode_header::<ClientReply>(header),
        decode_header::<WorkRequest>(header),
        decode_header::<WorkReply>(header),
        decode_header::<Control>(header),
        decode_header::<ControlReply>(header),
    );
}

fn frames() -> Vec<Vec<u8>> {
    let requests = [
        ClientRequest::Probe,
        ClientRequest::Describe {
            model: ModelId([7; 32]),
        },
        ClientRequest::Present {
            token: "a.b.c".to_owned(),
        },
    ];
    let frames = requests
        .iter()
        .filter_map(|r| graft_wire::encode_frame(r, 3).ok());
    frames
        .map(|frame| [frame.as_slice(), &[1, 2, 3]].concat())
        .collect()
}

/// A control message of a part.
pub fn control(data: &[u8]) {
    let _all = (
        serde_json::from_slice::<ToPlanner>(data),
        serde_json::from_slice::<ToWorker>(data),
        serde_json::from_slice::<ToRouter>(data),
    );
}

fn controls() -> Vec<Vec<u8>> {
    let join = r#"{"kind":"join","body":{"role":"router","name":"r","epoch":3}}"#;
    let mix = r#"{"kind":"mix","body":{"window_s":1.0,"entries":[],"urgent":true,"outcomes":[]}}"#;
    [
        join,
        mix,
        r#"{"kind":"retire","body":7}"#,
        r#"{"kind":"silent","body":"w"}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

/// The JSON of a call over HTTP.
pub fn http_call(data: &[u8]) {
    graft_router::read_call(data);
}

fn calls() -> Vec<Vec<u8>> {
    let plain = r#"{"id":"7","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,-2e-3]}],"parameters":{"budget_ms":100}}"#;
    let deep = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"INT64","data":[[1,2],[3,4]]}],"outputs":[{"name":"y"}]}"#;
    let odd = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}"#;
    [plain, deep, odd].map(|text| text.as_bytes().to_vec()).to_vec()
}

/// An ONNX file.
pub fn model(data: &[u8]) {
    if let Ok(model) = Model::parse(Path::new("fuzzed.onnx"), data, &ReadOptions::default()) {
        let _graph = model.engine_graph();
    }
}

fn models() -> Vec<Vec<u8>> {
    vec![samples::relu(), samples::integers_times(3), samples::bare_pool()]
}

/// A manifest.
pub fn manifest(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _manifest = Manifest::parse(Path::new("model.toml"), text);
    }
}

fn manifests() -> Vec<Vec<u8>> {
    let text = "name = \"m\"\nfile = \"m.onnx\"\nlicense = \"MIT\"\n[inputs.x]\nvalue = 3\n";
    vec![text.as_bytes().to_vec()]
}

/// Each kind of JSON file that others write.
pub fn formats(data: &[u8]) {
    let file = Path::new("fuzzed.json");
    let _all = (
        Plan::parse(file, data).is_ok(),
        Workload::parse(file, data).is_ok(),
        Profile::parse(file, data).is_ok(),
        Devices::parse(file, data).is_ok(),
        Scenario::parse(file, data).is_ok(),
    );
}

fn files() -> Vec<Vec<u8>> {
    let workload = r#"{"version":1,"headroom":0.1,"fragments":[{"id":"a","model":"m","partition_point":1,"budget_ms":10.0,"rate_rps":5.0}]}"#;
    let devices = r#"{"version":1,"devices":[{"id":"d","kind":"k","share_total":8,"memory_bytes":1000}]}"#;
    let scenario = include_str!("../../../docs/scenarios/rush.json");
    [workload, devices, scenario]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// A request's tensor: the first bytes say of which type and size, the others are elements.
pub fn tensor(data: &[u8]) {
    let [kind, sent, size, bytes @ ..] = data else {
        return;
    };
    const TYPES: [DType; 7] = [
        DType::F32,
        DType::F16,
        DType::I32,
        DType::I64,
        DType::U8,
        DType::I8,
        DType::Bool,
    ];
    let dtype = TYPES[usize::from(*kind) % TYPES.len()];
    let sent = TYPES[usize::from(*sent) % TYPES.len()];
    let elements = usize::from(*size);
    let spec = TensorSpec {
        name: "x".to_owned(),
        dtype,
        shape: vec![elements],
        elements,
        batch_axis: 0,
    };
    if let Ok(mut tensor) = Tensor::from_requests(&spec, &[(sent, bytes), (sent, bytes)]) {
        assert_eq!(tensor.requests(), 2);
        tensor.flush_tiny();
    }
}

fn tensors() -> Vec<Vec<u8>> {
    vec![
        [vec![0, 0, 2], vec![0x3f; 8]].concat(),
        [vec![3, 2, 1], vec![9; 4]].concat(),
    ]
}

/// A token of a client.
pub fn token(data: &[u8]) {
    static TOKENS: std::sync::OnceLock<Option<Tokens>> = std::sync::OnceLock::new();
    let made = || Some(Tokens::of(&Authority::new().ok()?.issue(Role::Router, &[]).ok()?));
    if let (Some(tokens), Ok(text)) = (TOKENS.get_or_init(made), std::str::from_utf8(data)) {
        assert!(tokens.read(text).is_err(), "a token that nobody signed was taken");
    }
}

fn tokens() -> Vec<Vec<u8>> {
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0.";
    let signed = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.AAAA";
    [unsigned, signed].map(|text| text.as_bytes().to_vec()).to_vec()
}

/// A trace context.
pub fn trace(data: &[u8]) {
    if let Some(context) = std::str::from_utf8(data).ok().and_then(TraceContext::parse) {
        assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
    }
}

fn traces() -> Vec<Vec<u8>> {
    vec![b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_vec()]
}
