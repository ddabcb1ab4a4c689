//! A connection to one address that is opened again by itself when it is lost.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::connection::Connection;
use crate::endpoint::{Endpoint, Protocol};
use crate::identity::Role;

/// Shortest and longest wait before the next attempt to connect.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A connection to one address that is opened again by itself when it is lost. Dropping it closes the connection.
#[derive(Debug)]
pub struct Link {
    current: Arc<Mutex<Option<Connection>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// Keeps a connection to a part. `connected` is called with each new one.
    pub fn open(
        endpoint: Endpoint,
        address: SocketAddr,
        role: Role,
        protocol: Protocol,
        connected: impl Fn(Connection) + Send + 'static,
    ) -> Self {
        let current = Arc::new(Mutex::new(None));
        let shared = Arc::clone(&current);
        let task = tokio::spawn(async move {
            let mut wait = BACK_OFF.0;
            loop {
                match endpoint.connect_role(address, role, protocol).await {
                    Ok(connection) => {
                        tracing::info!(%address, %role, "connected");
                        wait = BACK_OFF.0;
                        set(&shared, Some(connection.clone()));
                        connected(connection.clone());
                        let reason = connection.closed().await;
                        set(&shared, None);
                        tracing::warn!(%address, %role, reason, "connection lost");
                    }
                    Err(error) => {
                        tracing::debug!(%error, %role, "no connection yet");
                    }
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(BACK_OFF.1);
            }
        });
        Link { current, task }
    }

    /// The connection, if there is one now.
    pub fn current(&self) -> Option<Connection> {
        let current = self.current.lock().unwrap_or_else(|e| e.into_inner());
        current.clone().filter(|c| !c.is_closed())
    }
}

fn set(shared: &Mutex<Option<Connection>>, value: Option<Connection>) {
    *shared.lock().unwrap_or_else(|e| e.into_inner()) = value;
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(connection) = self.current() {
            connection.close("this link is not needed any more");
        }
    }
}
