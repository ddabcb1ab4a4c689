//! Clients that show who they are: what their tokens allow.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};

use graft_plan::Nanos;
use graft_router_core::{Rates, Source};
use graft_transport::{Claims, Identity, Tokens};
use graft_wire::{Refused, Status};

use crate::config::Clients;

/// Tokens that were read and are remembered, so that their signatures are looked at once.
const MOST_KNOWN: usize = 1024;
/// Part of the numbers of sources in which those with names are: no IPv6 address begins so.
const NAMED: u128 = 0b1000 << 124;

/// Who asks, as a token says.
#[derive(Debug)]
pub(crate) struct Bearer {
    claims: Claims,
    /// Number of its name among sources.
    group: u128,
}

/// What holds clients' tokens against the authority, and clients to what these allow.
pub(crate) struct Bearers {
    who: Clients,
    tokens: Mutex<Tokens>,
    known: Mutex<HashMap<String, Arc<Bearer>>>,
    rates: Rates,
    names: RandomState,
}

fn unauthenticated(why: impl Into<String>) -> Refused {
    Refused::new(Status::Unauthenticated, why)
}

impl Bearers {
    pub fn new(who: Clients, identity: &Identity) -> Self {
        Bearers {
            who,
            tokens: Mutex::new(Tokens::of(identity)),
            known: Mutex::default(),
            rates: Rates::default(),
            names: RandomState::new(),
        }
    }

    /// The authority's certificates were renewed.
    pub fn renew(&self, identity: &Identity) {
        *self.tokens.lock().unwrap_or_else(|e| e.into_inner()) = Tokens::of(identity);
        self.known.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }

    /// Who shows this token.
    pub fn read(&self, token: &str) -> Result<Arc<Bearer>, Refused> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .get(token)
            .cloned();
        if let Some(bearer) = known {
            return Ok(bearer);
        }
        let tokens = self.tokens.lock().unwrap_or_else(|e| e.into_inner()).clone();
        let claims = tokens.read(token).map_err(|e| unauthenticated(e.to_string()))?;
        let group = NAMED | u128::from(self.names.hash_one(&claims.sub));
        let bearer = Arc::new(Bearer { claims, group });
        let mut known = self.known.lock().unwrap_or_else(|e| e.into_inner());
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(token.to_owned(), Arc::clone(&bearer));
        Ok(bearer)
    }

    /// Clients need not show who they are.
    pub fn take_anyone(&self) -> bool {
        self.who == Clients::Anyone
    }

    /// Whether anybody may ask for what is served; else those with a token that is not over.
    pub fn may_look(&self, bearer: Option<&Bearer>) -> Result<(), Refused> {
        match bearer {
            Some(bearer) if bearer.claims.is_over() => Err(unauthenticated("the token is over")),
            None if self.who == Clients::Token => Err(unauthenticated(
                "this router answers clients with a token only: `graft ca token` issues them",
            )),
            _ => Ok(()),
        }
    }

    /// Whether a model may be asked for now.
    pub fn may_ask(&self, now: Nanos, bearer: Option<&Bearer>, model: &str) -> Result<(), Refused> {
        self.may_look(bearer)?;
        let Some(Bearer { claims, .. }) = bearer else {
            return Ok(());
        };
        if !claims.allows(model) {
            let what = format!("the token of {} is not for model {model}", claims.sub);
            return Err(Refused::new(Status::Forbidden, what));
        }
        match claims.rps {
            Some(rps) if !self.rates.pass(now, &claims.sub, rps) => {
                let what = format!("{} may ask {rps} times a second, and asks more often", claims.sub);
                Err(Refused::new(Status::Overloaded, what))
            }
            _ => Ok(()),
        }
    }
}

impl Bearer {
    /// Who asks, over a connection of this number: all connections of a name are one client.
    pub fn source(&self, connection: u64) -> Source {
        Source {
            group: self.group,
            connection,
        }
    }
}
