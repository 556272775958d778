//! The fleet of a trial: an authority of its own, which nobody else trusts, and its nodes' identities.

use super::TrialError;
use crate::runtime::security::authority::{self, NodeCertificate};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where the authority and the identities are, unless connections are to be plain.
#[derive(Clone, Debug)]
pub struct Fleet(Option<PathBuf>);

impl Fleet {
    /// An authority below this directory, and no identity yet.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn found(directory: &Path, is_plain: bool) -> Result<Self, TrialError> {
        if is_plain {
            return Ok(Self(None));
        }
        let directory = directory.join("fleet");
        authority::create(&directory, "trial")?;
        Ok(Self(Some(directory)))
    }

    /// Gives a node that is dialed at `address` its identity, and says where that is.
    ///
    /// # Errors
    /// It has one already, or its directory cannot be written.
    pub fn issue(&self, node: &str, address: IpAddr) -> Result<Option<PathBuf>, TrialError> {
        let Some(directory) = &self.0 else { return Ok(None) };
        let identity = directory.join(node);
        let hosts = vec![address.to_string()];
        let wanted = NodeCertificate { node: node.to_owned(), hosts, days: DAYS };
        authority::issue(directory, &wanted, &identity, false)?;
        Ok(Some(identity))
    }
}

/// Longer than any trial.
const DAYS: u64 = 3650;
