//! One file a command; each asks the node and prints the answer.

mod chaos_test;
mod cleanup_baselines;
mod compression;
mod config;
mod drill;
mod encoding_test;
mod events;
mod feature_flags;
pub mod generate;
mod guests;
mod identity;
mod integrity;
mod logs;
mod memory;
mod metrics;
mod migrate;
mod migrations;
mod modes;
mod resource_check;
mod rollout;
mod settle;
mod soak_test;
mod state;
mod status;
mod v1;
mod vm;

use super::args::{Command, Operations};
use super::client::Client;
use super::error::CliError;
use super::output::Output;
use super::trial::node;

/// Runs a command; gives the exit code.
pub async fn run(command: Command, client: &Client, output: &Output) -> Result<u8, CliError> {
    match command {
        Command::Status(options) => status::run(&options, client, output).await?,
        Command::Migrate(options) => return migrate::run(options, client, output).await,
        Command::Migrations => migrations::list(client, output).await?,
        Command::Cancel { id } => migrations::cancel(&id, client, output).await?,
        Command::PostCopy { id, abandon } => {
            migrations::post_copy(&id, abandon, client, output).await?;
        }
        Command::Bandwidth { id, limit } => {
            migrations::bandwidth(&id, &limit, client, output).await?;
        }
        Command::Settle { id, owner } => {
            settle::run(id.as_deref(), owner.as_deref(), client, output).await?;
        }
        Command::Guests => guests::run(client, output).await?,
        Command::V1(command) => v1::run(command, client, output).await?,
        Command::Vm(command) => vm::run(command, client, output).await?,
        Command::CleanupBaselines { older_than, guest } => {
            cleanup_baselines::run(older_than, guest, client, output).await?;
        }
        Command::Events { filter, follow } => {
            events::run(filter.as_deref(), follow, client, output).await?;
        }
        Command::Metrics(options) => return metrics::run(&options, client, output).await,
        Command::CompressionStats { migration } => {
            compression::stats(migration.as_deref(), client, output).await?;
        }
        Command::CompressionAnalyze { guest, file, sample, plot } => {
            let memory = compression::Of { guest: guest.as_deref(), file: file.as_deref() };
            compression::analyze(memory, sample, plot.as_deref(), client, output).await?;
        }
        Command::EncodingTest { enable_ml } => {
            return encoding_test::run(enable_ml, client, output).await;
        }
        Command::DataIntegrityCheck => return integrity::run(client, output).await,
        Command::Modes(command) => modes::run(command, client, output).await?,
        Command::FeatureFlags(command) => feature_flags::run(command, client, output).await?,
        Command::Operations(command) => return operations(command, client, output).await,
        Command::Rollout(command) => return rollout::run(command, client, output).await,
        Command::Identity(command) => identity::run(command, output)?,
        Command::ExportState(options) => state::export(options, client, output).await?,
        Command::ImportState(options) => state::import(options, client, output).await?,
        Command::BaselinesCount => memory::baselines(client, output).await?,
        Command::MemoryUsage { breakdown } => memory::usage(breakdown, client, output).await?,
        Command::Config(command) => config::run(command, client, output).await?,
        Command::Logs { component, level, follow } => {
            logs::run(component.as_deref(), level.as_deref(), follow, client, output).await?;
        }
        Command::Generate(what) => return generate::run(&what, output),
        Command::TrialNode(options) => return node::run(&options),
    }
    Ok(0)
}

async fn operations(command: Operations, client: &Client, output: &Output) -> Result<u8, CliError> {
    match command {
        Operations::ResourceCheck { components } => {
            resource_check::run(&components, client, output).await
        }
        Operations::SoakTest(options) => soak_test::run(options, output).await,
        Operations::ChaosTest(options) => chaos_test::run(options, output).await,
    }
}
