use graft_model::{CutPoint, ModelId};
use graft_plan::Nanos;
use proptest::prelude::*;

use crate::*;

fn infer() -> ClientRequest {
    ClientRequest::Infer(InferHeader {
        model: ModelId([7; 32]),
        partition_point: CutPoint(12),
        dtypes: vec![WireType::F32],
        coded: false,
        time_left: Nanos(38_500_000),
        trace: TraceContext::new(u128::MAX - 5, u64::MAX - 3),
    })
}

fn split(frame: &[u8]) -> (&[u8; PREFIX_BYTES], &[u8]) {
    frame.split_first_chunk().unwrap()
}

#[test]
fn what_was_encoded_is_decoded() {
    let frame = encode_frame(&infer(), 1000).unwrap();
    let (prefix, header) = split(&frame);
    let prefix = Prefix::decode(prefix, Limits::default()).unwrap();
    assert_eq!(prefix.payload_bytes, 1000);
    assert_eq!(prefix.header_bytes, header.len());
    assert_eq!(decode_header::<ClientRequest>(header).unwrap(), infer());
}

#[test]
fn a_header_is_small() {
    assert!(encode_frame(&infer(), 0).unwrap().len() < 96);
}

#[test]
fn another_version_is_told_apart_from_garbage() {
    let mut frame = encode_frame(&infer(), 0).unwrap();
    frame[2] = (VERSION + 1) as u8;
    assert_eq!(
        Prefix::decode(split(&frame).0, Limits::default()),
        Err(FrameError::Version(VERSION + 1))
    );
    assert_eq!(
        Prefix::decode(b"GET / HTTP/1.1\r\n", Limits::default()),
        Err(FrameError::NotAFrame)
    );
}

#[test]
fn a_payload_over_the_limit_is_refused_before_it_is_read() {
    let frame = encode_frame(&infer(), 1001).unwrap();
    let limits = Limits { payload_bytes: 1000 };
    assert_eq!(
        Prefix::decode(split(&frame).0, limits),
        Err(FrameError::PayloadTooLarge {
            got: 1001,
            limit: 1000
        })
    );
}

#[test]
fn a_header_that_announces_a_huge_text_allocates_nothing() {
    // Variant 1 (Refused) of WorkReply, status 0, a text of 2^40 bytes.
    let mut bytes = vec![1, 0, 253];
    bytes.extend((1u64 << 40).to_le_bytes());
    assert!(matches!(
        decode_header::<WorkReply>(&bytes),
        Err(FrameError::Header(_))
    ));
}

#[test]
fn a_message_for_a_worker_is_none_for_a_router() {
    let json = serde_json::to_vec(&ToWorker::Retire(graft_plan::Epoch(3))).unwrap();
    assert!(serde_json::from_slice::<ToRouter>(&json).is_err());
    assert!(serde_json::from_slice::<ToWorker>(&json).is_ok());
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let refused = Refused::new(Status::Internal, "é".repeat(1000));
    assert!(refused.reason.len() <= 512 && refused.reason.ends_with('é'));
}

#[test]
fn statuses_have_names_of_their_own() {
    let names: std::collections::HashSet<_> = Status::ALL.iter().map(|s| s.name()).collect();
    assert_eq!(names.len(), Status::ALL.len());
    let http: std::collections::HashSet<_> = Status::ALL.iter().map(|s| s.http()).collect();
    assert_eq!(http.len(), Status::ALL.len());
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Some((prefix, rest)) = bytes.split_first_chunk() {
            let _outcome = Prefix::decode(prefix, Limits::default());
            let _outcome = decode_header::<ClientRequest>(rest);
            let _outcome = decode_header::<ClientReply>(rest);
            let _outcome = decode_header::<WorkRequest>(rest);
            let _outcome = decode_header::<WorkReply>(rest);
            let _outcome = decode_header::<Control>(rest);
            let _outcome = decode_header::<ControlReply>(rest);
        }
    }

    #[test]
    fn every_inference_survives_the_wire(
        model in any::<[u8; 32]>(), point: u16, time_left: u64, which in proptest::collection::vec(0usize..4, 0..9),
    ) {
        let kinds = [WireType::F32, WireType::F16, WireType::I32, WireType::I64];
        let dtypes = which.into_iter().map(|w| kinds[w]).collect();
        let request = ClientRequest::Infer(InferHeader {
            model: ModelId(model), partition_point: CutPoint(point), dtypes, coded: false, time_left: Nanos(time_left), trace: TraceContext::new(7, 9),
        });
        let frame = encode_frame(&request, 5).unwrap();
        prop_assert_eq!(decode_header::<ClientRequest>(split(&frame).1).unwrap(), request);
    }
}
