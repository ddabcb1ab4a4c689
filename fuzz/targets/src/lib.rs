//! What decodes bytes that come from others, each as a function of bytes that must neither panic nor take memory or time out of
//! proportion, and says whether they are sound.
//!
//! `cargo fuzz run TARGET` (nightly Rust, in the folder above) drives them without end; `tests/short.rs` for seconds.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use graft_model::{DType, Manifest, Model, ModelId, ReadOptions, Tensor, TensorSpec, samples};
use graft_plan::{Devices, FormatFile, Plan, Profile, Scenario, Workload};
use graft_transport::{Authority, Claims, Role, Tokens, issue_token};
use graft_wire::{
    ClientReply, ClientRequest, Control, ControlReply, Limits, PREFIX_BYTES, Prefix, ToPlanner, ToRouter,
    ToWorker, TraceContext, WorkReply, WorkRequest, decode_header,
};

/// A target: its name, what it does with bytes, and inputs to begin with.
pub struct Target {
    /// Its name: of the file in `fuzz_targets`, and of the folder in `corpus`.
    pub name: &'static str,
    /// What it does; true: the bytes are sound.
    pub run: fn(&[u8]) -> bool,
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
pub fn frame(data: &[u8]) -> bool {
    let Some((prefix, rest)) = data.split_first_chunk::<PREFIX_BYTES>() else {
        return false;
    };
    let Ok(prefix) = Prefix::decode(prefix, Limits::default()) else {
        return false;
    };
    assert!(prefix.header_bytes <= 64 << 10 && prefix.payload_bytes <= 64 << 20);
    let header = &rest[..prefix.header_bytes.min(rest.len())];
    let read = [
        decode_header::<ClientRequest>(header).is_ok(),
        decode_header::<ClientReply>(header).is_ok(),
        decode_header::<WorkRequest>(header).is_ok(),
        decode_header::<WorkReply>(header).is_ok(),
        decode_header::<Control>(header).is_ok(),
        decode_header::<ControlReply>(header).is_ok(),
    ];
    read.contains(&true)
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
pub fn control(data: &[u8]) -> bool {
    let read = [
        serde_json::from_slice::<ToPlanner>(data).is_ok(),
        serde_json::from_slice::<ToWorker>(data).is_ok(),
        serde_json::from_slice::<ToRouter>(data).is_ok(),
    ];
    read.contains(&true)
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
pub fn http_call(data: &[u8]) -> bool {
    graft_router::read_call(data)
}

fn calls() -> Vec<Vec<u8>> {
    let plain = r#"{"id":"7","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,-2e-3]}],"parameters":{"budget_ms":100}}"#;
    let deep = r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"INT64","data":[[1,2],[3,4]]}],"outputs":[{"name":"y"}]}"#;
    let odd = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}"#;
    [plain, deep, odd].map(|text| text.as_bytes().to_vec()).to_vec()
}

/// An ONNX file.
pub fn model(data: &[u8]) -> bool {
    let model = Model::parse(Path::new("fuzzed.onnx"), data, &ReadOptions::default());
    model.is_ok_and(|model| model.engine_graph().is_ok())
}

fn models() -> Vec<Vec<u8>> {
    vec![samples::relu(), samples::integers_times(3), samples::bare_pool()]
}

/// A manifest.
pub fn manifest(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_ok_and(|text| Manifest::parse(Path::new("model.toml"), text).is_ok())
}

fn manifests() -> Vec<Vec<u8>> {
    let text = "name = \"m\"\nfile = \"m.onnx\"\nlicense = \"MIT\"\n[inputs.x]\nvalue = 3\n";
    vec![text.as_bytes().to_vec()]
}

/// Each kind of JSON file that others write.
pub fn formats(data: &[u8]) -> bool {
    let file = Path::new("fuzzed.json");
    let read = [
        Plan::parse(file, data).is_ok(),
        Workload::parse(file, data).is_ok(),
        Profile::parse(file, data).is_ok(),
        Devices::parse(file, data).is_ok(),
        Scenario::parse(file, data).is_ok(),
    ];
    read.contains(&true)
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
pub fn tensor(data: &[u8]) -> bool {
    let [kind, sent, size, bytes @ ..] = data else {
        return false;
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
    let Ok(mut tensor) = Tensor::from_requests(&spec, &[(sent, bytes), (sent, bytes)]) else {
        return false;
    };
    assert_eq!(tensor.requests(), 2);
    tensor.flush_tiny();
    true
}

fn tensors() -> Vec<Vec<u8>> {
    vec![
        [vec![0, 0, 2], vec![0x3f; 8]].concat(),
        [vec![3, 2, 1], vec![9; 4]].concat(),
    ]
}

/// A token of a client. One is signed; whatever else is taken must say the same.
pub fn token(data: &[u8]) -> bool {
    let (tokens, _, signed) = signed_token();
    let Some(claims) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| tokens.read(text).ok())
    else {
        return false;
    };
    assert_eq!(&claims, signed, "a token that nobody signed was taken");
    true
}

/// An authority's tokens, one of them, and what it says.
fn signed_token() -> &'static (Tokens, String, Claims) {
    static SIGNED: LazyLock<(Tokens, String, Claims)> = LazyLock::new(|| {
        let authority = Authority::new().expect("an authority");
        let router = authority.issue(Role::Router, &[]).expect("a certificate");
        let claims = Claims::new("a", Duration::from_secs(1 << 30), None, Some(5.0)).expect("claims");
        let key = std::env::temp_dir().join(format!("graft-fuzz-{}.pem", std::process::id()));
        std::fs::write(&key, authority.key_pem()).expect("a file for the key");
        let token = issue_token(&key, &claims).expect("a token");
        std::fs::remove_file(&key).expect("the key's file is removed");
        (Tokens::of(&router), token, claims)
    });
    &SIGNED
}

fn tokens() -> Vec<Vec<u8>> {
    vec![signed_token().1.clone().into_bytes()]
}

/// A trace context.
pub fn trace(data: &[u8]) -> bool {
    let Some(context) = std::str::from_utf8(data).ok().and_then(TraceContext::parse) else {
        return false;
    };
    assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
    true
}

fn traces() -> Vec<Vec<u8>> {
    vec![b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_vec()]
}
