//! Configuration files: TOML, every key known, everything checked before a port is bound.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use graft_telemetry::admin::Admin;
use graft_transport::{Identity, IdentityError};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("{file}: can't be read: {cause}")]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        cause: std::io::Error,
    },
    /// The file is no TOML, or has keys that are not known.
    #[error("{file}: {cause}\n`--help` and docs/configuration.md list the keys")]
    Parse {
        /// The file.
        file: PathBuf,
        /// Where and why.
        cause: toml::de::Error,
    },
    /// A value does not do.
    #[error("{key} = {value}: {cause}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it is set to.
        value: String,
        /// Why it does not do.
        cause: String,
    },
    /// Certificates or keys don't do.
    #[error("[tls]: {0}")]
    Tls(#[from] IdentityError),
}

/// Reads a configuration file. Relative paths in it count from where the program runs.
pub fn read_config<T: DeserializeOwned>(file: &Path) -> Result<T, ConfigError> {
    let text = std::fs::read_to_string(file).map_err(|cause| ConfigError::Read {
        file: file.to_owned(),
        cause,
    })?;
    toml::from_str(&text).map_err(|cause| ConfigError::Parse {
        file: file.to_owned(),
        cause,
    })
}

/// Resolves `host:port` to one address.
pub fn resolve(key: &'static str, address: &str) -> Result<SocketAddr, ConfigError> {
    Ok(resolve_all(key, address)?[0])
}

/// Resolves `host:port` to all addresses that the name has; at least one.
pub fn resolve_all(key: &'static str, address: &str) -> Result<Vec<SocketAddr>, ConfigError> {
    let error = |cause: String| ConfigError::Value {
        key,
        value: address.to_owned(),
        cause,
    };
    let all = address.to_socket_addrs();
    let all: Vec<SocketAddr> = all
        .map_err(|e| error(format!("{e}; expected host:port")))?
        .collect();
    match all.is_empty() {
        true => Err(error("the name has no address".to_owned())),
        false => Ok(all),
    }
}

/// Shortest token for administration, in characters.
const LEAST_TOKEN: usize = 16;

/// Where a program is administered, beside health at an address: `admin` and `admin_token` of its configuration.
pub fn administered(
    http: SocketAddr,
    admin: Option<&str>,
    admin_token: Option<&Path>,
) -> Result<Admin, ConfigError> {
    let wrong = |key, value: String, cause: String| ConfigError::Value { key, value, cause };
    let read = |file: &Path| {
        let shown = file.display().to_string();
        let text =
            std::fs::read_to_string(file).map_err(|e| wrong("admin_token", shown.clone(), e.to_string()))?;
        match text.trim() {
            token if token.len() >= LEAST_TOKEN => Ok(Arc::from(token)),
            _ => {
                let cause = format!("expected a file with {LEAST_TOKEN} characters or more");
                Err(wrong("admin_token", shown, cause))
            }
        }
    };
    let token = admin_token.map(read).transpose()?;
    let Some(address) = admin else {
        return Ok(Admin {
            token,
            ..Admin::beside(http)
        });
    };
    let apart = resolve("admin", address)?;
    if token.is_none() && !apart.ip().is_loopback() {
        let cause =
            "others than this machine reach it: name a file with a token as admin_token, or take 127.0.0.1";
        return Err(wrong("admin", address.to_owned(), cause.to_owned()));
    }
    Ok(Admin {
        apart: (apart != http).then_some(apart),
        token,
    })
}

/// `[tls]`: who the program is. `graft ca init` and `graft ca issue` write these files.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsConfig {
    /// Certificate (PEM).
    pub certificate: PathBuf,
    /// Key (PEM).
    pub key: PathBuf,
    /// The authority's certificate (PEM).
    pub authority: PathBuf,
}

impl TlsConfig {
    /// Reads the files.
    pub fn identity(&self) -> Result<Identity, ConfigError> {
        Ok(Identity::read(&self.certificate, &self.key, &self.authority)?)
    }
}
