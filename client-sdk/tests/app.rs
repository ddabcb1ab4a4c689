//! An app: a client, models from files and from memory, measured once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use graft_client::{
    Batch, Client, ClientError, CutPoint, DeviceError, Head, LocalReason, ModelHere, ModelInfo, ModelSource,
    SessionOptions, StageRange,
};
use graft_model::samples;

fn from_memory(manifest: Option<&str>, labels: Option<&str>) -> ModelSource {
    ModelSource::Bytes {
        manifest: manifest.map(str::to_owned),
        network: samples::residual_cnn(),
        labels: labels.map(str::to_owned),
        features: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_from_memory_runs_offline_and_is_measured_once() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let client = Client::builder().cache(&cache).build().unwrap();
    let open = || async {
        let (steps, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counting, hearing) = (Arc::clone(&steps), Arc::clone(&heard));
        let progress = move |p: graft_client::Progress| {
            assert!(p.done <= p.all);
            counting.fetch_add(1, Ordering::Relaxed);
            hearing.store(p.done, Ordering::Relaxed);
        };
        let options = SessionOptions::default();
        let session = client
            .open_with(from_memory(None, None), options, progress)
            .await
            .unwrap();
        (session, steps.load(Ordering::Relaxed))
    };
    let (session, steps) = open().await;
    assert!(steps > 0, "the first time it is measured");
    let input = Batch::pseudo_random(session.entry().info.inputs(), 1, 3);
    let first = session.infer(input.clone()).await.unwrap();
    assert_eq!(first.local, Some(LocalReason::Unreachable));
    let (again, steps) = open().await;
    assert_eq!(steps, 0, "the second time it is known");
    assert_eq!(again.infer(input).await.unwrap().outputs, first.outputs);
    // What was kept and can't be so is measured again.
    let file = std::fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
    for nonsense in ["", "[1]", "[5, 4]", "{}"] {
        std::fs::write(&file, nonsense).unwrap();
        assert!(open().await.1 > 0, "{nonsense}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_and_labels_from_memory_are_held_against_the_network() {
    let client = Client::builder().build().unwrap();
    let manifest = "name = \"small\"\nfile = \"small.onnx\"\nlicense = \"MIT\"\n";
    let classes = {
        let plain = client
            .open(from_memory(None, None), SessionOptions::default())
            .await
            .unwrap();
        plain.entry().info.outputs().tensors[0].elements
    };
    let labels: Vec<String> = (0..classes).map(|c| format!("class {c}")).collect();
    let labels = labels.join("\n");
    let source = from_memory(Some(manifest), Some(&labels));
    let session = client.open(source, SessionOptions::default()).await.unwrap();
    assert_eq!(session.entry().manifest.name, "small");
    let input = Batch::pseudo_random(session.entry().info.inputs(), 1, 3);
    let answer = session.infer(input).await.unwrap();
    assert!(
        session
            .best_label(&answer)
            .is_some_and(|label| label.starts_with("class "))
    );
    for (manifest, labels) in [("name = 3", None), (manifest, Some("too\nfew"))] {
        let wrong = client
            .open(from_memory(Some(manifest), labels), SessionOptions::default())
            .await;
        assert!(
            matches!(wrong, Err(ClientError::Model(_))),
            "{manifest} {labels:?}"
        );
    }
    let beyond = SessionOptions {
        partition_point: Some(CutPoint(999)),
        ..SessionOptions::default()
    };
    let refused = client.open(from_memory(None, None), beyond).await;
    assert!(matches!(refused, Err(ClientError::Session(_))));
    // What may not leave the device is not asked for.
    for (point, keep_inputs, most_bytes) in [(0, true, None), (1, false, Some(7))] {
        let barred = SessionOptions {
            partition_point: Some(CutPoint(point)),
            keep_inputs,
            most_bytes,
            ..SessionOptions::default()
        };
        let refused = client.open(from_memory(None, None), barred).await;
        let why = refused.err().map(|e| e.to_string());
        assert!(why.is_some_and(|why| why.contains(&format!("partition point {point}"))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routers_that_can_t_be_reached_or_looked_up_cost_no_inference() {
    let untrusted = Client::builder().router("serve.example:4433").build();
    assert!(matches!(untrusted, Err(ClientError::NoAuthority)));
    let garbage = Client::builder()
        .router("a:1")
        .authority_pem("no certificate")
        .build();
    assert!(matches!(garbage, Err(ClientError::Endpoint(_))));
    let authority = graft_transport::Authority::new().unwrap();
    let client = Client::builder()
        .router("no-such-host.invalid:4433")
        .router("127.0.0.1:9")
        .authority_pem(authority.certificate_pem())
        .token("not looked at")
        .build()
        .unwrap();
    let options = SessionOptions {
        slo: Duration::from_millis(400),
        ..SessionOptions::default()
    };
    let session = client.open(from_memory(None, None), options).await.unwrap();
    let input = Batch::pseudo_random(session.entry().info.inputs(), 1, 3);
    for _ in 0..3 {
        let answer = session.infer(input.clone()).await.unwrap();
        assert_eq!(answer.local, Some(LocalReason::Unreachable));
        assert!(answer.in_time, "{:?}", answer.times);
    }
}

/// An app's own way of running layers: an engine of ours, of which it has some layers alone.
struct Own {
    model: ModelHere,
    has: fn(StageRange, CutPoint) -> bool,
    wrong: bool,
}

impl Head for Own {
    fn name(&self) -> &str {
        "own"
    }

    fn has(&self, range: StageRange) -> bool {
        (self.has)(range, self.model.entry.info.last())
    }

    fn run(&self, _: &ModelInfo, range: StageRange, input: Batch) -> Result<Batch, DeviceError> {
        match self.wrong {
            true => Ok(input),
            false => self.model.run(range, input),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_runs_layers_itself_and_hands_over_where_it_has_them() {
    let client = Client::builder().build().unwrap();
    let model = graft_model::Model::parse(
        "model.onnx".as_ref(),
        &samples::residual_cnn(),
        &graft_model::ReadOptions::default(),
    )
    .unwrap();
    let entry = || {
        let (entry, _) =
            graft_files::CatalogEntry::of_bytes(None, &samples::residual_cnn(), None, None).unwrap();
        entry
    };
    let own = |has, wrong| {
        let model = client.device().load(entry(), &model).unwrap();
        Arc::new(Own { model, has, wrong })
    };
    let open = |head: Arc<Own>, point: Option<u16>| {
        let options = SessionOptions {
            partition_point: point.map(CutPoint),
            ..SessionOptions::default()
        };
        client.open_on(head, from_memory(None, None), options, |_| ())
    };
    // All layers, and those up to the second cut point: who hands over there runs all anew where there is no answer.
    let some = own(
        |range, last| range.from() == CutPoint(0) && (range.to() == last || range.to() == CutPoint(2)),
        false,
    );
    let session = open(Arc::clone(&some), Some(2)).await.unwrap();
    let input = Batch::pseudo_random(session.entry().info.inputs(), 1, 3);
    let whole = session.entry().info.whole().unwrap();
    let want = some.model.run(whole, input.clone()).unwrap();
    let answer = session.infer(input.clone()).await.unwrap();
    assert_eq!(answer.local, Some(LocalReason::Unreachable));
    assert_eq!(answer.outputs, want);
    let refused = open(Arc::clone(&some), Some(1)).await;
    assert!(
        matches!(refused, Err(ClientError::Session(_))),
        "it has not the first layers alone"
    );
    // A head and its tail do for all, too.
    let both = own(
        |range, last| {
            range == StageRange::new(CutPoint(0), CutPoint(2)).unwrap()
                || (range.from() == CutPoint(2) && range.to() == last)
        },
        false,
    );
    let session = open(both, None).await.unwrap();
    assert!(session.here_ms().is_finite());
    assert_eq!(session.infer(input.clone()).await.unwrap().outputs, want);
    // Without a server, and without all layers, there is no answer, and words for it.
    let first = own(
        |range, _| range.from() == CutPoint(0) && range.to() == CutPoint(2),
        false,
    );
    let session = open(first, None).await.unwrap();
    let lost = session.infer(input).await.unwrap_err().to_string();
    assert!(lost.contains("own has not the layers"), "{lost}");
    // What does not fit is not passed on.
    let wrong = open(own(|_, _| true, true), None).await;
    assert!(wrong.is_err_and(|error| error.to_string().contains("own gave")));
}
