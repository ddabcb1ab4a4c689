//! Tokens of clients: who asks, until when, which models and how often. JSON Web Tokens (RFC 7519), signed by the site's
//! authority with ES256 (RFC 7518, section 3.4).

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::identity::{Identity, IdentityError};

/// Who may use a token.
const AUDIENCE: &str = "graft-router";
/// Length of a token at most, in bytes.
const MOST_BYTES: usize = 4096;
/// Length of a client's name at most, in bytes.
const MOST_NAME: usize = 128;

/// What a token says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The client's name.
    pub sub: String,
    /// For whom it is: routers.
    pub aud: String,
    /// Time from which on it is no longer valid, in seconds since 1970.
    pub exp: u64,
    /// Names of the models that may be asked for; without it: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub models: Option<Vec<String>>,
    /// Requests a second at most; without it: no bound of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rps: Option<f64>,
}

/// A token that is not taken, or can't be issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Its claims don't do.
    #[error("{0}")]
    Claims(String),
    /// It is none of this authority, was changed, or is over.
    #[error("the token is not taken: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    /// The authority's files can't be used.
    #[error(transparent)]
    Authority(#[from] IdentityError),
}

impl Claims {
    /// For a client, from now on.
    pub fn new(
        client: &str,
        valid: Duration,
        models: Option<Vec<String>>,
        rps: Option<f64>,
    ) -> Result<Self, TokenError> {
        let claims = Claims {
            sub: client.to_owned(),
            aud: AUDIENCE.to_owned(),
            exp: unix_s() + valid.as_secs(),
            models,
            rps,
        };
        claims.check()?;
        Ok(claims)
    }

    fn check(&self) -> Result<(), TokenError> {
        let wrong = |what: &str| Err(TokenError::Claims(what.to_owned()));
        if self.sub.is_empty() || self.sub.len() > MOST_NAME {
            return wrong("a client's name has 1 to 128 bytes");
        }
        if self.rps.is_some_and(|rps| !(rps > 0.0 && rps <= 1e6)) {
            return wrong("a client's rate is above 0, and 1e6 requests a second at most");
        }
        Ok(())
    }

    /// It is over.
    pub fn is_over(&self) -> bool {
        unix_s() >= self.exp
    }

    /// Whether a model may be asked for.
    pub fn allows(&self, model: &str) -> bool {
        let models = self.models.as_ref();
        models.is_none_or(|models| models.iter().any(|m| m == model))
    }
}

/// Seconds since 1970.
fn unix_s() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |d| d.as_secs())
}

/// Signs a token with the authority's key (PEM).
pub fn issue_token(key: &Path, claims: &Claims) -> Result<String, TokenError> {
    let pem = PrivateKeyDer::from_pem_file(key).map_err(|e| IdentityError::unread(key, &e))?;
    let key = EncodingKey::from_ec_der(pem.secret_der());
    Ok(encode(&Header::new(Algorithm::ES256), claims, &key)?)
}

/// What holds tokens against the authority.
#[derive(Clone)]
pub struct Tokens {
    keys: Vec<DecodingKey>,
    rules: Validation,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("keys", &self.keys.len()).finish()
    }
}

impl Tokens {
    /// Tokens of the authorities that an identity trusts.
    pub fn of(identity: &Identity) -> Self {
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_audience(&[AUDIENCE]);
        rules.set_required_spec_claims(&["exp", "aud", "sub"]);
        // Clocks of routers and of whoever issues tokens differ by less.
        rules.leeway = 0;
        Tokens {
            keys: identity.roots.iter().filter_map(public_key).collect(),
            rules,
        }
    }

    /// What a token says, if it is one of the authority's and not over.
    pub fn read(&self, token: &str) -> Result<Claims, TokenError> {
        if token.len() > MOST_BYTES {
            let what = format!(
                "the token has {} bytes; tokens have {MOST_BYTES} at most",
                token.len()
            );
            return Err(TokenError::Claims(what));
        }
        let mut why =
            TokenError::Claims("the site's authority has no key that tokens can be held against".to_owned());
        for key in &self.keys {
            match decode::<Claims>(token, key, &self.rules) {
                Ok(read) => {
                    read.claims.check()?;
                    return Ok(read.claims);
                }
                Err(error) => why = error.into(),
            }
        }
        Err(why)
    }
}

/// The point of an elliptic key.
fn public_key(certificate: &CertificateDer<'static>) -> Option<DecodingKey> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let point = &parsed.public_key().subject_public_key.data;
    Some(DecodingKey::from_ec_der(point))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Authority, Role};

    #[test]
    fn tokens_are_held_against_the_authority_and_the_clock() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("ca.key");
        let authority = Authority::new().unwrap();
        std::fs::write(&key, authority.key_pem()).unwrap();
        let tokens = Tokens::of(&authority.issue(Role::Router, &[]).unwrap());
        let hour = Duration::from_secs(3600);
        let models = Some(vec!["a".to_owned()]);
        let claims = Claims::new("phone-7", hour, models, Some(5.0)).unwrap();
        let token = issue_token(&key, &claims).unwrap();
        assert_eq!(tokens.read(&token).unwrap(), claims);
        assert!(claims.allows("a") && !claims.allows("b"));

        let over = Claims {
            exp: unix_s() - 1,
            ..claims.clone()
        };
        assert!(tokens.read(&issue_token(&key, &over).unwrap()).is_err());
        let elsewhere = Claims {
            aud: "another".to_owned(),
            ..claims.clone()
        };
        assert!(tokens.read(&issue_token(&key, &elsewhere).unwrap()).is_err());
        let other = Tokens::of(&Authority::new().unwrap().issue(Role::Router, &[]).unwrap());
        assert!(other.read(&token).is_err());
        // Not signed at all, signed by what the reader is told to trust, cut off, too long.
        let unsigned =
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIiwiYXVkIjoiZ3JhZnQtcm91dGVyIiwiZXhwIjo5OTk5OTk5OTk5fQ.";
        let mut changed = token.clone().into_bytes();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        let changed = String::from_utf8(changed).unwrap();
        for bad in [
            unsigned,
            changed.as_str(),
            &token[..token.len() - 4],
            "",
            &"a".repeat(5000),
        ] {
            assert!(tokens.read(bad).is_err(), "{bad:.40}");
        }
        for (name, rps) in [("", None), ("a", Some(0.0)), ("a", Some(f64::NAN))] {
            assert!(Claims::new(name, hour, None, rps).is_err());
        }
    }
}
