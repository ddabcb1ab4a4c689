//! Intermediate tensors that travel coded: from a phone through router and worker, and what others make of the bytes.

use std::time::Duration;

use bytes::Bytes;
use graft_client::{Client, Session, SessionOptions};
use graft_integration_tests::{Program, Site, alone, models};
use graft_model::{Batch, CutPoint, DType};
use graft_plan::Nanos;
use graft_transport::{Endpoint, EndpointOptions, Protocol, Role};
use graft_wire::{ClientReply, ClientRequest, InferHeader, Limits, Status, TraceContext, WireType};

const PATIENCE: Duration = Duration::from_secs(60);
/// Time for an answer: these tests are of what it says.
const SLO: Duration = Duration::from_secs(20);

struct Parts {
    site: Site,
    _programs: Vec<Program>,
}

impl Parts {
    fn start() -> Self {
        let site = Site::new();
        let _programs = site.start_all(PATIENCE);
        Parts { site, _programs }
    }

    async fn session(&self, point: CutPoint, wire: Option<DType>) -> Session {
        let client = Client::builder()
            .router(self.site.quic.to_string())
            .authority_file(self.site.file("ca.pem"))
            .build()
            .expect("a client");
        let options = SessionOptions {
            slo: SLO,
            partition_point: Some(point),
            wire,
            ..SessionOptions::default()
        };
        let session = client.open(models().join("efficientnet-lite0"), options).await;
        let session = session.expect("a model");
        session.prepare().await;
        session
    }
}

fn test(body: impl Future<Output = ()>) {
    let _alone = alone();
    tokio::runtime::Runtime::new().expect("a runtime").block_on(body);
}

/// The picture that comes with the model.
fn espresso(session: &Session) -> Batch {
    let picture = std::fs::read(models().join("efficientnet-lite0/espresso.png")).expect("the picture");
    let picture = graft_client::picture::decode(&picture).expect("a picture");
    let image = session
        .entry()
        .manifest
        .input
        .image
        .clone()
        .expect("it takes pictures");
    let tensor = graft_client::picture::tensor(&picture, &image).expect("a tensor");
    Batch::new(vec![tensor]).expect("an input")
}

#[test]
fn answers_of_coded_tensors_name_the_same_and_take_a_quarter_of_the_bytes() {
    test(async {
        let parts = Parts::start();
        for point in [0, 3, 20, 40].map(CutPoint) {
            let (coded, exact) = (
                parts.session(point, None).await,
                parts.session(point, Some(DType::F32)).await,
            );
            let input = espresso(&coded);
            let there = |session: Session| {
                let input = input.clone();
                async move {
                    let answer = session.infer(input).await.expect("an answer");
                    assert_eq!(answer.local, None, "cut point {point}: the server answers");
                    let label = session.best_label(&answer).map(str::to_owned);
                    assert_eq!(label.as_deref(), Some("espresso"), "cut point {point}");
                    let scores = answer.outputs.tensors()[0].floats().expect("scores").to_vec();
                    (answer.bytes_sent, scores)
                }
            };
            let (few, near) = there(coded).await;
            let (all, right) = there(exact).await;
            let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0.0, f32::max);
            let off = largest(&mut near.iter().zip(&right).map(|(a, b)| (a - b).abs()));
            let most = largest(&mut right.iter().map(|v| v.abs()));
            println!("cut point {point}: {few} of {all} bytes, largest difference {off:.3} of {most:.1}");
            assert!(
                few > 0 && few * 4 <= all,
                "cut point {point}: {few} of {all} bytes"
            );
            // A picture's values come back as they were.
            assert_eq!(off == 0.0, point == CutPoint(0), "cut point {point}: {off} off");
            assert!(off < 0.2 * most, "cut point {point}: {off} off");
        }
    });
}

#[test]
fn coded_bytes_of_others_are_refused_alone() {
    test(async {
        let parts = Parts::start();
        let point = CutPoint(20);
        let session = parts.session(point, None).await;
        let info = session.entry().info.clone();
        let cut = info.cut(point).expect("a cut point");
        let sent = info
            .encode(point, &Batch::pseudo_random(cut, 1, 7))
            .expect("coded tensors");
        let endpoint = Endpoint::anonymous(&parts.site.file("ca.pem"), EndpointOptions::default());
        let endpoint = endpoint.expect("an endpoint");
        let to = endpoint.connect(parts.site.quic, Role::Router.server_name(), Protocol::Client);
        let connection = to.await.expect("a connection");
        let ask = async |payload: Vec<u8>, dtypes: Vec<WireType>, coded: bool| {
            let header = InferHeader {
                model: info.id,
                partition_point: point,
                dtypes,
                coded,
                time_left: Nanos::from(SLO),
                trace: TraceContext::new(5, payload.len() as u64 + 1),
            };
            let limits = Limits {
                payload_bytes: 16 << 20,
            };
            let request = ClientRequest::Infer(header);
            let reply = connection.call::<_, ClientReply>(&request, Bytes::from(payload), limits, SLO);
            match reply.await.expect("a reply").0 {
                ClientReply::Answer(_) => Ok(()),
                ClientReply::Refused(refused) => Err(refused),
                other => panic!("{other:?}"),
            }
        };
        let floats = || vec![WireType::F32];
        assert_eq!(ask(sent.clone(), floats(), true).await, Ok(()));
        let mut garbage = sent.clone();
        garbage[9..].fill(0xA5);
        let long = vec![0; cut.bytes()];
        for (what, payload, dtypes, coded) in [
            ("garbage", garbage, floats(), true),
            ("cut off", sent[..sent.len() / 2].to_vec(), floats(), true),
            ("nothing", vec![], floats(), true),
            ("as long as floats", long, floats(), true),
            ("other types", sent.clone(), vec![WireType::F16], true),
            ("not said to be coded", sent.clone(), floats(), false),
        ] {
            let refused = ask(payload, dtypes, coded).await.expect_err(what);
            println!("{what}: {refused:?}");
            assert_eq!(refused.status, Status::BadRequest, "{what}: {refused:?}");
        }
        assert_eq!(ask(sent, floats(), true).await, Ok(()), "others go on");
    });
}
