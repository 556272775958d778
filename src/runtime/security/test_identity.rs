//! An identity for tests of one module, whose files go away with it.

use super::authority::{self, NodeCertificate};
use super::identity::Identity;
use rustls::{ClientConfig, ServerConfig};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

/// A node of a fleet of its own.
pub struct TestIdentity {
    directory: PathBuf,
    identity: Identity,
}

impl TestIdentity {
    /// `name` tells it from those of other tests.
    pub fn new(name: &str) -> Self {
        let process = std::process::id();
        let directory = std::env::temp_dir().join(format!("dwcp-identity-{name}-{process}"));
        let _ = fs::remove_dir_all(&directory);
        authority::create(&directory, "fleet").unwrap();
        let hosts = vec!["127.0.0.1".to_owned()];
        let wanted = NodeCertificate { node: "node".to_owned(), hosts, days: 1 };
        let files = directory.join("node");
        authority::issue(&directory, &wanted, &files, false).unwrap();
        Self { identity: Identity::load(&files).unwrap(), directory }
    }

    /// To dial with.
    pub fn client(&self) -> Arc<ClientConfig> {
        self.identity.client.clone()
    }

    /// To accept with.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.identity.server.clone()
    }
}

impl Drop for TestIdentity {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}
