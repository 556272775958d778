//! Options of `rollout drill`.

use crate::cli::args::Spoil;
use crate::cli::trial::crowd::MAX_NODES;
use crate::config::units;
use crate::rollout::Flag;
use clap::{Args, ValueEnum};
use std::time::Duration;

/// Options of `rollout drill`.
#[derive(Args, Clone, Debug)]
pub struct DrillOptions {
    /// The flag that is raised: hybrid_mode, ml_compression or internet_optimization
    #[arg(long, value_name = "NAME", default_value = "hybrid_mode", value_parser = built_flag)]
    pub flag: Flag,
    /// Nodes, 5 to 33: one, and the others around it
    #[arg(long, value_name = "N", default_value_t = 17, value_parser = nodes)]
    pub nodes: usize,
    /// Guests that move all the time, for each node around that one, 1 to 4; 48 in all at most
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = guests)]
    pub guests: usize,
    /// Memory of such a guest
    #[arg(long, value_name = "SIZE", default_value = "1MiB", value_parser = guest_memory)]
    pub guest_memory: u64,
    /// Memory of the two that are under way when something is switched off
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = guest_memory)]
    pub large_memory: u64,
    /// So many drills, each with nodes of its own
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub repeats: u64,
    /// Let nothing go wrong: then nothing may be rolled back by itself
    #[arg(long)]
    pub harmless: bool,
    /// How long a fault may go unnoticed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = units::parse_duration)]
    pub notice_within: Duration,
    /// How long it may take from the decision until the last node has the flag off
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = units::parse_duration)]
    pub effect_within: Duration,
    /// How long it may take until the last node is v1-compatible
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = units::parse_duration)]
    pub kill_within: Duration,
    /// Without TLS
    #[arg(long)]
    pub plain: bool,
    /// Spoil something on purpose, to see that the verdict fails
    #[arg(long, value_name = "WHAT")]
    pub spoil: Option<DrillSpoil>,
}

/// What a drill can spoil on purpose.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrillSpoil {
    /// One byte of a guest
    Page,
    /// A guest is let run at two nodes
    Owner,
    /// The guards are told to allow everything
    Guards,
}

impl DrillSpoil {
    /// What a node is told to spoil in a guest, if it is that.
    pub fn order(self) -> Option<&'static str> {
        match self {
            DrillSpoil::Page => Some(Spoil::Page.name()),
            DrillSpoil::Owner => Some(Spoil::Owner.name()),
            DrillSpoil::Guards => None,
        }
    }
}

impl DrillOptions {
    /// Whether all of it can be done at once.
    ///
    /// # Errors
    /// What is too much.
    pub fn check(&self) -> Result<(), String> {
        let guests = (self.nodes - 1) * self.guests;
        if guests > MOST_GUESTS {
            return Err(format!(
                "{guests} guests are more than {MOST_GUESTS}: take fewer nodes or guests"
            ));
        }
        let rate = self.slow_bytes_per_s();
        if rate < SLOWEST_BYTES_PER_S {
            return Err(format!(
                "{} bytes are too few to be under way for as long as a fault may go unnoticed: at \
                 {rate} bytes a second, which is less than {SLOWEST_BYTES_PER_S}; take a larger \
                 --large-memory or a shorter --notice-within",
                self.large_memory
            ));
        }
        Ok(())
    }

    /// How fast the large guests are sent: slow enough for a fault to be noticed before they have come;
    /// of their memory, half is sent.
    pub fn slow_bytes_per_s(&self) -> u64 {
        let held_s = (self.notice_within + MEANWHILE).as_secs().max(1);
        self.large_memory / 2 / held_s
    }
}

/// What else happens while the large guests are under way.
const MEANWHILE: Duration = Duration::from_secs(20);
/// A migration is not let go slower.
const SLOWEST_BYTES_PER_S: u64 = 65_536;

fn built_flag(name: &str) -> Result<Flag, String> {
    let flag = name.parse::<Flag>().map_err(|error| error.to_string())?;
    flag.demand_built().map_err(|error| error.to_string())?;
    Ok(flag)
}

fn nodes(text: &str) -> Result<usize, String> {
    within(text, LEAST_NODES..=MOST_NODES)
}

fn guests(text: &str) -> Result<usize, String> {
    within(text, 1..=4)
}

fn within(text: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("it must be {} to {}", range.start(), range.end()))
}

fn guest_memory(text: &str) -> Result<u64, String> {
    match units::parse_bytes(text)? {
        bytes @ 0x10_0000..=0x4000_0000 => Ok(bytes),
        _ => Err("it must be 1MiB to 1GiB".to_owned()),
    }
}

/// Two paths on each side at 50 %.
const LEAST_NODES: usize = 5;
const MOST_NODES: usize = 33;
const _: () = assert!(MOST_NODES <= MAX_NODES);
/// Each may have a request at the control socket of the node in the middle, which answers 64.
const MOST_GUESTS: usize = 48;
