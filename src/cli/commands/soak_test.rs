//! `soak-test`: a guest moved to and fro between two nodes for a long time, and what came of it.

use crate::cli::args::{SoakTest, Spoil};
use crate::cli::error::{CliError, FAILED, INTERRUPTED};
use crate::cli::output::{Output, bytes};
use crate::cli::trial::TrialError;
use crate::cli::trial::child::{OwnProgram, Setup, TrialChild, Usage};
use crate::cli::trial::fleet::Fleet;
use crate::cli::trial::guest::GuestSize;
use crate::cli::trial::interrupts::Interrupts;
use crate::cli::trial::pair::Pair;
use crate::cli::trial::scratch::Scratch;
use crate::cli::trial::verdict::{self, MIN_VALUES, Series, Verdict, all_held};
use crate::config::units::format_duration;
use crate::migration::fault_times::FaultTimes;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

pub async fn run(options: SoakTest, output: &Output) -> Result<u8, CliError> {
    // Kept from here to the end: an interrupt ends the trial in an orderly way.
    let mut interrupts = Interrupts::catch().map_err(CliError::Runtime)?;
    let scratch = Scratch::new()?;
    let pair = start(&options, &scratch).await?;
    announce(&options, &pair, output)?;
    let mut soak = Soak::new(&options);
    let is_interrupted = soak.run(pair, &mut interrupts, output).await?;
    drop(scratch);
    let verdicts = soak.verdicts();
    let has_passed = all_held(&verdicts);
    match output.json() {
        true => output.value(&json!({
            "passed": has_passed,
            "interrupted": is_interrupted,
            "verdicts": verdicts,
            "totals": soak.figures(),
        }))?,
        false => verdict::print(&verdicts, output)?,
    }
    Ok(match (is_interrupted, has_passed) {
        (true, _) => INTERRUPTED,
        (false, true) => 0,
        (false, false) => FAILED,
    })
}

async fn start(options: &SoakTest, scratch: &Scratch) -> Result<Pair, TrialError> {
    let program = OwnProgram::find()?;
    let fleet = Fleet::found(scratch.path(), options.plain)?;
    let setup = |name: &str| -> Result<Setup, TrialError> {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Ok(Setup {
            name: name.to_owned(),
            listen,
            directory: scratch.path().join(name),
            identity_dir: fleet.issue(name, listen.ip())?,
            guest: Some(GuestSize {
                bytes: options.guest_memory,
                writes_per_s: options.writes_per_s,
            }),
        })
    };
    let command = || program.complete(Command::new(OwnProgram::PATH));
    let left = TrialChild::start(command(), &setup("left")?).await?;
    let right = TrialChild::start(command(), &setup("right")?).await?;
    Pair::boot([left, right]).await
}

fn announce(options: &SoakTest, pair: &Pair, output: &Output) -> Result<(), CliError> {
    if output.json() {
        return Ok(());
    }
    let tracked = match pair.nodes[0].is_tracked_by_kernel {
        true => "the kernel",
        false => "the guest itself, as this kernel cannot",
    };
    let over = if pair.nodes[0].is_secured { "TLS" } else { "plain TCP" };
    let processes = pair.nodes.each_ref().map(|node| format!("{} {}", node.name(), node.pid()));
    output.line(&format!(
        "a guest of {} that writes {} pages/s, noted by {tracked}, moves over {over} between nodes \
         in processes {} for {}",
        bytes(options.guest_memory),
        options.writes_per_s,
        processes.join(" and "),
        format_duration(options.duration),
    ))
}

/// What has happened so far.
struct Soak {
    duration: Duration,
    interval: Duration,
    spoil: Option<Spoil>,
    begun: Instant,
    moved: u64,
    failed: u64,
    first_failure: Option<String>,
    last_failure: Option<String>,
    downtime: FaultTimes,
    looks: u64,
    damaged: u64,
    faults: Vec<String>,
    memory: Series,
    descriptors: Series,
    threads: Series,
}

impl Soak {
    fn new(options: &SoakTest) -> Self {
        Self {
            duration: options.duration,
            interval: options.monitor_interval,
            spoil: options.spoil,
            begun: Instant::now(),
            moved: 0,
            failed: 0,
            first_failure: None,
            last_failure: None,
            downtime: FaultTimes::default(),
            looks: 0,
            damaged: 0,
            faults: Vec::new(),
            memory: Series::default(),
            descriptors: Series::default(),
            threads: Series::default(),
        }
    }

    /// Moves the guest to and fro until the time is over and there is enough to judge, a lasting fault
    /// is found, or somebody interrupts it; whether somebody did.
    async fn run(
        &mut self,
        mut pair: Pair,
        interrupts: &mut Interrupts,
        output: &Output,
    ) -> Result<bool, CliError> {
        let mut is_interrupted = false;
        let mut next_line = self.interval;
        while !self.is_enough() && self.faults.is_empty() && !is_interrupted {
            let trip = trip(&mut pair, self.spoil.filter(|_| self.moved >= SPOILT_AFTER));
            let mut trip = std::pin::pin!(trip);
            let outcome = loop {
                let until_line = next_line.saturating_sub(self.begun.elapsed());
                tokio::select! {
                    outcome = &mut trip => break outcome,
                    () = tokio::time::sleep(until_line) => {
                        next_line = self.begun.elapsed() + self.interval;
                        self.print(output)?;
                    }
                    () = interrupts.recv() => {
                        if is_interrupted {
                            return Ok(true);
                        }
                        is_interrupted = true;
                        output.note("stops after this migration; Ctrl-C again stops at once");
                    }
                }
            };
            match outcome {
                Ok(trip) => self.add(trip),
                // A node that dies, or is silent, is the gravest fault of all.
                Err(error) => self.faults.push(error.to_string()),
            }
        }
        self.print(output)?;
        Ok(is_interrupted)
    }

    fn is_enough(&self) -> bool {
        self.begun.elapsed() >= self.duration && self.looks >= MIN_VALUES as u64
    }

    fn add(&mut self, trip: Trip) {
        match trip.failure {
            None => {
                self.moved += 1;
                self.downtime.add(trip.downtime);
            }
            Some(failure) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| failure.clone());
                self.last_failure = Some(failure);
            }
        }
        self.looks += 1;
        self.damaged += trip.damaged;
        self.faults.extend(trip.faults);
        let usage = trip.usage;
        self.memory.add(usage.memory_bytes);
        self.descriptors.add(usage.descriptors);
        self.threads.add(usage.threads);
    }

    fn figures(&self) -> Value {
        json!({
            "elapsed_s": self.begun.elapsed().as_secs_f64(),
            "migrations": self.moved,
            "failures": self.failed,
            "last_failure": self.last_failure,
            "downtime_p50_ms": self.downtime_ms(P50),
            "downtime_p99_ms": self.downtime_ms(P99),
            "memory_bytes": self.memory.last(),
            "memory_growth_bytes": self.memory_growth_bytes(),
            "descriptors": self.descriptors.last(),
            "threads": self.threads.last(),
            "looks": self.looks,
            "damaged_pages": self.damaged,
        })
    }

    /// What all moves but so many thousandths took no more than; none of none.
    fn downtime_ms(&self, per_mille: u64) -> Option<f64> {
        (self.downtime.count() > 0).then(|| self.downtime.all_but_us(per_mille) as f64 / 1e3)
    }

    fn memory_growth_bytes(&self) -> i64 {
        self.memory.last() as i64 - self.memory.first() as i64
    }

    fn print(&self, output: &Output) -> Result<(), CliError> {
        let figures = self.figures();
        if output.json() {
            return output.value(&figures);
        }
        let ms = |per_mille| self.downtime_ms(per_mille).unwrap_or(0.0);
        let grown = self.memory_growth_bytes();
        let sign = if grown < 0 { '-' } else { '+' };
        output.line(&format!(
            "{:>6.0} s  {} migrations, downtime p50 {:.1} ms, p99 {:.1} ms, memory {} ({sign}{}), {} \
             descriptors, {} threads, {} errors, {} damaged pages",
            self.begun.elapsed().as_secs_f64(),
            self.moved,
            ms(P50),
            ms(P99),
            bytes(self.memory.last()),
            bytes(grown.unsigned_abs()),
            self.descriptors.last(),
            self.threads.last(),
            self.failed,
            self.damaged,
        ))
    }

    fn verdicts(&self) -> Vec<Verdict> {
        let failures = match &self.first_failure {
            None => format!("{} done, none failed", self.moved),
            Some(first) => format!("{} done, {} failed; first: {first}", self.moved, self.failed),
        };
        let content = match self.faults.first() {
            None => format!("{} looks at both nodes, none found a fault", self.looks),
            Some(first) => first.clone(),
        };
        let number = |value: u64| value.to_string();
        vec![
            Verdict::new("migrations", self.failed == 0 && self.moved > 0, failures),
            Verdict::new("guest", self.faults.is_empty() && self.looks > 0, content),
            self.memory.judge("memory", ALLOWED_BYTES, bytes),
            self.descriptors.judge("descriptors", ALLOWED_DESCRIPTORS, number),
            self.threads.judge("threads", ALLOWED_THREADS, number),
        ]
    }
}

/// One way of the guest's.
struct Trip {
    /// Why it did not move; it is where it was.
    failure: Option<String>,
    downtime: Duration,
    damaged: u64,
    faults: Vec<String>,
    /// Of both nodes, when all was at rest again.
    usage: Usage,
}

async fn trip(pair: &mut Pair, spoil: Option<Spoil>) -> Result<Trip, TrialError> {
    let ended = pair.move_guest(&json!({}), PATIENCE).await?;
    if let Some(spoil) = spoil {
        // It has run where it came to; a second owner is where it left.
        let at = if spoil == Spoil::Owner { pair.home } else { pair.away() };
        pair.nodes[at].ask(json!({ "do": "spoil", "what": spoil.name() })).await?;
    }
    let sight = match ended.is_moved() {
        true => {
            let sight = pair.look_at_arrival(&ended).await?;
            pair.settle().await?;
            sight
        }
        false => pair.look(pair.home).await?,
    };
    let usage = pair.usage()?;
    let downtime_ms = ended.report["downtime_ms"].as_f64().unwrap_or(0.0);
    Ok(Trip {
        failure: (!ended.is_moved()).then(|| ended.reason()),
        downtime: Duration::try_from_secs_f64(downtime_ms / 1e3).unwrap_or_default(),
        damaged: sight.damaged,
        faults: sight.faults,
        usage,
    })
}

/// How long one migration may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// All but so many thousandths.
const P50: u64 = 500;
const P99: u64 = 10;
/// Something is spoilt only once it went well.
const SPOILT_AFTER: u64 = 2;
/// By how much both nodes together may grow: allocators are not exact, and the bounded tables of
/// ended migrations and events take 4 MiB while they fill.
const ALLOWED_BYTES: u64 = 8 << 20;
/// A log file that is exchanged, a client that has not hung up yet.
const ALLOWED_DESCRIPTORS: u64 = 2;
const ALLOWED_THREADS: u64 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn soak() -> Soak {
        Soak::new(&SoakTest {
            duration: Duration::from_secs(1),
            monitor_interval: Duration::from_secs(1),
            guest_memory: 1 << 20,
            writes_per_s: 1,
            plain: false,
            spoil: None,
        })
    }

    #[test]
    fn however_many_moves_fail_the_first_and_the_last_reason_are_told() {
        let mut soak = soak();
        for number in 0..1000 {
            soak.add(Trip {
                failure: Some(format!("failure {number}")),
                downtime: Duration::ZERO,
                damaged: 0,
                faults: vec![],
                usage: Usage { memory_bytes: 5000 + number, ..Usage::default() },
            });
        }
        let figures = soak.figures();
        assert_eq!(
            (&figures["failures"], &figures["last_failure"]),
            (&1000.into(), &"failure 999".into())
        );
        assert_eq!(figures["memory_growth_bytes"], 999);
        assert_eq!(figures["downtime_p50_ms"], Value::Null);
        assert!(soak.verdicts()[0].evidence.contains("1000 failed; first: failure 0"));
    }
}
