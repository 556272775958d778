//! A node's state as a document: written for a downgrade or a new disk, and taken in again, whole or refused.
//!
//! ```text
//! compare -> import.begun on disk -> ownership records added, configuration written beside its file
//!         -> import.committed       <- from here on it is carried through, also after a crash
//!         -> flags changed by the one door, configuration put in force, modes forced -> import.last
//! ```
//! What goes wrong in between is taken back. A node that starts and finds `import.begun` takes back what
//! is there; one that finds `import.committed` carries it through. `import.last` is what was imported last.

mod error;
mod export;
mod import;
mod intention;
mod plan;

pub use error::StateError;
pub use export::Exported;
pub use import::{ImportOptions, Imported};

pub(crate) use import::{carry_through, recover};

use crate::Node;
use crate::config::ConfigStore;

impl Node {
    /// All that this node would lose with its state directory and its configuration, as a document, and
    /// its flags as far as v1 can read them. Waits for the disk.
    ///
    /// # Errors
    /// The records cannot be read, or there is more than a document holds.
    pub fn export_state(&self, config: Option<&ConfigStore>) -> Result<Exported, StateError> {
        export::export(self, config)
    }

    /// Takes a document in, or v1's flags: whole, as one change of the flags by `who` and with a reason,
    /// or nothing of it. Ownership records are only added where nothing is written down about the guest, and
    /// only on the node that wrote them; a kill switch that is on stays on. Waits for the disk.
    ///
    /// # Errors
    /// [`StateError`]; all is as before.
    pub fn import_state(
        &self,
        document: &[u8],
        config: Option<&ConfigStore>,
        options: &ImportOptions,
    ) -> Result<Imported, StateError> {
        import::import(self, document, config, options)
    }
}

#[cfg(test)]
mod tests;
