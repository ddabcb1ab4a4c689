//! The demo's tensors over Graft's transport and over bare quinn, on the same loopback in one run.
//! `cargo bench -p graft-transport`
//!
//! Bare quinn: its default configuration, one stream a request, written and read whole, no framing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use graft_model::{CutPoint, ModelId};
use graft_plan::{Epoch, Nanos};
use graft_transport::{Authority, ClientAuth, Connection, Endpoint, EndpointOptions, Protocol, Role};
use graft_wire::{AnswerHeader, ClientReply, ClientRequest, InferHeader, Limits, Timing, WireType};

/// Bytes of the tensors that EfficientNet-Lite0 has at its input and after its second, third and fourth stages, fp32.
const TENSORS: [usize; 4] = [602_112, 301_056, 125_440, 62_720];
const IN_FLIGHT: usize = 8;
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(700);

type Failure = Box<dyn std::error::Error>;

async fn graft(authority: &Authority) -> Result<(Endpoint, Connection), Failure> {
    let identity = authority.issue(Role::Router, &[])?;
    let server = Endpoint::server(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        &identity,
        Protocol::Client,
        ClientAuth::None,
        EndpointOptions::default(),
    )?;
    let address = server.local_addr()?;
    let listening = server.clone();
    tokio::spawn(async move {
        listening
            .listen(&[], |connection| {
                tokio::spawn(async move {
                    let limits = Limits::default();
                    let handler = |_, _: ClientRequest, payload: Bytes| async move {
                        assert!(payload.len() >= 4);
                        let header = AnswerHeader {
                            dtypes: vec![WireType::F32],
                            epoch: Epoch(1),
                            timing: Timing::default(),
                        };
                        (ClientReply::Answer(header), payload.slice(..4))
                    };
                    connection.serve(limits, Duration::from_secs(5), handler).await
                });
            })
            .await;
    });
    let client = Endpoint::anonymous_trusting(&identity, EndpointOptions::default())?;
    let connection = client
        .connect_role(address, Role::Router, Protocol::Client)
        .await?;
    Ok((client, connection))
}

async fn graft_request(connection: &Connection, payload: Bytes) -> Result<(), Failure> {
    let request = ClientRequest::Infer(InferHeader {
        model: ModelId([1; 32]),
        partition_point: CutPoint(0),
        dtypes: vec![WireType::F32],
        coded: false,
        time_left: Nanos(1_000_000_000),
        trace: graft_wire::TraceContext::new(1, 1),
    });
    let (_, answer) = connection
        .call::<_, ClientReply>(&request, payload, Limits::default(), Duration::from_secs(10))
        .await?;
    assert_eq!(answer.len(), 4);
    Ok(())
}

async fn bare() -> Result<(quinn::Endpoint, quinn::Connection), Failure> {
    let key = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
    let der = key.cert.der().clone();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der())?;
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], private)?;
    let server = quinn::crypto::rustls::QuicServerConfig::try_from(server)?;
    let server = quinn::ServerConfig::with_crypto(Arc::new(server));
    let endpoint = quinn::Endpoint::server(server, SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = endpoint.local_addr()?;
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await?;
                while let Ok((mut send, mut receive)) = connection.accept_bi().await {
                    tokio::spawn(async move {
                        let data = receive.read_to_end(64 << 20).await?;
                        send.write_all(&data[..4]).await?;
                        send.finish()?;
                        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
                    });
                }
                Ok::<_, quinn::ConnectionError>(())
            });
        }
    });
    let mut roots = rustls::RootCertStore::empty();
    roots.add(der)?;
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let client = quinn::crypto::rustls::QuicClientConfig::try_from(client)?;
    let endpoint = quinn::Endpoint::client(SocketAddr::from(([0, 0, 0, 0], 0)))?;
    let config = quinn::ClientConfig::new(Arc::new(client));
    let connection = endpoint.connect_with(config, address, "localhost")?.await?;
    Ok((endpoint, connection))
}

async fn bare_request(connection: &quinn::Connection, payload: Bytes) -> Result<(), Failure> {
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&payload).await?;
    send.finish()?;
    assert_eq!(receive.read_to_end(16).await?.len(), 4);
    Ok(())
}

/// Megabytes a second with [`IN_FLIGHT`] requests at a time.
async fn speed(size: usize, request: impl AsyncFn(Bytes) -> Result<(), Failure>) -> Result<f64, Failure> {
    let payload = Bytes::from(vec![7u8; size]);
    let start = Instant::now();
    let lane = async || {
        let mut moved = 0usize;
        while start.elapsed() < ROUND {
            request(payload.clone()).await?;
            moved += size;
        }
        Ok::<usize, Failure>(moved)
    };
    let lanes = (lane(), lane(), lane(), lane(), lane(), lane(), lane(), lane());
    let (a, b, c, d, e, f, g, h) = tokio::try_join!(
        lanes.0, lanes.1, lanes.2, lanes.3, lanes.4, lanes.5, lanes.6, lanes.7
    )?;
    let moved: usize = [a, b, c, d, e, f, g, h].iter().sum();
    Ok(moved as f64 / start.elapsed().as_secs_f64() / 1e6)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let authority = Authority::new()?;
    let (_ours, graft) = graft(&authority).await?;
    let (_theirs, bare) = bare().await?;
    println!("{IN_FLIGHT} requests in flight, medians of {ROUNDS} rounds that alternate");
    for size in TENSORS {
        let (mut ours, mut theirs) = (vec![], vec![]);
        for _ in 0..ROUNDS {
            theirs.push(speed(size, async |p| bare_request(&bare, p).await).await?);
            ours.push(speed(size, async |p| graft_request(&graft, p).await).await?);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!(
            "{size:>7} bytes: graft {ours:>6.0} MB/s, bare quinn {theirs:>6.0} MB/s, ratio {:.2} (to reach: 0.6)",
            ours / theirs
        );
    }
    Ok(())
}
