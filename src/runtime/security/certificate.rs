//! What a certificate says of a node: its name, the hosts that it may be dialed as, its dates.

use rustls::pki_types::CertificateDer;
use std::net::IpAddr;
use webpki::EndEntityCert;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The kind of URI among a certificate's alternative names that carries the node's name.
pub const NODE_URI_PREFIX: &str = "dwcp:node:";

/// The name of a certificate's node, if it has one. `CertificateFacts` tell it too; but reading them
/// leaves tables in the process that outlive the library in a host which unloads it.
///
/// # Errors
/// What is wrong with the certificate.
pub fn node_name(certificate: &CertificateDer<'_>) -> Result<Option<String>, String> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|error| error.to_string())?;
    let node = parsed.valid_uri_names().find_map(|uri| uri.strip_prefix(NODE_URI_PREFIX));
    Ok(node.map(str::to_owned))
}

/// Of one certificate.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CertificateFacts {
    /// The node's name; none in an authority's.
    pub node: Option<String>,
    /// Names and addresses that it may be dialed as.
    pub hosts: Vec<String>,
    /// Who it is about.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// SHA-256 of the certificate, in hexadecimal.
    pub fingerprint: String,
    /// Seconds since 1970 from which on it is valid.
    pub not_before_s: i64,
    /// Seconds since 1970 until which it is valid.
    pub not_after_s: i64,
}

/// A certificate with fewer days left is to be told of, while there is time.
pub const EXPIRY_NOTICE_DAYS: i64 = 30;

impl CertificateFacts {
    /// Whole days for which it is still valid; below 0 when it no longer is.
    pub fn days_left(&self, now_s: u64) -> i64 {
        (self.not_after_s - now_s.try_into().unwrap_or(i64::MAX)).div_euclid(86_400)
    }

    /// Reads a certificate.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let names = parsed.subject_alternative_name().map_err(|error| error.to_string())?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let node = names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(NODE_URI_PREFIX).map(str::to_owned),
            _ => None,
        });
        let fingerprint = ring::digest::digest(&ring::digest::SHA256, certificate);
        Ok(Self {
            node,
            hosts: names.iter().filter_map(host).collect(),
            subject: parsed.subject().to_string(),
            issuer: parsed.issuer().to_string(),
            fingerprint: fingerprint.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before_s: parsed.validity().not_before.timestamp(),
            not_after_s: parsed.validity().not_after.timestamp(),
        })
    }
}

fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}
