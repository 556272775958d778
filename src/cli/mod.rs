//! L5: the command lines as library functions; `src/bin` holds three-line mains.

use std::process::ExitCode;

/// Runs `dwcpd`.
pub fn daemon_main() -> ExitCode {
    ExitCode::FAILURE
}

/// Runs `dwcp-v3-cli`.
pub fn operator_main() -> ExitCode {
    ExitCode::FAILURE
}
