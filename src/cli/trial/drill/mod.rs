//! The rehearsal of a rollback, with real nodes and guests that move between them all the time: a flag
//! is raised, a fault strikes those alone who have it, and the nodes' own guards are to notice; then
//! come the ways back that an operator has.
//!
//! Each node decides for its own paths. So there is one in the middle, whose guards see the paths to
//! all the others, some with the flag and some without; what it decides, the drill tells the others on
//! their control sockets, as whoever operates them would. Nothing is told to the guards themselves.

mod finding;
mod flags;
mod gradual;
mod options;
mod rollback;
mod star;
mod switches;

pub use finding::{Finding, verdicts};
pub use options::{DrillOptions, DrillSpoil};

use crate::cli::error::CliError;
use crate::cli::output::Output;
use crate::cli::trial::TrialError;
use serde_json::json;
use star::{HUB, Star};
use std::time::{Duration, Instant};

/// The parts of a drill, by the names in its table.
pub struct Part;

impl Part {
    /// All of it was done.
    pub const WHOLE: &'static str = "drill";
    /// The first stage.
    pub const TEN: &'static str = "at 10 %";
    /// The second one.
    pub const FIFTY: &'static str = "at 50 %";
    /// The fault was one, and struck whom it should.
    pub const FAULT: &'static str = "fault";
    /// The guards noticed.
    pub const DECISION: &'static str = "rolled back by itself";
    /// How soon it took hold.
    pub const EFFECT: &'static str = "off after the decision";
    /// Larger guests that were under way then.
    pub const ACROSS: &'static str = "under way across it";
    /// Migrations afterwards.
    pub const AFTER: &'static str = "migrations afterwards";
    /// The end of the rollback.
    pub const CLEAR: &'static str = "clear-latch";
    /// In a harmless drill.
    pub const NONE: &'static str = "no rollback";
    /// The kill switch.
    pub const KILL: &'static str = "kill switch";
    /// All flags disabled.
    pub const DISABLE_ALL: &'static str = "disable-all";
    /// Migrations in all other phases.
    pub const MEANWHILE: &'static str = "migrations meanwhile";
    /// The gradual way.
    pub const GRADUAL: &'static str = "100, 50, 10, 0 %";
    /// Every guest, when all is over.
    pub const GUESTS: &'static str = "guests";

    /// Those that a drill has, in the order of its table.
    pub fn of(options: &DrillOptions) -> Vec<&'static str> {
        let fault =
            [Part::FAULT, Part::DECISION, Part::EFFECT, Part::ACROSS, Part::AFTER, Part::CLEAR];
        let peace = [Part::NONE, Part::ACROSS, Part::AFTER];
        let middle = if options.harmless { &peace[..] } else { &fault[..] };
        let end = [
            Part::KILL,
            Part::DISABLE_ALL,
            Part::MEANWHILE,
            Part::GUESTS,
            Part::GRADUAL,
            Part::WHOLE,
        ];
        [&[Part::TEN, Part::FIFTY], middle, &end].concat()
    }
}

/// Tells how a drill goes, to whoever watches.
pub struct Story<'a> {
    output: Option<&'a Output>,
    begun: Instant,
}

impl<'a> Story<'a> {
    /// To this output; to nobody without one.
    pub fn to(output: Option<&'a Output>) -> Self {
        Self { output, begun: Instant::now() }
    }

    fn tell(&self, text: impl AsRef<str>) -> Result<(), CliError> {
        let Some(output) = self.output else { return Ok(()) };
        let elapsed_s = self.begun.elapsed().as_secs_f64();
        output.line(&format!("{elapsed_s:>5.1} s  {}", text.as_ref()))
    }
}

/// One drill. It has a finding for each part that it came to; all that was started is gone then.
pub async fn run(options: &DrillOptions, story: &Story<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let done = tokio::time::timeout(LONGEST, rehearse(options, story, &mut findings)).await;
    let whole = match done {
        Ok(Ok(())) => Finding::new(Part::WHOLE, true, duration(story)),
        Ok(Err(error)) => Finding::new(Part::WHOLE, false, error.to_string()),
        Err(_) => {
            let text = format!("it has no end after {} s", LONGEST.as_secs());
            Finding::new(Part::WHOLE, false, text)
        }
    };
    findings.push(whole.with("it took", story.begun.elapsed().as_secs_f64(), "s"));
    findings
}

fn duration(story: &Story<'_>) -> String {
    format!("all of it, in {:.1} s", story.begun.elapsed().as_secs_f64())
}

async fn rehearse(
    options: &DrillOptions,
    story: &Story<'_>,
    findings: &mut Vec<Finding>,
) -> Result<(), TrialError> {
    let mut star = Star::start(options).await?;
    story.tell(format!(
        "{} nodes, each a process, over {}; {} guests that move all the time",
        options.nodes,
        if options.plain { "plain TCP" } else { "TLS" },
        (options.nodes - 1) * options.guests,
    ))?;
    if options.spoil == Some(DrillSpoil::Guards) {
        let hub = &star.crowd.members()[HUB].node;
        hub.ask(json!({ "do": "allow-everything" })).await?;
    }
    star.raise(Part::TEN, star::STAGES[0], story).await?;
    let treated = star.raise(Part::FIFTY, star::STAGES[1], story).await?;
    // One with the flag and one without it.
    let with = treated.iter().position(|is| *is).map(|at| HUB + 1 + at);
    let without = treated.iter().position(|is| !*is).map(|at| HUB + 1 + at);
    star.add_large(&[with, without].into_iter().flatten().collect::<Vec<_>>()).await?;
    star.send_large().await?;
    if options.harmless {
        findings.extend(rollback::rehearse_peace(&mut star, options, story).await?);
    } else {
        findings.extend(rollback::rehearse(&mut star, &treated, options, story).await?);
        findings.push(switches::clear(&star, options, story).await?);
    }
    findings.extend(switches::rehearse(&mut star, options, story).await?);
    findings.extend(star.end().await?);
    findings.extend(gradual::rehearse(options, story).await?);
    Ok(())
}

/// How long one drill may take, whatever hangs.
const LONGEST: Duration = Duration::from_secs(300);
