//! `generate`: man pages and completions, made from the command tree itself.

use crate::cli::args::{Generate, Operator};
use crate::cli::error::CliError;
use crate::cli::output::Output;
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

pub fn run(what: &Generate, output: &Output) -> Result<u8, CliError> {
    let directory = match what {
        Generate::Man { directory } | Generate::Completions { directory } => directory,
    };
    let error = |source| CliError::File { path: directory.clone(), source };
    std::fs::create_dir_all(directory).map_err(error)?;
    match what {
        Generate::Man { .. } => man(directory).map_err(error)?,
        Generate::Completions { .. } => completions(directory).map_err(error)?,
    }
    output.line(&directory.display().to_string())?;
    Ok(0)
}

fn man(directory: &Path) -> std::io::Result<()> {
    clap_mangen::generate_to(Operator::command(), directory)?;
    clap_mangen::generate_to(crate::cli::daemon::command(), directory)
}

fn completions(directory: &Path) -> std::io::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut operator = Operator::command();
        clap_complete::generate_to(shell, &mut operator, "dwcp-v3-cli", directory)?;
        let mut daemon = crate::cli::daemon::command();
        clap_complete::generate_to(shell, &mut daemon, "dwcpd", directory)?;
    }
    Ok(())
}
