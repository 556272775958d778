//! The authority of a fleet: a directory with the key that signs its nodes' certificates.
//!
//! `authority.pem` holds key and certificate, `ca.pem` what nodes trust: the authority's certificate
//! first, then those of its forerunners that are still to be accepted.

use super::certificate::NODE_URI_PREFIX;
use super::identity::{AUTHORITY_FILE, IDENTITY_FILE, IdentityError, TRUST_FILE};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How long an authority's certificate is valid.
const AUTHORITY_DAYS: u64 = 3650;
/// Clocks of a fleet may differ by so much.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
/// Every node may be reached as these from its own host.
const OWN_HOSTS: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Bytes of a node's name that a certificate carries.
const MAX_NODE_NAME_BYTES: usize = 64;
/// Names and addresses of one node.
const MAX_HOSTS: usize = 64;
/// Certificates that nodes trust at a time: an authority and its forerunners.
const MAX_TRUSTED: usize = 8;

/// What a node's certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCertificate {
    /// The node's name.
    pub node: String,
    /// Names and addresses that others dial it as, besides those of its own host.
    pub hosts: Vec<String>,
    /// How long it is valid.
    pub days: u64,
}

/// Makes an authority in a directory that has none.
///
/// # Errors
/// There is one, or the directory cannot be written.
pub fn create(directory: &Path, name: &str) -> Result<(), IdentityError> {
    let path = directory.join(AUTHORITY_FILE);
    if path.exists() {
        return Err(IdentityError::Exists(path));
    }
    check_node_name(name)?;
    fs::create_dir_all(directory).map_err(IdentityError::io(directory))?;
    let (key_and_certificate, certificate) = new_authority(name)?;
    write(&path, &key_and_certificate, SECRET)?;
    write(&directory.join(TRUST_FILE), &certificate, PUBLIC)
}

/// Signs a node's identity and writes it, with what it trusts, into a directory of its own.
///
/// # Errors
/// A name that no certificate can carry, no authority, or a file that is there already, unless it is
/// to be replaced.
pub fn issue(
    authority: &Path,
    wanted: &NodeCertificate,
    into: &Path,
    replace: bool,
) -> Result<(), IdentityError> {
    check_node_name(&wanted.node)?;
    let path = into.join(IDENTITY_FILE);
    if path.exists() && !replace {
        return Err(IdentityError::Exists(path));
    }
    let bundle = read(&authority.join(AUTHORITY_FILE))?;
    let trusted = read(&authority.join(TRUST_FILE))?;
    let broken = IdentityError::certificate(&authority.join(AUTHORITY_FILE));
    let key = KeyPair::from_pem(&bundle).map_err(&broken)?;
    let certificate = bundle.find(PEM_BEGIN).map_or("", |begin| &bundle[begin..]);
    let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(&broken)?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&broken)?;
    let certificate = node_params(wanted)?.signed_by(&key, &issuer).map_err(&broken)?;
    fs::create_dir_all(into).map_err(IdentityError::io(into))?;
    // First what is trusted: a certificate that nobody trusts yet would be of no use.
    write(&into.join(TRUST_FILE), &trusted, PUBLIC)?;
    write(&path, &(key.serialize_pem() + &certificate.pem()), SECRET)
}

/// Gives the authority a new key. The certificates that it signed until now go on being trusted, by
/// those that get the new `ca.pem`.
///
/// # Errors
/// No authority, or its directory cannot be written.
pub fn rotate(directory: &Path, name: &str) -> Result<(), IdentityError> {
    check_node_name(name)?;
    let (path, trust) = (directory.join(AUTHORITY_FILE), directory.join(TRUST_FILE));
    read(&path)?;
    let trusted = read(&trust)?;
    let older = trusted.split_inclusive(PEM_END).filter(|part| part.contains(PEM_BEGIN));
    let (bundle, certificate) = new_authority(name)?;
    let newest: String = older.take(MAX_TRUSTED - 1).map(str::trim_start).collect();
    // Trusted before it signs anything.
    write(&trust, &(certificate + newest.trim_end() + "\n"), PUBLIC)?;
    write(&path, &bundle, SECRET)
}

/// Key and certificate together, and the certificate alone.
fn new_authority(name: &str) -> Result<(String, String), IdentityError> {
    let failed = IdentityError::certificate(Path::new(AUTHORITY_FILE));
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&failed)?;
    let mut params = CertificateParams::default();
    // Authorities of one name are told apart by their keys.
    let id = ring::digest::digest(&ring::digest::SHA256, key.public_key_raw());
    let id: String = id.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = common_name(&format!("{name} authority {id}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, AUTHORITY_DAYS);
    let certificate = params.self_signed(&key).map_err(&failed)?.pem();
    Ok((key.serialize_pem() + &certificate, certificate))
}

fn node_params(wanted: &NodeCertificate) -> Result<CertificateParams, IdentityError> {
    if wanted.hosts.len() > MAX_HOSTS {
        return Err(IdentityError::Hosts(wanted.hosts.len(), MAX_HOSTS));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&wanted.node);
    let bad = |host: &str| IdentityError::Host(host.chars().take(256).collect());
    let uri = format!("{NODE_URI_PREFIX}{}", wanted.node);
    let uri = SanType::URI(uri.try_into().map_err(|_| IdentityError::Name(wanted.node.clone()))?);
    params.subject_alt_names.push(uri);
    let extra = OWN_HOSTS.iter().filter(|own| !wanted.hosts.iter().any(|host| host == *own));
    for host in wanted.hosts.iter().map(String::as_str).chain(extra.copied()) {
        let name = match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if is_dns_name(host) => {
                SanType::DnsName(host.try_into().map_err(|_| bad(host))?)
            }
            Err(_) => return Err(bad(host)),
        };
        params.subject_alt_names.push(name);
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // Each node dials and is dialed.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, wanted.days);
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn set_validity(params: &mut CertificateParams, days: u64) {
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + Duration::from_secs(days.min(AUTHORITY_DAYS) * 86_400)).into();
}

fn is_dns_name(host: &str) -> bool {
    rustls::pki_types::DnsName::try_from(host).is_ok()
}

/// Letters, digits, `.`, `_` and `-`: what a URI carries without escapes.
fn check_node_name(name: &str) -> Result<(), IdentityError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    match !name.is_empty() && name.len() <= MAX_NODE_NAME_BYTES && name.bytes().all(is_plain) {
        true => Ok(()),
        false => Err(IdentityError::Name(name.chars().take(MAX_NODE_NAME_BYTES).collect())),
    }
}

const PEM_BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const PEM_END: &str = "-----END CERTIFICATE-----";
const SECRET: u32 = 0o600;
const PUBLIC: u32 = 0o644;

fn read(path: &Path) -> Result<String, IdentityError> {
    fs::read_to_string(path).map_err(IdentityError::io(path))
}

/// Writes a file whole or not at all.
fn write(path: &Path, content: &str, mode: u32) -> Result<(), IdentityError> {
    let temporary = path.with_extension("new");
    let replace = || -> io::Result<()> {
        // What a writer that was killed has left may have another mode.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    };
    replace().map_err(IdentityError::io(path))
}
