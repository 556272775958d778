//! A small hypervisor with live migration: how a program uses libdwcp from Rust.
//!
//! The same program as `examples/c/hypervisor.c`. Read [`library`] first: what the library is told
//! about a guest, and asks of it. Then [`host`], which leads the guest on its way.

mod console;
mod guest;
mod host;
mod kvm;
mod library;
mod options;
mod program;
mod self_test;
mod thread;
mod verify;

use clap::Parser;
use clap::error::ErrorKind;
use options::{Mode, Options};

/// How the program ends.
pub mod exit {
    /// It went as asked.
    pub const FINE: i32 = 0;
    /// The command line is wrong.
    pub const USAGE: i32 = 1;
    /// No guest, no node, no address to listen on.
    pub const SETUP: i32 = 2;
    /// The guest's memory or counters are not what they must be.
    pub const PROOF: i32 = 3;
    /// The migration failed; the guest went on here.
    pub const FAILED: i32 = 4;
    /// Only the destination's record tells who has the guest.
    pub const IN_DOUBT: i32 = 5;
}

fn main() {
    std::process::exit(run());
}

fn run() -> i32 {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => {
            // Nothing is left to be told if this cannot be printed.
            let _ = error.print();
            let is_help =
                matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if is_help { exit::FINE } else { exit::USAGE };
        }
    };
    if let Err(error) = options.check() {
        eprintln!("hypervisor: {error}");
        return exit::USAGE;
    }
    match options.mode {
        Mode::SelfTest => self_test::run(&options),
        Mode::Source | Mode::Destination => host::run(&options),
    }
}
