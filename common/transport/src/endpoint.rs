//! A UDP socket with QUIC on it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use graft_wire::VERSION;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerSessionMemoryCache, WebPkiClientVerifier};
use socket2::{Domain, Protocol as IpProtocol, Socket, Type};

use crate::account::Account;
use crate::callers::{Callers, Knock, Window, first_requests};
use crate::connection::{Connection, Shared};
use crate::identity::{Identity, IdentityError, Role, certificates_of, read_certificates};

/// Receive window of a connection, and of a stream: 16 MiB, with which the p99 under load is half of the default's.
const WINDOW_BYTES: u32 = 16 << 20;
/// Receive window of a stranger's connection at first, before it has brought a request (256 KiB).
const FIRST_WINDOW_BYTES: u32 = 256 << 10;
/// Bytes of replies that wait in a stranger's connection for being taken (2 MiB).
const STRANGERS_SEND_BYTES: u64 = 2 << 20;
/// Time that a phone's connection lives without anything being asked: that of a binding in most translators of addresses.
const PHONE_IDLE: Duration = Duration::from_secs(30);
/// Time for a connection to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Sessions that a server remembers, so that requests may come with the first packets.
const SESSIONS: usize = 4096;
/// Addresses at which a phone remembers to have been.
const PLACES: usize = 64;
/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Socket buffers (4 MiB); the system may give less.
const SOCKET_BYTES: usize = 4 << 20;
/// Largest packet in bytes: what Ethernet carries. With the 8952 bytes of loopback and jumbo frames, a few losses in a
/// row were taken for a black hole, and a connection stood still for half a second.
const MAX_PACKET_BYTES: u16 = 1452;

/// Streams by which a server may say that it goes away.
const GOODBYES: u32 = 1;

/// Protocol of a connection; its version is part of the ALPN name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Client to router.
    Client,
    /// Router to worker.
    Work,
    /// Worker or router to planner, and back.
    Control,
}

impl Protocol {
    fn alpn(self) -> Vec<u8> {
        let name = match self {
            Protocol::Client => "client",
            Protocol::Work => "work",
            Protocol::Control => "control",
        };
        format!("graft-{name}/{VERSION}").into_bytes()
    }
}

/// Rule for who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Anyone, for phones: only the server shows a certificate.
    None,
    /// Only bearers of a certificate of the same authority.
    Required,
}

/// An endpoint that can't be opened, or a place that can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The address can't be bound.
    #[error("can't listen on {address} (UDP): {cause}{}", hint(.cause))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: std::io::Error,
    },
    /// Certificates or keys don't do.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS or QUIC refuse the configuration.
    #[error("TLS: {0}")]
    Tls(String),
    /// It is not known where to connect to.
    #[error("{0}")]
    Nowhere(String),
    /// Nobody answers there, or not the one that was meant.
    #[error("can't connect to {address}: {cause}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        cause: String,
    },
}

fn hint(cause: &std::io::Error) -> &'static str {
    match cause.kind() {
        std::io::ErrorKind::AddrInUse => "; is another program, or another of these, there?",
        std::io::ErrorKind::PermissionDenied => "; ports below 1024 are for the administrator",
        std::io::ErrorKind::AddrNotAvailable => "; it is no address of this machine",
        _ => "",
    }
}

/// Bounds of an endpoint's connections.
#[derive(Debug, Clone, Copy)]
pub struct EndpointOptions {
    /// Time without anything coming in after which a connection is given up.
    pub idle: Duration,
    /// Longest time in which nothing is sent: then a keep-alive is; `None`: nothing is sent for its own sake.
    pub keep_alive: Option<Duration>,
    /// Requests that one connection may have open at a time; more wait in the peer.
    pub open_requests: u32,
    /// Connections that may be open at a time; another takes the place of the one that was not used for longest.
    pub connections: usize,
    /// What peers may have sent that was not read yet, on a connection.
    pub window: Window,
    /// Bytes that a connection may have ready for its peer.
    pub send_bytes: u64,
    /// Bytes that the requests and replies of all connections may hold.
    pub held_bytes: usize,
    /// Whether its callers may be anybody: then a connection and an address have bounds of their own.
    pub strangers: bool,
    /// Time for a reply to be taken by whoever asked.
    pub reply: Duration,
    /// Whether requests may be sent with the first packets to an address at which one was before (0-RTT, RFC 9001, section 4.6). Whoever
    /// serves strangers takes these; whoever is on the way could have one of them run a second time.
    pub early: bool,
    /// Whether packets are lost on the way that were in nobody's queue, as on radio: then what is lost does not slow down what is sent
    /// (BBR, Cardwell et al., ACM Queue 14(5), 2016).
    pub lossy: bool,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        EndpointOptions {
            idle: Duration::from_secs(3),
            keep_alive: Some(Duration::from_millis(750)),
            open_requests: 256,
            connections: 4096,
            window: Window::fixed(WINDOW_BYTES),
            send_bytes: u64::from(WINDOW_BYTES),
            held_bytes: 1 << 30,
            strangers: false,
            reply: Duration::from_secs(10),
            early: false,
            lossy: false,
        }
    }
}

impl EndpointOptions {
    /// For callers that nobody knows: their windows begin small.
    pub fn for_strangers() -> Self {
        EndpointOptions {
            window: Window {
                first: FIRST_WINDOW_BYTES,
                most: WINDOW_BYTES,
            },
            send_bytes: STRANGERS_SEND_BYTES,
            strangers: true,
            ..EndpointOptions::default()
        }
    }

    /// For a phone: its radio sleeps while nothing is asked.
    pub fn for_phones() -> Self {
        EndpointOptions {
            idle: PHONE_IDLE,
            keep_alive: None,
            early: true,
            lossy: true,
            ..EndpointOptions::default()
        }
    }

    /// `goodbyes`: streams by which a server may say that it goes away.
    fn transport(self, goodbyes: u32) -> Result<Arc<TransportConfig>, EndpointError> {
        let mut config = TransportConfig::default();
        let idle = IdleTimeout::try_from(self.idle).map_err(|e| EndpointError::Tls(e.to_string()))?;
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(MAX_PACKET_BYTES);
        config
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(self.keep_alive)
            .max_concurrent_bidi_streams(VarInt::from_u32(first_requests(self.window, self.open_requests)))
            .max_concurrent_uni_streams(VarInt::from_u32(goodbyes))
            .datagram_receive_buffer_size(None)
            .stream_receive_window(VarInt::from_u32(WINDOW_BYTES))
            .receive_window(VarInt::from_u32(self.window.first))
            .send_window(self.send_bytes)
            .mtu_discovery_config(Some(mtu));
        if self.lossy {
            config.congestion_controller_factory(Arc::new(BbrConfig::default()));
        }
        Ok(Arc::new(config))
    }
}

/// A UDP socket with QUIC on it: a server, a client, or both.
#[derive(Debug, Clone)]
pub struct Endpoint {
    quinn: quinn::Endpoint,
    client: Arc<RwLock<ClientSide>>,
    /// How it serves, if it does.
    served: Option<(Protocol, ClientAuth)>,
    options: EndpointOptions,
    shared: Arc<Shared>,
    callers: Arc<Callers>,
    /// It takes no more connections.
    leaving: Arc<AtomicBool>,
}

#[derive(Debug, Clone)]
struct ClientSide {
    identity: Option<Identity>,
    roots: Arc<RootCertStore>,
    /// What is known of places from before, where requests may be sent early.
    places: Arc<Mutex<HashMap<SocketAddr, Arc<rustls::ClientConfig>>>>,
}

impl ClientSide {
    fn of(identity: &Identity) -> Result<Self, EndpointError> {
        Ok(ClientSide {
            identity: Some(identity.clone()),
            roots: store(&identity.roots)?,
            places: Arc::default(),
        })
    }

    fn anonymous(roots: &[CertificateDer<'static>]) -> Result<Self, EndpointError> {
        Ok(ClientSide {
            identity: None,
            roots: store(roots)?,
            places: Arc::default(),
        })
    }

    /// How a handshake is made.
    fn config(&self, protocol: Protocol) -> Result<rustls::ClientConfig, EndpointError> {
        let builder = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(IdentityError::from)?
            .with_root_certificates(Arc::clone(&self.roots));
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => builder
                .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
                .map_err(IdentityError::from)?,
        };
        config.alpn_protocols = vec![protocol.alpn()];
        Ok(config)
    }

    /// The same with a place that may know us from before.
    fn remembered(
        &self,
        address: SocketAddr,
        protocol: Protocol,
    ) -> Result<Arc<rustls::ClientConfig>, EndpointError> {
        let mut places = self.places.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(known) = places.get(&address) {
            return Ok(Arc::clone(known));
        }
        let mut config = self.config(protocol)?;
        config.enable_early_data = true;
        let config = Arc::new(config);
        if places.len() >= PLACES {
            places.clear();
        }
        places.insert(address, Arc::clone(&config));
        Ok(config)
    }
}

/// How a server with an identity answers handshakes.
fn serving(
    identity: &Identity,
    protocol: Protocol,
    auth: ClientAuth,
    options: EndpointOptions,
) -> Result<quinn::ServerConfig, EndpointError> {
    let builder = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(IdentityError::from)?;
    let builder = match auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Required => {
            let roots = store(&identity.roots)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            builder.with_client_cert_verifier(verifier.build().map_err(tls)?)
        }
    };
    let mut config = builder
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(IdentityError::from)?;
    config.alpn_protocols = vec![protocol.alpn()];
    if auth == ClientAuth::None && options.strangers {
        // Each session is good for one connection: whoever copies its packets gets nothing by them here.
        config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        config.max_early_data_size = u32::MAX;
    }
    let crypto = QuicServerConfig::try_from(config).map_err(tls)?;
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(options.transport(0)?);
    Ok(server)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn store(roots: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, EndpointError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(IdentityError::from)?;
    }
    Ok(Arc::new(store))
}

fn tls(error: impl std::fmt::Display) -> EndpointError {
    EndpointError::Tls(error.to_string())
}

impl Endpoint {
    /// Listens for one protocol. Must be called within a tokio runtime.
    pub fn server(
        address: SocketAddr,
        identity: &Identity,
        protocol: Protocol,
        auth: ClientAuth,
        options: EndpointOptions,
    ) -> Result<Self, EndpointError> {
        let server = serving(identity, protocol, auth, options)?;
        let side = ClientSide::of(identity)?;
        Ok(Self::opened(
            open(socket(address)?, address, Some(server))?,
            side,
            Some((protocol, auth)),
            options,
        ))
    }

    /// From now on it has this identity: what is connected stays so.
    pub fn renew(&self, identity: &Identity) -> Result<(), EndpointError> {
        let side = ClientSide::of(identity)?;
        if let Some((protocol, auth)) = self.served {
            let server = serving(identity, protocol, auth, self.options)?;
            self.quinn.set_server_config(Some(server));
        }
        *self.client.write().unwrap_or_else(|e| e.into_inner()) = side;
        Ok(())
    }

    /// Connects to other parts as `identity`. Must be called within a tokio runtime.
    pub fn client(identity: &Identity, options: EndpointOptions) -> Result<Self, EndpointError> {
        Self::connecting(ClientSide::of(identity)?, options)
    }

    /// Connects as nobody in particular, trusting the authority of a PEM file: a phone.
    pub fn anonymous(authority: &Path, options: EndpointOptions) -> Result<Self, EndpointError> {
        Self::phone(ClientSide::anonymous(&read_certificates(authority)?)?, options)
    }

    /// The same, trusting the authority whose PEM is at hand.
    pub fn anonymous_pem(pem: &[u8], options: EndpointOptions) -> Result<Self, EndpointError> {
        Self::phone(ClientSide::anonymous(&certificates_of(pem)?)?, options)
    }

    /// Connects as nobody in particular, trusting the authority of an identity at hand.
    pub fn anonymous_trusting(identity: &Identity, options: EndpointOptions) -> Result<Self, EndpointError> {
        Self::phone(ClientSide::anonymous(&identity.roots)?, options)
    }

    fn connecting(side: ClientSide, options: EndpointOptions) -> Result<Self, EndpointError> {
        let quinn = open(socket(ANY)?, ANY, None)?;
        Ok(Self::opened(quinn, side, None, options))
    }

    /// At home in networks of either version of the Internet protocol.
    fn phone(side: ClientSide, options: EndpointOptions) -> Result<Self, EndpointError> {
        let quinn = open(phone_socket()?, ANY, None)?;
        Ok(Self::opened(quinn, side, None, options))
    }

    /// The network is another: from now on it speaks through a new socket. What is connected stays so, and moves (RFC 9000, section 9).
    pub fn rebind(&self) -> Result<(), EndpointError> {
        let rebound = self.quinn.rebind(phone_socket()?);
        rebound.map_err(|cause| EndpointError::Bind { address: ANY, cause })
    }

    fn opened(
        quinn: quinn::Endpoint,
        side: ClientSide,
        served: Option<(Protocol, ClientAuth)>,
        options: EndpointOptions,
    ) -> Self {
        Endpoint {
            quinn,
            client: Arc::new(RwLock::new(side)),
            served,
            options,
            shared: Arc::new(Shared::new(options.held_bytes, options.strangers, options.reply)),
            callers: Callers::new(options.connections, options.window, options.open_requests),
            leaving: Arc::default(),
        }
    }

    /// What the requests and replies of its connections hold: others that come in beside them may be counted with them.
    pub fn account(&self) -> &Arc<Account> {
        self.shared.account()
    }

    /// Address at which it listens.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.quinn.local_addr()
    }

    /// Connects to a place that must show a certificate for `name`.
    pub async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
        protocol: Protocol,
    ) -> Result<Connection, EndpointError> {
        let side = self.client.read().unwrap_or_else(|e| e.into_inner()).clone();
        let early = self.options.early && side.identity.is_none();
        let config = match early {
            true => side.remembered(address, protocol)?,
            false => Arc::new(side.config(protocol)?),
        };
        let crypto = QuicClientConfig::try_from(config).map_err(tls)?;
        let mut client = quinn::ClientConfig::new(Arc::new(crypto));
        client.transport_config(self.options.transport(GOODBYES)?);
        let error = |cause: String| EndpointError::Connect { address, cause };
        let connecting = self
            .quinn
            .connect_with(client, address, name)
            .map_err(|e| error(e.to_string()))?;
        let connecting = match early {
            true => match connecting.into_0rtt() {
                Ok((quinn, accepted)) => {
                    let connection = Connection::new(quinn, Arc::clone(&self.shared), None);
                    let places = side.places;
                    connection.began_early(accepted, CONNECT_WITHIN, move || {
                        places.lock().unwrap_or_else(|e| e.into_inner()).remove(&address);
                    });
                    connection.expect_leave();
                    return Ok(connection);
                }
                Err(connecting) => connecting,
            },
            false => connecting,
        };
        let connection = tokio::time::timeout(self.options.idle.min(CONNECT_WITHIN), connecting)
            .await
            .map_err(|_| error(NOBODY.to_owned()))?
            .map_err(|e| error(why_not(&e, name)))?;
        let connection = Connection::new(connection, Arc::clone(&self.shared), None);
        connection.expect_leave();
        Ok(connection)
    }

    /// Connects to a part.
    pub async fn connect_role(
        &self,
        address: SocketAddr,
        role: Role,
        protocol: Protocol,
    ) -> Result<Connection, EndpointError> {
        self.connect(address, role.server_name(), protocol).await
    }

    /// Accepts connections until the endpoint is closed, and calls `each` with those whose handshake succeeds
    /// and whose caller bears one of `roles` (empty: anyone).
    ///
    /// Handshakes run on tasks of their own, so a slow one holds up nobody. Where many are under way, callers first have to show that they are
    /// where they say, which costs no memory here.
    pub async fn listen(&self, roles: &'static [Role], each: impl Fn(Connection) + Clone + Send + 'static) {
        while let Some(incoming) = self.quinn.accept().await {
            let from = incoming.remote_address();
            if self.leaving.load(Ordering::SeqCst) {
                incoming.refuse();
                continue;
            }
            let proven = incoming.remote_address_validated() || !incoming.may_retry();
            let (knock, handshake) = self.callers.knock(from, proven);
            match knock {
                Knock::Enter => {}
                Knock::Prove => {
                    if let Err(error) = incoming.retry() {
                        tracing::debug!(%from, %error, "a caller can't be asked for a proof");
                    }
                    continue;
                }
                Knock::Refuse => {
                    tracing::warn!(%from, "refused a connection: there are too many handshakes");
                    incoming.refuse();
                    continue;
                }
            }
            let patience = self.options.idle.min(HANDSHAKE);
            let early = self.options.strangers && roles.is_empty();
            let (shared, callers, each) = (Arc::clone(&self.shared), Arc::clone(&self.callers), each.clone());
            let leaving = Arc::clone(&self.leaving);
            tokio::spawn(async move {
                let outcome = tokio::time::timeout(patience, entered(incoming, early)).await;
                let handshake = match &outcome {
                    Ok(Ok((_, Some(_)))) => handshake,
                    _ => None,
                };
                match outcome {
                    Ok(Ok((quinn, first))) => {
                        let first = first.map(|(streams, done)| {
                            // It counts as a handshake until it is done, for so long.
                            let unproven = quinn.clone();
                            tokio::spawn(async move {
                                let _counts = handshake;
                                if tokio::time::timeout(patience, done).await.is_err() {
                                    unproven.close(VarInt::from_u32(0), b"the handshake took too long");
                                }
                            });
                            streams
                        });
                        let place = callers.enter(&quinn);
                        let connection = Connection::new(quinn, shared, Some(place));
                        connection.begin_with(first);
                        if leaving.load(Ordering::SeqCst) {
                            connection.say_goodbye();
                        }
                        if roles.is_empty() || roles.iter().any(|&r| connection.is_from(r)) {
                            each(connection);
                        } else {
                            tracing::warn!(%from, "refused a connection: its certificate has another role");
                            connection.close("your certificate's role has no business here");
                        }
                    }
                    Ok(Err(error)) => tracing::debug!(%from, %error, "a handshake failed"),
                    Err(_) => tracing::debug!(%from, "a handshake took too long"),
                }
            });
        }
    }

    /// Tells all callers that they should ask others from now on, and takes no more of them. What they ask all the same is answered.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
        self.callers.say_goodbye();
    }

    /// Closes all connections and stops listening. Replies that are on their way get to their askers first, and
    /// peers get to know; each is waited for at most as long as an idle connection lives (3 s at most).
    pub async fn close(&self, reason: &str) {
        let patience = self.options.idle.min(Duration::from_secs(3));
        let start = tokio::time::Instant::now();
        while self.shared.open_replies.load(Ordering::SeqCst) > 0 && start.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.quinn.close(VarInt::from_u32(0), reason.as_bytes());
        if tokio::time::timeout(patience, self.quinn.wait_idle())
            .await
            .is_err()
        {
            tracing::debug!("peers did not notice the end in time");
        }
    }
}

/// Streams of a request.
type Streams = (quinn::SendStream, quinn::RecvStream);

/// A connection whose handshake is done, or that has brought a request with its first packets, which no one can who was not here before;
/// then with that request, and what resolves when the handshake is done.
async fn entered(
    incoming: quinn::Incoming,
    early: bool,
) -> Result<(quinn::Connection, Option<(Streams, quinn::ZeroRttAccepted)>), quinn::ConnectionError> {
    if !early {
        return Ok((incoming.await?, None));
    }
    let (quinn, mut done) = match incoming.accept()?.into_0rtt() {
        Ok(begun) => begun,
        Err(connecting) => return Ok((connecting.await?, None)),
    };
    tokio::select! {
        biased;
        streams = quinn.accept_bi() => {
            let streams = streams?;
            Ok((quinn, Some((streams, done))))
        }
        _ = &mut done => match quinn.close_reason() {
            Some(reason) => Err(reason),
            None => Ok((quinn, None)),
        },
    }
}

/// What a person is told of an address at which nobody answers.
const NOBODY: &str = "nobody answers over UDP: is it the address for QUIC, and does every firewall on the way let UDP through?";

/// Why a handshake failed, and what to look at. `name`: what the certificate must carry.
fn why_not(error: &quinn::ConnectionError, name: &str) -> String {
    let text = error.to_string();
    // The reasons of rustls come as text only.
    let hints = [
        (
            "UnknownIssuer",
            "its certificate is of another authority than the one that is trusted here".to_owned(),
        ),
        (
            "BadSignature",
            "its certificate is of another authority than the one that is trusted here".to_owned(),
        ),
        (
            "NotValidForName",
            format!("its certificate does not carry the name {name}"),
        ),
        (
            "not valid for name",
            format!("its certificate does not carry the name {name}"),
        ),
        (
            "NotValidYet",
            "its certificate is not valid yet: is the clock right, there and here?".to_owned(),
        ),
        (
            "not valid yet",
            "its certificate is not valid yet: is the clock right, there and here?".to_owned(),
        ),
        (
            "Expired",
            "its certificate is over, or the clock is wrong, there or here".to_owned(),
        ),
        (
            "expired",
            "its certificate is over, or the clock is wrong, there or here".to_owned(),
        ),
        (
            "no_application_protocol",
            "it speaks another protocol or version of Graft".to_owned(),
        ),
        (
            "no application protocol",
            "it speaks another protocol or version of Graft".to_owned(),
        ),
    ];
    let hint = hints
        .iter()
        .find(|(sign, _)| text.contains(sign))
        .map(|(_, hint)| hint.as_str());
    match (error, hint) {
        (quinn::ConnectionError::TimedOut, _) => NOBODY.to_owned(),
        (_, Some(hint)) => format!("{hint} ({text})"),
        (_, None) => text,
    }
}

/// Whatever address and port the system chooses.
const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

fn socket(address: SocketAddr) -> Result<UdpSocket, EndpointError> {
    UdpSocket::bind(address).map_err(|cause| EndpointError::Bind { address, cause })
}

/// A socket for both versions of the Internet protocol, or for version 4 where there is no other.
fn phone_socket() -> Result<UdpSocket, EndpointError> {
    let both = || -> std::io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(IpProtocol::UDP))?;
        socket.set_only_v6(false)?;
        socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
        Ok(socket.into())
    };
    both().or_else(|error| {
        tracing::debug!(%error, "there is no IPv6");
        socket(ANY)
    })
}

fn open(
    socket: UdpSocket,
    address: SocketAddr,
    server: Option<quinn::ServerConfig>,
) -> Result<quinn::Endpoint, EndpointError> {
    let bind = |cause: std::io::Error| EndpointError::Bind { address, cause };
    let raw = socket2::SockRef::from(&socket);
    // The system's limits may be lower: it then gives what it has.
    for outcome in [
        raw.set_recv_buffer_size(SOCKET_BYTES),
        raw.set_send_buffer_size(SOCKET_BYTES),
    ] {
        if let Err(error) = outcome {
            tracing::debug!(%error, "socket buffers keep their size");
        }
    }
    let mut config = EndpointConfig::default();
    config
        .max_udp_payload_size(MAX_PACKET_BYTES)
        .map_err(|e| EndpointError::Tls(e.to_string()))?;
    quinn::Endpoint::new(config, server, socket, Arc::new(TokioRuntime)).map_err(bind)
}
