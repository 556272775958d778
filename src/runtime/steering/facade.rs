//! What a node offers of steering.

use crate::transport::PathOptions;
use crate::{Node, NodeError};

impl Node {
    /// Sets what holds for the paths of all migrations that leave this node. Takes hold at once, for
    /// migrations under way too; source addresses with the next one.
    ///
    /// # Errors
    /// A value is out of range; what held before holds on.
    pub fn set_paths(&self, options: PathOptions) -> Result<(), NodeError> {
        options.validate()?;
        self.steering().set_options(options);
        Ok(())
    }

    /// What holds for the paths of all migrations that leave this node.
    pub fn paths(&self) -> PathOptions {
        self.steering().options()
    }
}
