//! What decodes bytes that come from others, each as a function of bytes that must neither panic nor take memory or time out of
//! proportion, and says whether they are sound.
//!
//! `cargo fuzz run TARGET` (nightly Rust, in the folder above) drives them without end; `tests/short.rs` for seconds.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use graft_features::fit::{Coarseness, fit};
use graft_features::{CutCoding, Features};
use graft_model::{CutPoint, DType, Manifest, Model, ModelId, ReadOptions, Tensor, TensorSpec, samples};
use graft_plan::{Devices, Epoch, FormatFile, Nanos, Plan, Profile, Scenario, Workload};
use graft_transport::{Authority, Claims, Role, Tokens, issue_token};
use graft_wire::{
    AnswerHeader, ClientReply, ClientRequest, Control, ControlReply, InferHeader, Limits, PREFIX_BYTES,
    Prefix, Refused, RouteTarget, RoutesUpdate, RunHeader, StageTimes, Status, Timing, ToPlanner, ToRouter,
    ToWorker, TraceContext, Visit, WireType, WorkReply, WorkRequest, WorkerEndpoint, WorkerPlan,
    decode_header, encode_frame,
};

/// Whether bytes are sound for one of a target's decoders.
pub type Decoder = fn(&[u8]) -> bool;

/// A target: its name, what decodes bytes, and inputs to begin with.
pub struct Target {
    /// Its name: of the file in `fuzz_targets`, and of the folder in `corpus`.
    pub name: &'static str,
    /// What decodes bytes, by name.
    pub decoders: &'static [(&'static str, Decoder)],
    /// Sound inputs: each is taken by a decoder, and each decoder takes one.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

impl Target {
    /// Gives bytes to all decoders. Whether one takes them.
    pub fn run(&self, data: &[u8]) -> bool {
        self.decoders
            .iter()
            .fold(false, |sound, (_, decode)| decode(data) | sound)
    }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    FRAME, CONTROL, HTTP_CALL, MODEL, MANIFEST, FORMATS, TENSOR, FEATURES, TOKEN, TRACE,
];

/// A header of a frame.
fn header<H: bincode::Decode<()>>(data: &[u8]) -> bool {
    let Some((prefix, rest)) = data.split_first_chunk::<PREFIX_BYTES>() else {
        return false;
    };
    let Ok(prefix) = Prefix::decode(prefix, Limits::default()) else {
        return false;
    };
    assert!(prefix.header_bytes <= 64 << 10 && prefix.payload_bytes <= 64 << 20);
    decode_header::<H>(&rest[..prefix.header_bytes.min(rest.len())]).is_ok()
}

/// A frame of a stranger, or of a part: its prefix, and its header as each message that it could be.
pub const FRAME: Target = Target {
    name: "frame",
    decoders: &[
        ("ClientRequest", header::<ClientRequest>),
        ("ClientReply", header::<ClientReply>),
        ("WorkRequest", header::<WorkRequest>),
        ("WorkReply", header::<WorkReply>),
        ("Control", header::<Control>),
        ("ControlReply", header::<ControlReply>),
    ],
    seeds: frames,
};

fn frames() -> Vec<Vec<u8>> {
    fn frame<H: bincode::Encode>(header: &H) -> Vec<u8> {
        let frame = encode_frame(header, 3).expect("a frame");
        [frame.as_slice(), &[1, 2, 3]].concat()
    }
    let (model, trace) = (ModelId([7; 32]), TraceContext::new(5, 6));
    let (dtypes, time_left) = (vec![WireType::F32, WireType::I64], Nanos::from_millis(90));
    let answer = AnswerHeader {
        dtypes: dtypes.clone(),
        epoch: Epoch(3),
        timing: Timing::default(),
    };
    let visit = Visit {
        worker: "w".to_owned(),
        partition: "p".to_owned(),
        from: CutPoint(1),
        to: CutPoint(4),
        entered_ns: 5,
        started_ns: Some(6),
        done_ns: None,
        batch: 2,
        closed: None,
        chunks: vec![],
    };
    let infer = ClientRequest::Infer(InferHeader {
        model,
        partition_point: CutPoint(2),
        dtypes: dtypes.clone(),
        coded: false,
        time_left,
        trace,
    });
    let run = WorkRequest::Run(RunHeader {
        epoch: Epoch(3),
        route: 1,
        stage: 2,
        dtypes,
        coded: false,
        time_left,
        trace,
    });
    let refused = Refused::new(Status::Late, "late");
    let token = "a.b.c".to_owned();
    vec![
        frame(&ClientRequest::Probe),
        frame(&ClientRequest::Describe { model }),
        frame(&ClientRequest::Present { token }),
        frame(&infer),
        frame(&ClientReply::Answer(answer.clone())),
        frame(&ClientReply::Refused(refused.clone())),
        frame(&run),
        frame(&WorkRequest::Alive),
        frame(&WorkReply::Answer(answer, vec![visit])),
        frame(&WorkReply::Refused(refused, vec![])),
        frame(&Control),
        frame(&ControlReply::Done),
        frame(&ControlReply::Failed("no".to_owned())),
    ]
}

/// Whether bytes are JSON of a kind.
fn json<T: serde::de::DeserializeOwned>(data: &[u8]) -> bool {
    serde_json::from_slice::<T>(data).is_ok()
}

/// A control message of a part.
pub const CONTROL: Target = Target {
    name: "control",
    decoders: &[
        ("ToPlanner", json::<ToPlanner>),
        ("ToWorker", json::<ToWorker>),
        ("ToRouter", json::<ToRouter>),
    ],
    seeds: controls,
};

/// Texts as inputs.
fn texts<const N: usize>(texts: [&str; N]) -> Vec<Vec<u8>> {
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

fn controls() -> Vec<Vec<u8>> {
    let model = ModelId([7; 32]);
    let target = RouteTarget {
        route: 0,
        model,
        partition_point: CutPoint(1),
        budget_ms: 50.0,
        rate_rps: 10.0,
        least_ms: 2.0,
        worker: "w".to_owned(),
        pool: 0,
        work_ms: 2.0,
    };
    let place = WorkerEndpoint {
        name: "w".to_owned(),
        address: "127.0.0.1:1".to_owned(),
        chunk: Nanos::from_millis(2),
    };
    let routes = RoutesUpdate {
        epoch: Epoch(3),
        limited: true,
        emulated: false,
        routers: 2,
        workers: [("w".to_owned(), place.clone())].into(),
        routes: vec![target],
        server_ms: [(model, vec![2.0, 0.0])].into(),
        price: BTreeMap::new(),
        left_out: vec![],
    };
    let plan = WorkerPlan {
        plan: Plan::parse(Path::new("plan.json"), PLAN.as_bytes()).expect("a plan"),
        hosts: [("d".to_owned(), place)].into(),
        corrections: vec![],
        times: StageTimes::default(),
    };
    let made = [
        serde_json::to_vec(&ToRouter::Switch(Box::new(routes))),
        serde_json::to_vec(&ToWorker::Prepare(Box::new(plan))),
    ];
    let made = made.map(|text| text.expect("a message is JSON"));
    let written = texts([
        r#"{"kind":"join","body":{"role":"router","name":"r","epoch":3}}"#,
        r#"{"kind":"mix","body":{"window_s":1.0,"entries":[],"urgent":true,"outcomes":[]}}"#,
        r#"{"kind":"retire","body":7}"#,
        r#"{"kind":"silent","body":"w"}"#,
    ]);
    [written, made.to_vec()].concat()
}

/// The JSON of a call over HTTP.
pub const HTTP_CALL: Target = Target {
    name: "http_call",
    decoders: &[("call", graft_router::read_call)],
    seeds: calls,
};

fn calls() -> Vec<Vec<u8>> {
    texts([
        r#"{"id":"7","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1.0,-2e-3]}],"parameters":{"budget_ms":100}}"#,
        r#"{"inputs":[{"name":"x","shape":[2,2],"datatype":"INT64","data":[[1,2],[3,4]]}],"outputs":[{"name":"y"}]}"#,
        r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}"#,
    ])
}

/// An ONNX file.
pub const MODEL: Target = Target {
    name: "model",
    decoders: &[("onnx", model)],
    seeds: models,
};

fn model(data: &[u8]) -> bool {
    let model = Model::parse(Path::new("fuzzed.onnx"), data, &ReadOptions::default());
    model.is_ok_and(|model| model.engine_graph().is_ok())
}

fn models() -> Vec<Vec<u8>> {
    vec![samples::relu(), samples::integers_times(3), samples::bare_pool()]
}

/// A manifest.
pub const MANIFEST: Target = Target {
    name: "manifest",
    decoders: &[("toml", manifest)],
    seeds: manifests,
};

fn manifest(data: &[u8]) -> bool {
    std::str::from_utf8(data).is_ok_and(|text| Manifest::parse(Path::new("model.toml"), text).is_ok())
}

fn manifests() -> Vec<Vec<u8>> {
    let text = "name = \"m\"\nfile = \"m.onnx\"\nlicense = \"MIT\"\n[inputs.x]\nvalue = 3\n";
    vec![text.as_bytes().to_vec()]
}

/// A file of others, in a format.
fn file<T: FormatFile>(data: &[u8]) -> bool {
    T::parse(Path::new("fuzzed.json"), data).is_ok()
}

/// Each kind of JSON file that others write.
pub const FORMATS: Target = Target {
    name: "formats",
    decoders: &[
        ("plan", file::<Plan>),
        ("workload", file::<Workload>),
        ("profile", file::<Profile>),
        ("devices", file::<Devices>),
        ("scenario", file::<Scenario>),
    ],
    seeds: files,
};

const PLAN: &str = include_str!("plan.json");

fn files() -> Vec<Vec<u8>> {
    texts([
        r#"{"version":1,"headroom":0.1,"fragments":[{"id":"a","model":"m","partition_point":1,"budget_ms":10.0,"rate_rps":5.0}]}"#,
        r#"{"version":1,"devices":[{"id":"d","kind":"k","share_total":8,"memory_bytes":1000}]}"#,
        include_str!("../../../docs/scenarios/rush.json"),
        r#"{"version":1,"device_kind":"k","source":"modelled","share_total":2,"shares":[1,2],"batches":[1],"stage_overhead_ms":0.02,"hop_ms":0.05,
            "models":{"m":{"cut_bytes":[4,4],"segments":[{"weights_bytes":8,"flops":9,"ms":[[2.0,1.0]]}]}}}"#,
        PLAN,
    ])
}

/// A request's tensor: the first bytes say of which type and size, the others are elements.
pub const TENSOR: Target = Target {
    name: "tensor",
    decoders: &[("elements", tensor)],
    seeds: tensors,
};

fn tensor(data: &[u8]) -> bool {
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

/// Codings of a model's features, and tensors that are coded with one.
pub const FEATURES: Target = Target {
    name: "features",
    decoders: &[("file", features), ("tensors", coded)],
    seeds: feature_bytes,
};

/// Elements of a coded tensor.
const CODED: usize = 60;

fn coding() -> CutCoding {
    let sample: Vec<f32> = (0..CODED as u16)
        .map(|i| f32::from(i * 37 % 101) - 40.0)
        .collect();
    let coarse = Coarseness {
        step: 0.2,
        power: 1.0,
    };
    CutCoding {
        tensors: vec![fit(&[&sample], 10, 6, coarse).expect("a coding")],
        mean_bytes: 50,
    }
}

fn features(data: &[u8]) -> bool {
    let Ok(read) = Features::from_bytes(data) else {
        return false;
    };
    for coding in read.0.values() {
        let elements = coding.tensors.iter().map(|t| t.channels().len());
        let _whatever = coding.decode(data, elements);
    }
    true
}

fn coded(data: &[u8]) -> bool {
    static CODING: LazyLock<CutCoding> = LazyLock::new(coding);
    let decoded = CODING.decode(data, std::iter::once(CODED));
    decoded.is_ok_and(|bytes| {
        assert_eq!(bytes.len(), CODED * 4);
        true
    })
}

fn feature_bytes() -> Vec<Vec<u8>> {
    let coding = coding();
    let sent: Vec<f32> = (0..CODED as u16).map(|i| f32::from(i) - 30.0).collect();
    let bytes = coding.encode(std::iter::once(sent.as_slice())).expect("bytes");
    let file = Features([(3, coding)].into()).to_bytes().expect("a file");
    vec![file, bytes]
}

/// A token of a client, of an authority that is good for nothing else.
pub const TOKEN: Target = Target {
    name: "token",
    decoders: &[("token", token)],
    seeds: tokens,
};

/// The authority's folder.
const AUTHORITY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/authority");

/// What the one token that was signed says. It is over in 2060.
fn claims() -> Claims {
    let mut claims = Claims::new("a", Duration::from_secs(1), None, Some(5.0)).expect("claims");
    claims.exp = 2_840_140_800;
    claims
}

/// Whatever is taken must say what was signed.
fn token(data: &[u8]) -> bool {
    static TOKENS: LazyLock<Tokens> = LazyLock::new(|| {
        let folder = Path::new(AUTHORITY);
        let authority =
            Authority::read(&folder.join("ca.pem"), &folder.join("ca.key")).expect("an authority");
        Tokens::of(&authority.issue(Role::Router, &[]).expect("a certificate"))
    });
    let read = std::str::from_utf8(data)
        .ok()
        .and_then(|text| TOKENS.read(text).ok());
    if let Some(read) = &read {
        assert_eq!(read, &claims(), "a token that nobody signed was taken");
    }
    read.is_some()
}

fn tokens() -> Vec<Vec<u8>> {
    let token = issue_token(&Path::new(AUTHORITY).join("ca.key"), &claims());
    vec![token.expect("a token").into_bytes()]
}

/// A trace context.
pub const TRACE: Target = Target {
    name: "trace",
    decoders: &[("traceparent", trace)],
    seeds: traces,
};

fn trace(data: &[u8]) -> bool {
    let Some(context) = std::str::from_utf8(data).ok().and_then(TraceContext::parse) else {
        return false;
    };
    assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
    true
}

fn traces() -> Vec<Vec<u8>> {
    vec![b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_vec()]
}
