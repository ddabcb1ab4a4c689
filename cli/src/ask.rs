//! Asks a program's HTTP address.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::de::DeserializeOwned;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer, in bytes.
const MOST_BYTES: u64 = 64 << 20;

/// What has to be shown where a program is administered.
#[derive(Debug, Clone, Args)]
pub(crate) struct Shown {
    /// File with the token that the program asks administrators for (its admin_token)
    #[arg(long, value_name = "FILE")]
    admin_token: Option<PathBuf>,
}

/// Gets the JSON at a path of the address at which a program is administered, e.g. `127.0.0.1:7302`.
pub(crate) fn get<T: DeserializeOwned>(address: &str, shown: &Shown, path: &str) -> anyhow::Result<T> {
    let base = if address.contains("://") {
        address.trim_end_matches('/').to_owned()
    } else {
        format!("http://{address}")
    };
    let url = format!("{base}{path}");
    let agent = ureq::Agent::config_builder()
        .timeout_global(Some(PATIENCE))
        .http_status_as_error(false)
        .build()
        .new_agent();
    let mut request = agent.get(&url);
    if let Some(file) = &shown.admin_token {
        let token = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        request = request.header("Authorization", format!("Bearer {}", token.trim()));
    }
    let mut response = request.call().with_context(|| format!("can't ask {url}"))?;
    let status = response.status();
    let body = response
        .body_mut()
        .with_config()
        .limit(MOST_BYTES)
        .read_to_string();
    let body = body.with_context(|| format!("the answer of {url} can't be read"))?;
    if !status.is_success() {
        let reason = serde_json::from_str::<serde_json::Value>(&body).ok();
        let reason = reason.and_then(|v| v["error"].as_str().map(str::to_owned));
        let plain = format!(
            "status {status}: {}",
            body.trim().chars().take(200).collect::<String>()
        );
        anyhow::bail!("{url}: {}", reason.unwrap_or(plain));
    }
    serde_json::from_str(&body)
        .with_context(|| format!("{url} answered something else: is it the right program?"))
}
