//! What an app holds: its way to the routers, this device, and models that are opened on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use graft_files::CatalogEntry;
use graft_model::{Model, ModelError};
use graft_transport::{Endpoint, EndpointError, EndpointOptions, Role};

#[cfg(feature = "engines")]
use crate::device::Device;
use crate::device_error::DeviceError;
use crate::head::{Head, ModelHere, Progress};
use crate::routers::Routers;
use crate::session::{Session, SessionError, SessionOptions};

/// A model that an app brings.
#[derive(Debug, Clone)]
pub enum ModelSource {
    /// An ONNX file, a `model.toml`, or a folder with one.
    Path(PathBuf),
    /// What these files hold.
    Bytes {
        /// The manifest (`model.toml`); without it the model is called `model`, and takes tensors.
        manifest: Option<String>,
        /// The ONNX file.
        network: Vec<u8>,
        /// Labels of the first output's classes, one a line.
        labels: Option<String>,
        /// The file that the manifest names as features, if it does.
        features: Option<Vec<u8>>,
    },
}

impl From<&Path> for ModelSource {
    fn from(path: &Path) -> Self {
        ModelSource::Path(path.to_owned())
    }
}

impl From<PathBuf> for ModelSource {
    fn from(path: PathBuf) -> Self {
        ModelSource::Path(path)
    }
}

impl ModelSource {
    /// Reads it. Blocks.
    fn read(&self) -> Result<(CatalogEntry, Model), ModelError> {
        match self {
            ModelSource::Path(path) => CatalogEntry::at(path),
            ModelSource::Bytes {
                manifest,
                network,
                labels,
                features,
            } => CatalogEntry::of_bytes(
                manifest.as_deref(),
                network,
                labels.as_deref(),
                features.as_deref(),
            ),
        }
    }
}

/// An app's client that can't be made, or a model that can't be opened. What has to do with routers alone is no such error: without
/// them all layers run on the device.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Routers are named, and no authority whose certificates they show.
    #[error("routers are named, but not whom to trust: give the authority's certificate (ca.pem)")]
    NoAuthority,
    /// The network can't be used at all, or the authority's certificate is none.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The model can't be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The device can't run it.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The session can't be had so.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The work was broken off.
    #[error("opening the model was broken off: {0}")]
    BrokenOff(String),
}

/// How an app's client is made. [`Client::builder`] begins it; every wish has a default.
#[derive(Debug, Default)]
pub struct ClientBuilder {
    routers: Vec<String>,
    authority: Option<Authority>,
    server_name: Option<String>,
    token: Option<String>,
    #[cfg(feature = "engines")]
    cores: Option<Vec<usize>>,
    #[cfg(feature = "engines")]
    engines: graft_engine::EngineOptions,
    cache: Option<PathBuf>,
}

#[derive(Debug)]
enum Authority {
    Pem(Vec<u8>),
    File(PathBuf),
}

impl ClientBuilder {
    /// A router, `host:port` (UDP). Several times for several, of which one is asked; a name may have several addresses. Without any,
    /// all layers run on the device.
    pub fn router(mut self, place: impl Into<String>) -> Self {
        self.routers.push(place.into());
        self
    }

    /// The certificate of the authority that issued the routers' (PEM).
    pub fn authority_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authority = Some(Authority::Pem(pem.into()));
        self
    }

    /// The same, in a file.
    pub fn authority_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.authority = Some(Authority::File(file.into()));
        self
    }

    /// The name that routers' certificates must carry; default: the one that all of Graft's carry.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// The token that says who asks, where routers want to know.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Cores that layers run on; default: one.
    #[cfg(feature = "engines")]
    pub fn cores(mut self, cores: impl Into<Vec<usize>>) -> Self {
        self.cores = Some(cores.into());
        self
    }

    /// Engines that layers may run on; default: those that are here.
    #[cfg(feature = "engines")]
    pub fn engines(mut self, engines: graft_engine::EngineOptions) -> Self {
        self.engines = engines;
        self
    }

    /// A folder of the app's, in which it is kept what layers take here: models are measured once, not at each start.
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = Some(folder.into());
        self
    }

    /// Makes the client; nothing is sent yet. Must be called within a tokio runtime.
    pub fn build(self) -> Result<Client, ClientError> {
        let routers = match (self.routers.is_empty(), self.authority) {
            (true, _) => Routers::none(),
            (false, None) => return Err(ClientError::NoAuthority),
            (false, Some(authority)) => {
                let options = EndpointOptions::for_phones();
                let endpoint = match authority {
                    Authority::Pem(pem) => Endpoint::anonymous_pem(&pem, options)?,
                    Authority::File(file) => Endpoint::anonymous(&file, options)?,
                };
                let name = self.server_name;
                let name = name.unwrap_or_else(|| Role::Router.server_name().to_owned());
                Routers::named(endpoint, name, self.routers, self.token)
            }
        };
        Ok(Client {
            routers,
            #[cfg(feature = "engines")]
            device: Arc::new(Device::with_engines(self.cores.as_deref(), &self.engines)?),
            cache: self.cache,
        })
    }
}

/// What an app holds: its way to the routers, and this device. Clones share both.
///
/// ```
/// # #[tokio::main(flavor = "multi_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::path::Path;
/// use graft_client::{Client, SessionOptions, picture};
///
/// # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/efficientnet-lite0");
/// # let photograph = std::fs::read(format!("{folder}/espresso.png"))?;
/// // With `.router("serve.example:4433").authority_pem(include_bytes!("ca.pem"))` the rest of the layers runs there.
/// let client = Client::builder().build()?;
/// let model = client.open(Path::new(folder), SessionOptions::default()).await?;
/// let image = model.entry().manifest.input.image.clone().ok_or("the model takes pictures")?;
/// let input = picture::tensor(&picture::decode(&photograph)?, &image)?;
/// let answer = model.infer(input).await?;
/// println!("{:?}: {:?}", model.best_label(&answer), answer.local);
/// # assert_eq!(model.best_label(&answer), Some("espresso"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    routers: Routers,
    #[cfg(feature = "engines")]
    device: Arc<Device>,
    cache: Option<PathBuf>,
}

impl Client {
    /// Begins a client, with defaults for everything.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// This device.
    #[cfg(feature = "engines")]
    pub fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// The device is in another network (Wi-Fi, mobile, a VPN): what is under way moves there. Where nobody says so, it is found out by what
    /// is lost.
    pub fn network_changed(&self) -> Result<(), ClientError> {
        Ok(self.routers.network_changed()?)
    }

    /// Opens a model on this device. What its layers take here is measured, for about a second, unless the cache knows it; routers are
    /// looked for meanwhile. Dropping the future gives it up.
    #[cfg(feature = "engines")]
    pub async fn open(
        &self,
        source: impl Into<ModelSource>,
        options: SessionOptions,
    ) -> Result<Session, ClientError> {
        self.open_with(source, options, |_| ()).await
    }

    /// The same; `progress` hears how far measuring is.
    #[cfg(feature = "engines")]
    pub async fn open_with(
        &self,
        source: impl Into<ModelSource>,
        options: SessionOptions,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Session, ClientError> {
        let (device, cache) = (Arc::clone(&self.device), self.cache.clone());
        self.open_by(source.into(), options, move |entry, model| {
            device.load_with(entry, &model, cache.as_deref(), &mut progress)
        })
        .await
    }

    /// The same for a model whose layers the app runs: `source` tells what it is, and `head` runs it.
    pub async fn open_on(
        &self,
        head: Arc<dyn Head>,
        source: impl Into<ModelSource>,
        options: SessionOptions,
        mut progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<Session, ClientError> {
        let cache = self.cache.clone();
        self.open_by(source.into(), options, move |entry, _| {
            ModelHere::on_head(entry, head, cache.as_deref(), &mut progress)
        })
        .await
    }

    async fn open_by(
        &self,
        source: ModelSource,
        options: SessionOptions,
        load: impl FnOnce(CatalogEntry, Model) -> Result<ModelHere, DeviceError> + Send + 'static,
    ) -> Result<Session, ClientError> {
        let loading = tokio::task::spawn_blocking(move || {
            let (entry, model) = source.read()?;
            Ok::<_, ClientError>(load(entry, model)?)
        });
        let routers = self.routers.clone();
        // The connection is there when the model is; without it the session tries again.
        tokio::spawn(async move { routers.connect().await });
        let loaded = loading
            .await
            .map_err(|e| ClientError::BrokenOff(e.to_string()))??;
        Ok(Session::new(Arc::new(loaded), self.routers.clone(), options)?)
    }
}
