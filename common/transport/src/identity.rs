//! The identity of a part: certificates, keys, and the authority that issues them.
//!
//! A certificate names its bearer's role as a DNS name `ROLE.graft.internal`: who connects to a part asks
//! for that name, and a part that is connected to looks for it in the caller's certificate.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Role of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Ends client connections.
    Router,
    /// Makes plans.
    Planner,
    /// Runs stages.
    Worker,
}

impl Role {
    /// The name that certificates carry.
    pub fn server_name(self) -> &'static str {
        match self {
            Role::Router => "router.graft.internal",
            Role::Planner => "planner.graft.internal",
            Role::Worker => "worker.graft.internal",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.server_name().split('.').next().unwrap_or_default())
    }
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        match text {
            "router" => Ok(Role::Router),
            "planner" => Ok(Role::Planner),
            "worker" => Ok(Role::Worker),
            other => Err(UnknownRole(other.to_owned())),
        }
    }
}

/// A word that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no role: use router, planner or worker")]
pub struct UnknownRole(String);

/// A certificate, key or authority that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file can't be read.
    #[error("{file}: {cause} (expected a PEM file, as `graft ca` writes them)")]
    File {
        /// The file.
        file: String,
        /// Why.
        cause: String,
    },
    /// A name that is not to be had beside a role.
    #[error(
        "a certificate for {0:?} is not issued: expected a host name or an address, no wildcard, and none of Graft's own (*.graft.internal), which are given by the role"
    )]
    Name(String),
    /// A name that no part can be bound to.
    #[error(
        "{0:?} is no part's name that a certificate can be bound to: expected 1 to 63 small letters, digits and hyphens"
    )]
    Part(String),
    /// An authority's key is another's.
    #[error("{} is not the key of {}: what it signs is taken nowhere", key.display(), certificate.display())]
    NotTheKey {
        /// The authority's certificate.
        certificate: PathBuf,
        /// The key beside it.
        key: PathBuf,
    },
    /// A certificate can't be made.
    #[error("certificate can't be made: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS refuses the certificate or key.
    #[error("certificate or key can't be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl IdentityError {
    /// A file that is no PEM file with what is looked for.
    pub(crate) fn unread(file: &Path, cause: &dyn fmt::Display) -> Self {
        IdentityError::File {
            file: file.display().to_string(),
            cause: cause.to_string(),
        }
    }
}

/// Domain of the roles' names.
const OWN_DOMAIN: &str = "graft.internal";

/// A part's certificate and key, and the authority that it trusts.
#[derive(Debug, Clone)]
pub struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<PrivateKeyDer<'static>>,
    pub(crate) roots: Vec<CertificateDer<'static>>,
    /// Where it was read: certificate, key, authority.
    files: Option<Arc<[PathBuf; 3]>>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        (&self.chain, &self.key, &self.roots) == (&other.chain, &other.key, &other.roots)
    }
}

impl Identity {
    /// Reads an identity from PEM files.
    pub fn read(certificate: &Path, key: &Path, authority: &Path) -> Result<Self, IdentityError> {
        let (chain, roots) = (read_certificates(certificate)?, read_certificates(authority)?);
        let own = PrivateKeyDer::from_pem_file(key).map_err(|e| IdentityError::unread(key, &e))?;
        let identity = Identity {
            chain,
            key: Arc::new(own),
            roots,
            files: Some(Arc::new([certificate, key, authority].map(Path::to_owned))),
        };
        identity.check(certificate, key)?;
        Ok(identity)
    }

    /// Whether it trusts the same authorities.
    pub fn trusts_the_same(&self, other: &Identity) -> bool {
        self.roots == other.roots
    }

    /// Reads its files again. `None`: it was not read from files.
    pub fn read_again(&self) -> Result<Option<Self>, IdentityError> {
        let Some([certificate, key, authority]) = self.files.as_deref() else {
            return Ok(None);
        };
        Identity::read(certificate, key, authority).map(Some)
    }

    /// The key is the certificate's.
    fn check(&self, certificate: &Path, key: &Path) -> Result<(), IdentityError> {
        let unfit = |cause: String| IdentityError::unread(key, &cause);
        let signing = rustls::crypto::ring::sign::any_supported_type(&self.key)
            .map_err(|e| unfit(format!("it is no key that can be used: {e}")))?;
        let certified = rustls::sign::CertifiedKey::new(self.chain.clone(), signing);
        certified.keys_match().map_err(|_| {
            let certificate = certificate.display();
            unfit(format!(
                "it is not the key of {certificate}: name the two that were issued together"
            ))
        })
    }

    /// Time at which its certificate is over, in seconds since 1970. `None`: it can't be read.
    pub fn not_after(&self) -> Option<i64> {
        let (_, parsed) = X509Certificate::from_der(self.chain.first()?).ok()?;
        Some(parsed.validity().not_after.timestamp())
    }
}

/// Certificates of a PEM text; at least one.
pub(crate) fn certificates_of(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let error =
        |cause: &dyn fmt::Display| IdentityError::unread(Path::new("the certificate in memory"), cause);
    let list: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| error(&e))?;
    match list.is_empty() {
        true => Err(error(&"it holds no certificate")),
        false => Ok(list),
    }
}

/// Certificates of a PEM file; at least one.
pub(crate) fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let error = |cause: &dyn fmt::Display| IdentityError::unread(file, cause);
    let list: Vec<_> = CertificateDer::pem_file_iter(file)
        .map_err(|e| error(&e))?
        .collect::<Result<_, _>>()
        .map_err(|e| error(&e))?;
    if list.is_empty() {
        let is_key = PrivateKeyDer::from_pem_file(file).is_ok();
        return Err(error(match is_key {
            true => &"it holds a key where a certificate is expected: are the two mixed up?",
            false => &"it holds no certificate",
        }));
    }
    Ok(list)
}

/// Issues certificates.
pub struct Authority {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    key_pem: String,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// Time for which certificates of parts are valid unless something else is asked for: 825 days.
pub const VALID: Duration = Duration::from_secs(825 * 86_400);

impl Authority {
    /// A new authority. Whoever has its key can become any part.
    pub fn new() -> Result<Self, IdentityError> {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Graft authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let key_pem = key.serialize_pem();
        let certificate = params.self_signed(&key)?;
        Ok(Authority {
            certificate_pem: certificate.pem(),
            certificate: certificate.der().clone(),
            issuer: Issuer::new(params, key),
            key_pem,
        })
    }

    /// Reads an authority from PEM files that [`Authority::write`] wrote.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, IdentityError> {
        let text = |file: &Path| std::fs::read_to_string(file).map_err(|e| IdentityError::unread(file, &e));
        let (certificate_pem, key_pem) = (text(certificate)?, text(key)?);
        let pair = KeyPair::from_pem(&key_pem)?;
        let der = read_certificates(certificate)?.remove(0);
        // Nothing else would notice until parts refuse one another.
        let of_certificate = X509Certificate::from_der(&der).ok();
        let of_certificate =
            of_certificate.map(|(_, parsed)| parsed.public_key().subject_public_key.data.to_vec());
        if of_certificate.as_deref() != Some(pair.public_key_raw()) {
            return Err(IdentityError::NotTheKey {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            });
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, pair)?;
        Ok(Authority {
            certificate_pem,
            certificate: der,
            issuer,
            key_pem,
        })
    }

    /// Its certificate, for everyone.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Its key, for nobody else.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A certificate and key in PEM for a part; `part`: the only name under which it may join, if it is bound to one; `names` are
    /// host names and addresses that clients use.
    pub fn issue_pem(
        &self,
        role: Role,
        part: Option<&str>,
        names: &[String],
        valid: Duration,
    ) -> Result<(String, String), IdentityError> {
        let (certificate, key) = self.make(role, part, names, valid)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// An identity in memory for a part.
    pub fn issue(&self, role: Role, names: &[String]) -> Result<Identity, IdentityError> {
        let (certificate, key) = self.make(role, None, names, VALID)?;
        let key = PrivateKeyDer::try_from(key.serialize_der())
            .map_err(|e| IdentityError::unread(Path::new("in memory"), &e))?;
        Ok(Identity {
            chain: vec![certificate.der().clone()],
            key: Arc::new(key),
            roots: vec![self.certificate.clone()],
            files: None,
        })
    }

    fn make(
        &self,
        role: Role,
        part: Option<&str>,
        names: &[String],
        valid: Duration,
    ) -> Result<(rcgen::Certificate, KeyPair), IdentityError> {
        if let Some(name) = names.iter().find(|name| !may_be_issued(name)) {
            return Err(IdentityError::Name(name.clone()));
        }
        let mut all = vec![role.server_name().to_owned()];
        if let Some(part) = part {
            all.push(bound_name(role, part).ok_or_else(|| IdentityError::Part(part.to_owned()))?);
        }
        all.extend_from_slice(names);
        let mut params = CertificateParams::new(all)?;
        params
            .distinguished_name
            .push(DnType::CommonName, role.to_string());
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let now = std::time::SystemTime::now();
        params.not_before = (now - Duration::from_secs(3600)).into();
        params.not_after = (now + valid).into();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok((certificate, key))
    }
}

/// Whether a name may stand in a certificate beside its role's.
fn may_be_issued(name: &str) -> bool {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let own = name == OWN_DOMAIN || name.ends_with(&format!(".{OWN_DOMAIN}"));
    !name.is_empty() && !name.contains('*') && !own
}

/// What a certificate carries that is bound to a part's name.
fn bound_name(role: Role, part: &str) -> Option<String> {
    // One spelling: certificates know no case, and names of members do.
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = (1..=63).contains(&part.len())
        && part.chars().all(plain)
        && !part.starts_with('-')
        && !part.ends_with('-');
    fits.then(|| format!("{part}.{}", role.server_name()))
}

/// Whether the bearer of a verified certificate may call itself so: its certificate is bound to this name, or to none.
pub(crate) fn may_be_called(certificate: &CertificateDer<'_>, role: Role, part: &str) -> bool {
    let Ok(end) = webpki::EndEntityCert::try_from(certificate) else {
        return false;
    };
    let suffix = format!(".{}", role.server_name());
    let mut bound = end
        .valid_dns_names()
        .filter(|name| name.ends_with(&suffix))
        .peekable();
    bound.peek().is_none() || {
        let own = bound_name(role, part);
        bound.any(|name| Some(name) == own.as_deref())
    }
}

/// Whether a verified certificate carries a role's name.
pub(crate) fn bears(certificate: &CertificateDer<'_>, role: Role) -> bool {
    let Ok(end) = webpki::EndEntityCert::try_from(certificate) else {
        return false;
    };
    // The very name: a wildcard carries no role.
    end.valid_dns_names().any(|name| name == role.server_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_bound_to_a_name_allows_no_other() {
        let authority = Authority::new().unwrap();
        let first = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let bound = first(
            &authority
                .issue_pem(Role::Worker, Some("gpu-7"), &[], VALID)
                .unwrap()
                .0,
        );
        assert!(bears(&bound, Role::Worker));
        assert!(
            may_be_called(&bound, Role::Worker, "gpu-7") && !may_be_called(&bound, Role::Worker, "GPU-7")
        );
        assert!(!may_be_called(&bound, Role::Worker, "gpu-8") && !may_be_called(&bound, Role::Worker, ""));
        let free = first(
            &authority
                .issue_pem(Role::Worker, None, &["host.example".to_owned()], VALID)
                .unwrap()
                .0,
        );
        assert!(may_be_called(&free, Role::Worker, "any name at all"));
        for part in ["", "a.b", "*", "-a", "a b"] {
            let refused = authority.issue_pem(Role::Worker, Some(part), &[], VALID);
            assert!(matches!(refused, Err(IdentityError::Part(_))), "{part:?}");
        }
    }

    #[test]
    fn a_key_and_a_certificate_that_are_mixed_up_or_do_not_belong_together_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new().unwrap();
        let write = |name: &str, text: &str| {
            let file = folder.path().join(name);
            std::fs::write(&file, text).unwrap();
            file
        };
        let (certificate, key) = authority.issue_pem(Role::Worker, None, &[], VALID).unwrap();
        let (_, other) = authority.issue_pem(Role::Worker, None, &[], VALID).unwrap();
        let ca = write("ca.pem", authority.certificate_pem());
        let (certificate, key, other) = (
            write("a.pem", &certificate),
            write("a.key", &key),
            write("b.key", &other),
        );
        assert!(
            Identity::read(&certificate, &key, &ca)
                .unwrap()
                .not_after()
                .is_some()
        );
        let told = |c: &Path, k: &Path| Identity::read(c, k, &ca).unwrap_err().to_string();
        assert!(
            told(&key, &certificate).contains("mixed up"),
            "{}",
            told(&key, &certificate)
        );
        assert!(
            told(&certificate, &other).contains("a.pem"),
            "{}",
            told(&certificate, &other)
        );
    }

    #[test]
    fn names_of_roles_and_wildcards_are_issued_to_nobody() {
        let authority = Authority::new().unwrap();
        let own = [
            "planner.graft.internal",
            "*.graft.internal",
            "Graft.Internal.",
            "*.example",
            "",
        ];
        for name in own {
            let refused = authority.issue_pem(Role::Worker, None, &[name.to_owned()], VALID);
            assert!(matches!(refused, Err(IdentityError::Name(_))), "{name:?}");
        }
        let names = ["serve.example".to_owned(), "10.0.0.7".to_owned()];
        let identity = authority.issue(Role::Router, &names).unwrap();
        assert!(bears(&identity.chain[0], Role::Router));
        assert!(!bears(&identity.chain[0], Role::Planner));
    }
}
