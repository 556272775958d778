//! A node's identity: the directory with its key, its certificate and the authorities that it trusts.

use super::certificate::{CertificateFacts, node_name};
use crate::Status;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Key and certificate of a node.
pub const IDENTITY_FILE: &str = "node.pem";
/// Key and certificate of an authority.
pub const AUTHORITY_FILE: &str = "authority.pem";
/// What is trusted.
pub const TRUST_FILE: &str = "ca.pem";
/// The one protocol that is spoken over TLS.
pub const PROTOCOL: &[u8] = b"dwcp/3";

/// An identity cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file or directory.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is something that must not be lost.
    #[error("{path} exists already", path = .0.display())]
    Exists(PathBuf),
    /// No certificate can carry this node's name.
    #[error("node name {0:?} is not 1 to 64 letters, digits, '.', '_' and '-'")]
    Name(String),
    /// No certificate can carry this host.
    #[error("host {0:?} is neither an address nor a DNS name")]
    Host(String),
    /// More names and addresses than a certificate should have.
    #[error("{0} hosts are more than {1}")]
    Hosts(usize, usize),
    /// A file does not hold what it should.
    #[error("{path}: {reason}", path = path.display())]
    Certificate {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Others may read the key.
    #[error("{path} holds a key and has mode {mode:o}; chmod 600 it", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl IdentityError {
    /// The code.
    pub fn status(&self) -> Status {
        match self {
            Self::Io { .. } => Status::Io,
            Self::Exists(_) => Status::AlreadyExists,
            Self::Name(_) | Self::Host(_) | Self::Hosts(..) => Status::InvalidArgument,
            Self::Certificate { .. } | Self::Exposed { .. } => Status::Config,
        }
    }

    /// For errors of files.
    pub fn io(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::Io { path: path.clone(), source }
    }

    /// For what is wrong in a file.
    pub fn certificate<E: ToString>(path: &Path) -> impl Fn(E) -> Self + use<E> {
        let path = path.to_path_buf();
        move |reason| Self::Certificate { path: path.clone(), reason: reason.to_string() }
    }
}

/// A node's identity, ready to be used on either side of a connection.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The node's name.
    pub node: String,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// To dial with.
    pub client: Arc<ClientConfig>,
    /// To accept with.
    pub server: Arc<ServerConfig>,
}

/// What is in an identity's or an authority's directory, for people.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Shown {
    /// The node's certificate; none in an authority's directory.
    pub node: Option<CertificateFacts>,
    /// Trusted authorities, the current one first.
    pub trusted: Vec<CertificateFacts>,
}

impl Identity {
    /// Reads the identity in `directory`.
    ///
    /// # Errors
    /// A file is missing, readable by others, or does not hold what it should.
    pub fn load(directory: &Path) -> Result<Self, IdentityError> {
        let path = directory.join(IDENTITY_FILE);
        check_mode(&path)?;
        let broken = IdentityError::certificate(&path);
        let chain = certificates(&path)?;
        let key = || PrivateKeyDer::from_pem_file(&path).map_err(|error| broken(error.to_string()));
        let leaf = chain.first().ok_or_else(|| broken("no certificate".to_owned()))?;
        let certificate = leaf.clone();
        let no_name = || broken("the certificate has no node's name".to_owned());
        let node = node_name(leaf).map_err(&broken)?.ok_or_else(no_name)?;
        let roots = Arc::new(roots(&directory.join(TRUST_FILE))?);
        let provider = Arc::new(provider());
        let failed = |error: rustls::Error| broken(error.to_string());
        let client = client(&provider, roots.clone(), chain.clone(), key()?).map_err(&failed)?;
        let server = server(&provider, roots, chain, key()?).map_err(&failed)?;
        Ok(Self { node, certificate, client: Arc::new(client), server: Arc::new(server) })
    }
}

/// Reads what is in a directory without using it.
///
/// # Errors
/// A file is missing or does not hold what it should.
pub fn show(directory: &Path) -> Result<Shown, IdentityError> {
    let facts = |path: &Path| -> Result<Vec<CertificateFacts>, IdentityError> {
        let broken = IdentityError::certificate(path);
        certificates(path)?.iter().map(|one| CertificateFacts::read(one).map_err(&broken)).collect()
    };
    let path = directory.join(IDENTITY_FILE);
    let node = if path.exists() { facts(&path)?.into_iter().next() } else { None };
    Ok(Shown { node, trusted: facts(&directory.join(TRUST_FILE))? })
}

/// The shorter key first, where rustls puts the longer: both are out of reach, and a fifth of the time that a
/// fast link's cipher takes lies between them.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    provider
}

fn client(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig, rustls::Error> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Whoever rotates an identity wants the old one to end with its connections.
    config.resumption = rustls::client::Resumption::disabled();
    config.enable_secret_extraction = true;
    Ok(config)
}

fn server(
    provider: &Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.enable_secret_extraction = true;
    Ok(config)
}

fn roots(path: &Path) -> Result<RootCertStore, IdentityError> {
    let broken = IdentityError::certificate(path);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(&broken)?;
    }
    match roots.is_empty() {
        true => Err(broken(rustls::Error::General("no certificate".into()))),
        false => Ok(roots),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let text = fs::read(path).map_err(IdentityError::io(path))?;
    CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(IdentityError::certificate(path))
}

fn check_mode(path: &Path) -> Result<(), IdentityError> {
    let mode = fs::metadata(path).map_err(IdentityError::io(path))?.mode() & 0o7777;
    match mode & 0o077 {
        0 => Ok(()),
        _ => Err(IdentityError::Exposed { path: path.to_path_buf(), mode }),
    }
}
