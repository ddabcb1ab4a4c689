//! Clients that show who they are: what their tokens allow.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use graft_model::Manifest;
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
    token: String,
    /// Number of the authorities against which the token was held last.
    held_against: AtomicU64,
    /// Number of its name among sources.
    group: u128,
}

/// What tokens are held against.
struct Trusted {
    identity: Identity,
    tokens: Arc<Tokens>,
    /// How often the authorities changed.
    number: u64,
}

/// What holds clients' tokens against the authority, and clients to what these allow.
pub(crate) struct Bearers {
    who: Clients,
    trusted: Mutex<Trusted>,
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
            trusted: Mutex::new(Trusted {
                identity: identity.clone(),
                tokens: Arc::new(Tokens::of(identity)),
                number: 0,
            }),
            known: Mutex::default(),
            rates: Rates::default(),
            names: RandomState::new(),
        }
    }

    fn trusted(&self) -> MutexGuard<'_, Trusted> {
        self.trusted.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Bearer>>> {
        self.known.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The router's certificates were renewed. Where it trusts other authorities now, each token is held against these when it is used
    /// again, on connections that are open, too.
    pub fn renew(&self, identity: &Identity) {
        let mut trusted = self.trusted();
        if !trusted.identity.trusts_the_same(identity) {
            *trusted = Trusted {
                identity: identity.clone(),
                tokens: Arc::new(Tokens::of(identity)),
                number: trusted.number + 1,
            };
        }
    }

    /// Who shows this token.
    pub fn read(&self, token: &str) -> Result<Arc<Bearer>, Refused> {
        let known = self.known().get(token).cloned();
        if let Some(bearer) = known {
            let current = self.is_current(&bearer);
            if current.is_err() {
                self.known().remove(token);
            }
            return current.map(|()| bearer);
        }
        let (tokens, number) = {
            let trusted = self.trusted();
            (Arc::clone(&trusted.tokens), trusted.number)
        };
        let claims = tokens.read(token).map_err(|e| unauthenticated(e.to_string()))?;
        let group = NAMED | u128::from(self.names.hash_one(&claims.sub));
        let bearer = Arc::new(Bearer {
            claims,
            token: token.to_owned(),
            held_against: AtomicU64::new(number),
            group,
        });
        let mut known = self.known();
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        known.insert(token.to_owned(), Arc::clone(&bearer));
        Ok(bearer)
    }

    /// Whether a token is not over, and one of the authorities that are trusted now.
    fn is_current(&self, bearer: &Bearer) -> Result<(), Refused> {
        if bearer.claims.is_over() {
            return Err(unauthenticated("the token is over"));
        }
        let (tokens, number) = {
            let trusted = self.trusted();
            (Arc::clone(&trusted.tokens), trusted.number)
        };
        if bearer.held_against.load(Ordering::Relaxed) != number {
            tokens
                .read(&bearer.token)
                .map_err(|e| unauthenticated(e.to_string()))?;
            bearer.held_against.store(number, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Clients need not show who they are.
    pub fn take_anyone(&self) -> bool {
        self.who == Clients::Anyone
    }

    /// Whether anybody may ask for what is served; else those with a token that is not over.
    pub fn may_look(&self, bearer: Option<&Bearer>) -> Result<(), Refused> {
        match bearer {
            Some(bearer) => self.is_current(bearer),
            None if self.who == Clients::Token => Err(unauthenticated(
                "this router answers clients with a token only: `graft ca token` issues them",
            )),
            None => Ok(()),
        }
    }

    /// Whether anything may be known of a model. A token for one that has several sizes is for all of them.
    pub fn may_see(&self, bearer: Option<&Bearer>, model: &Manifest) -> Result<(), Refused> {
        self.may_look(bearer)?;
        let allows = |claims: &Claims| {
            let all = model.size_of.as_deref();
            claims.allows(&model.name) || all.is_some_and(|all| claims.allows(all))
        };
        match bearer {
            Some(Bearer { claims, .. }) if !allows(claims) => {
                let what = format!("the token of {} is not for model {}", claims.sub, model.name);
                Err(Refused::new(Status::Forbidden, what))
            }
            _ => Ok(()),
        }
    }

    /// Whether a model may be asked for now.
    pub fn may_ask(&self, now: Nanos, bearer: Option<&Bearer>, model: &Manifest) -> Result<(), Refused> {
        self.may_see(bearer, model)?;
        let Some(Bearer { claims, .. }) = bearer else {
            return Ok(());
        };
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
