//! L5: the command lines as library functions; `src/bin` holds three-line mains.

mod args;
mod client;
mod commands;
mod daemon;
mod error;
mod notify;
mod output;
mod plot;
mod rollout_plot;
mod signals;
mod trial;

use args::{Command, Operator};
use clap::Parser;
use error::CliError;
use output::Output;
use std::ffi::OsString;
use std::process::ExitCode;

/// Runs `dwcpd`.
pub fn daemon_main() -> ExitCode {
    daemon::main(std::env::args_os().collect())
}

/// Runs `dwcp-v3-cli`.
pub fn operator_main() -> ExitCode {
    let code = run_operator(std::env::args_os().collect());
    ExitCode::from(u8::try_from(code).unwrap_or(error::FAILED))
}

/// Runs one operator command, program name first, and gives the exit code.
///
/// Codes: 0 done; 1 refused; 2 wrong usage; 3 no daemon; 4 the migration failed and the guest runs
/// at its source; 5 only the destination can tell who has the guest; 6 cancelled; 130 interrupted.
pub fn run_operator(args: Vec<OsString>) -> i32 {
    let operator = match Operator::try_parse_from(&args) {
        Ok(operator) => operator,
        Err(error) if error.exit_code() != 0 && asks_for_json(&args) => {
            let error_code = error.exit_code();
            let text = error.render().to_string();
            // The usage that follows is for people.
            let told = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
            // As above.
            let _ = Output::new(true).value(&CliError::Argument(told).to_json());
            return error_code;
        }
        Err(error) => {
            // Without a terminal or pipe to print to, the exit code still tells.
            let _ = error.print();
            return error.exit_code();
        }
    };
    let output = Output::new(operator.json);
    let code = run(operator, &output).unwrap_or_else(|error| output.failed(&error));
    i32::from(code)
}

/// Whether errors are to be JSON, of arguments that could not be read as a whole.
fn asks_for_json(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "--json")
}

fn run(operator: Operator, output: &Output) -> Result<u8, CliError> {
    if let Command::Generate(what) = &operator.command {
        return commands::generate::run(what, output);
    }
    if let Command::TrialNode(options) = &operator.command {
        return trial::node::run(options);
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(CliError::Runtime)?;
    let client = client::Client::new(operator.socket);
    runtime.block_on(commands::run(operator.command, &client, output))
}
