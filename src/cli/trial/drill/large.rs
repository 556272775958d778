//! The larger guests of a drill: on their way, so slowly that whatever happens meets them under way, until
//! they are let come.

use super::DrillOptions;
use super::finding::Finding;
use super::star::{HUB, Star};
use crate::cli::trial::TrialError;
use crate::cli::trial::crowd::Rover;
use crate::cli::trial::guest::GuestSize;
use serde_json::{Value, json};

impl Star {
    /// Makes the larger guests, one for each of these nodes to go to and fro between it and the
    /// middle.
    ///
    /// # Errors
    /// They cannot be made.
    pub async fn add_large(&mut self, spokes: &[usize]) -> Result<(), TrialError> {
        let size = GuestSize { bytes: self.options.large_memory, writes_per_s: LARGE_WRITES_PER_S };
        for at in spokes {
            let rover = Rover::new(format!("large-{at:02}"), size, vec![HUB, *at]);
            self.crowd.boot(&rover).await?;
            self.large.push((rover, None));
        }
        Ok(())
    }

    /// Sends the larger guests on their way, so slowly that they do not arrive before they are let;
    /// on return they are under way.
    ///
    /// # Errors
    /// A node refuses, or they do not get under way.
    pub async fn send_large(&mut self) -> Result<(), TrialError> {
        let slow = slow_options(&self.options);
        for (rover, departure) in &mut self.large {
            let departed = self.crowd.depart(rover, &slow).await?;
            self.crowd.wait_until_under_way(&departed).await?;
            *departure = Some(departed);
        }
        Ok(())
    }

    /// How many of the larger guests are under way.
    ///
    /// # Errors
    /// A node is gone.
    pub async fn large_under_way(&self) -> Result<usize, TrialError> {
        let mut count = 0;
        for (_, departure) in &self.large {
            if let Some(departure) = departure {
                count += usize::from(self.crowd.is_under_way(departure).await?);
            }
        }
        Ok(count)
    }

    /// Lets the larger guests come at full speed, and judges how they did.
    ///
    /// # Errors
    /// They have no end.
    pub async fn let_large_come(
        &mut self,
        what: &'static str,
        under_way: usize,
    ) -> Result<Finding, TrialError> {
        let (mut moved, mut faults) = (0, Vec::new());
        for (rover, departure) in &mut self.large {
            let Some(departed) = departure.take() else { continue };
            self.crowd.lift_limit(&departed).await?;
            let end = self.crowd.arrive(rover, &departed).await?;
            match end.is_moved() {
                true => moved += 1,
                false => faults.push(format!("{}: {} ({})", rover.name, end.reason, end.status)),
            }
        }
        let all = self.large.len();
        let evidence = match faults.first() {
            None => format!("{under_way} of {all} larger guests were under way, {moved} arrived"),
            Some(first) => {
                format!("{} of {all} larger guests did not arrive; {first}", faults.len())
            }
        };
        let held = faults.is_empty() && moved == all && under_way == all && all > 0;
        Ok(Finding::new(what, held, evidence))
    }
}

/// Slow enough for a fault to be noticed before such a guest has come; of its memory, half is sent.
fn slow_options(options: &DrillOptions) -> Value {
    json!({ "streams": 1, "bandwidth_limit": format!("{}B/s", options.slow_bytes_per_s()) })
}

const LARGE_WRITES_PER_S: u64 = 200;
