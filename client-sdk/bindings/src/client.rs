//! What an app holds: its way to the routers, and this device.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use graft_client::{CutPoint, DType, Progress, SessionOptions};

use crate::error::GraftError;
use crate::head::{AppHead, LayerRunner};
use crate::model::Model;
use crate::runtime;

/// How a client is made. Every field has a default.
#[derive(Debug, Clone, Default, uniffi::Record)]
pub struct ClientOptions {
    /// Routers, `host:port` (UDP), of which one is asked; a name may have several addresses. None: all layers run on the device.
    #[uniffi(default)]
    pub routers: Vec<String>,
    /// The certificate of the authority that issued the routers' (PEM).
    #[uniffi(default)]
    pub authority_pem: Option<Vec<u8>>,
    /// The name that routers' certificates must carry; default: the one that all of Graft's carry.
    #[uniffi(default)]
    pub server_name: Option<String>,
    /// The token that says who asks, where routers want to know.
    #[uniffi(default)]
    pub token: Option<String>,
    /// A folder of the app's, in which it is kept what layers take here: models are measured once, not at each start.
    #[uniffi(default)]
    pub cache: Option<String>,
    /// Cores that layers run on; none: one is chosen.
    #[uniffi(default)]
    pub cores: Vec<u32>,
}

/// A model that an app brings.
#[derive(Debug, Clone, uniffi::Enum)]
pub enum ModelSource {
    /// An ONNX file, a `model.toml`, or a folder with one.
    Path {
        /// Where it is.
        path: String,
    },
    /// What these files hold.
    Bytes {
        /// The ONNX file.
        network: Vec<u8>,
        /// The manifest (`model.toml`); without it the model is called `model`, and takes tensors.
        manifest: Option<String>,
        /// Labels of the first output's classes, one a line.
        labels: Option<String>,
        /// The file that the manifest names as features, if it does.
        #[uniffi(default)]
        features: Option<Vec<u8>>,
    },
}

/// What counts where there is time to spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, uniffi::Enum)]
pub enum Prefer {
    /// The answer as soon as can be.
    Speed,
    /// What is cheaper for the server, where the device and its next inference don't feel it.
    Server,
    /// What is expected to take less of the battery.
    Battery,
    /// Fewer bytes on the way.
    Bytes,
}

impl From<Prefer> for graft_client::Prefer {
    fn from(prefer: Prefer) -> Self {
        match prefer {
            Prefer::Speed => graft_client::Prefer::Speed,
            Prefer::Server => graft_client::Prefer::Server,
            Prefer::Battery => graft_client::Prefer::Battery,
            Prefer::Bytes => graft_client::Prefer::Bytes,
        }
    }
}

/// How a model is used. Every field has a default.
#[derive(Debug, Clone, uniffi::Record)]
pub struct ModelOptions {
    /// From the input to the answer, in milliseconds.
    #[uniffi(default = 1000.0)]
    pub slo_ms: f64,
    /// What counts where there is time to spare; none: the server's sake.
    #[uniffi(default)]
    pub prefer: Option<Prefer>,
    /// Bytes that an inference may send at most; none: as many as it takes.
    #[uniffi(default)]
    pub most_bytes: Option<u64>,
    /// The model's inputs never leave the device as they are. (Much of a picture can be told from what its first layers make of it; who
    /// wants less told fixes a later partition point.)
    #[uniffi(default = false)]
    pub keep_inputs: bool,
    /// Hand over at this cut point, always; none: it is chosen.
    #[uniffi(default)]
    pub partition_point: Option<u16>,
    /// Send 16-bit floats, half the bytes, where the manifest allows it.
    #[uniffi(default = false)]
    pub half_precision: bool,
    /// Send tensors as they are, even where the model's features say how they travel in fewer bytes.
    #[uniffi(default = false)]
    pub exact: bool,
}

impl Default for ModelOptions {
    fn default() -> Self {
        ModelOptions {
            slo_ms: 1000.0,
            prefer: None,
            most_bytes: None,
            keep_inputs: false,
            partition_point: None,
            half_precision: false,
            exact: false,
        }
    }
}

impl ModelOptions {
    fn session(&self) -> Result<SessionOptions, GraftError> {
        let slo = Duration::try_from_secs_f64(self.slo_ms / 1e3)
            .ok()
            .filter(|slo| !slo.is_zero())
            .ok_or_else(|| {
                GraftError::Options(format!(
                    "slo_ms is {}, and must be above 0 milliseconds",
                    self.slo_ms
                ))
            })?;
        Ok(SessionOptions {
            slo,
            prefer: self.prefer.map(Into::into).unwrap_or_default(),
            most_bytes: self.most_bytes,
            keep_inputs: self.keep_inputs,
            partition_point: self.partition_point.map(CutPoint),
            wire: match (self.half_precision, self.exact) {
                (true, _) => Some(DType::F16),
                (false, true) => Some(DType::F32),
                (false, false) => None,
            },
            emulation: None,
        })
    }
}

/// Hears how far the opening of a model is. It is called on a thread of the library's, and should return soon.
#[uniffi::export(with_foreign)]
pub trait ProgressListener: Send + Sync {
    /// So many steps of so many are done.
    fn on_progress(&self, done: u32, all: u32);
}

/// What an app holds: its way to the routers, and this device. One for the whole app is enough.
#[derive(Debug, uniffi::Object)]
pub struct Client {
    inner: graft_client::Client,
}

#[uniffi::export]
impl Client {
    /// Makes a client; nothing is sent yet, and no network is needed.
    #[uniffi::constructor]
    pub fn new(options: ClientOptions) -> Result<Arc<Self>, GraftError> {
        let mut builder = graft_client::Client::builder();
        for router in options.routers {
            builder = builder.router(router);
        }
        if let Some(pem) = options.authority_pem {
            builder = builder.authority_pem(pem);
        }
        if let Some(name) = options.server_name {
            builder = builder.server_name(name);
        }
        if let Some(token) = options.token {
            builder = builder.token(token);
        }
        if let Some(folder) = options.cache {
            builder = builder.cache(folder);
        }
        #[cfg(feature = "engines")]
        if !options.cores.is_empty() {
            let cores: Vec<usize> = options.cores.iter().map(|core| *core as usize).collect();
            builder = builder.cores(cores);
        }
        // Sockets belong to the library's threads.
        let _entered = runtime::handle()?.enter();
        let inner = builder.build()?;
        Ok(Arc::new(Client { inner }))
    }

    /// The device is in another network (Wi-Fi, mobile, a VPN): what is under way moves there. To be called by the app's callback for
    /// changes of the network; where nobody says so, it is found out by what is lost.
    pub fn network_changed(&self) -> Result<(), GraftError> {
        let _entered = runtime::handle()?.enter();
        Ok(self.inner.network_changed()?)
    }

    /// Opens a model whose layers the app runs: `source` tells what it is, `head` runs it. What its layers take is measured, unless the cache
    /// knows it.
    pub async fn open_on(
        &self,
        head: Arc<dyn LayerRunner>,
        source: ModelSource,
        options: ModelOptions,
        progress: Option<Arc<dyn ProgressListener>>,
    ) -> Result<Arc<Model>, GraftError> {
        let client = self.inner.clone();
        let heard = hearing(progress);
        runtime::run(async move {
            let head = AppHead::new(head);
            let session = client
                .open_on(head, source.given(), options.session()?, heard)
                .await?;
            Ok(Arc::new(Model::new(session)))
        })
        .await?
    }

    /// Opens a model on this device. What its layers take here is measured, for about a second, unless the cache knows it.
    pub async fn open(
        &self,
        source: ModelSource,
        options: ModelOptions,
        progress: Option<Arc<dyn ProgressListener>>,
    ) -> Result<Arc<Model>, GraftError> {
        let client = self.inner.clone();
        runtime::run(open(client, source, options, hearing(progress))).await?
    }
}

/// Tells a listener, if there is one.
fn hearing(listener: Option<Arc<dyn ProgressListener>>) -> impl FnMut(Progress) + Send + 'static {
    move |progress| {
        if let Some(listener) = &listener {
            let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
            listener.on_progress(count(progress.done), count(progress.all));
        }
    }
}

impl Client {
    /// The same, blocking.
    pub(crate) fn open_blocking(
        &self,
        source: ModelSource,
        options: ModelOptions,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Arc<Model>, GraftError> {
        runtime::block_on(open(self.inner.clone(), source, options, progress))?
    }
}

impl ModelSource {
    fn given(self) -> graft_client::ModelSource {
        match self {
            ModelSource::Path { path } => graft_client::ModelSource::Path(PathBuf::from(path)),
            ModelSource::Bytes {
                network,
                manifest,
                labels,
                features,
            } => graft_client::ModelSource::Bytes {
                manifest,
                network,
                labels,
                features,
            },
        }
    }
}

#[cfg(feature = "engines")]
async fn open(
    client: graft_client::Client,
    source: ModelSource,
    options: ModelOptions,
    progress: impl FnMut(Progress) + Send + 'static,
) -> Result<Arc<Model>, GraftError> {
    let session = client
        .open_with(source.given(), options.session()?, progress)
        .await?;
    Ok(Arc::new(Model::new(session)))
}

/// This library has no engine: apps bring what runs layers.
#[cfg(not(feature = "engines"))]
async fn open(
    _client: graft_client::Client,
    _source: ModelSource,
    _options: ModelOptions,
    _progress: impl FnMut(Progress) + Send + 'static,
) -> Result<Arc<Model>, GraftError> {
    let what = "this build of the library has no engine: open the model on what runs layers in the app";
    Err(GraftError::Device(what.to_owned()))
}
