//! A guest that goes round the nodes of a crowd, and one move of it.

use super::{Crowd, End};
use crate::cli::trial::TrialError;
use crate::cli::trial::guest::GuestSize;
use crate::migration::Phase;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// A guest, and where it goes.
#[derive(Clone, Debug)]
pub struct Rover {
    /// Its name.
    pub name: String,
    size: GuestSize,
    /// Places of nodes, one after the other; after the last comes the first.
    route: Vec<usize>,
    stop: usize,
    /// Where it was announced, and has not come yet.
    expected_at: BTreeSet<usize>,
}

/// A move under way.
#[derive(Clone, Debug)]
pub struct Departure {
    /// The migration.
    pub id: String,
    /// From where.
    pub from: usize,
    /// Where to.
    pub to: usize,
    phase: u32,
}

impl Rover {
    /// A guest that is yet to be made.
    pub fn new(name: String, size: GuestSize, route: Vec<usize>) -> Self {
        Self { name, size, route, stop: 0, expected_at: BTreeSet::new() }
    }

    /// Where it is.
    pub fn at(&self) -> usize {
        self.route[self.stop]
    }

    /// Where it goes next.
    pub fn next(&self) -> usize {
        self.route[(self.stop + 1) % self.route.len()]
    }

    fn order(&self, what: &str) -> Value {
        let GuestSize { bytes, writes_per_s } = self.size;
        json!({ "do": what, "guest": self.name, "bytes": bytes, "writes_per_s": writes_per_s })
    }
}

impl Crowd {
    /// Makes a guest, and lets it run where its route begins.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn boot(&self, rover: &Rover) -> Result<(), TrialError> {
        self.members[rover.at()].node.ask(rover.order("boot")).await.map(drop)
    }

    /// Starts to move a guest to its next node. Options are the fields of the control socket's
    /// request.
    ///
    /// # Errors
    /// A node refuses.
    pub async fn depart(
        &self,
        rover: &mut Rover,
        options: &Value,
    ) -> Result<Departure, TrialError> {
        let (from, to, phase) = (rover.at(), rover.next(), self.ledger.phase());
        if rover.expected_at.insert(to) {
            self.members[to].node.ask(rover.order("expect")).await?;
        }
        let mut request = options.clone();
        request["guest"] = rover.name.clone().into();
        request["to"] = self.way(from, to).into();
        let migration = self.members[from].node.client.post("/v3/migrations", request).await?;
        let id = migration["id"].as_str().unwrap_or_default().to_owned();
        Ok(Departure { id, from, to, phase })
    }

    /// Waits for the end of a move, and lets the guest be able to leave where it is then. A guest
    /// that came must have brought every write, and no longer run where it left.
    ///
    /// # Errors
    /// The move has no end, nobody can tell who has the guest, or a node is gone.
    pub async fn arrive(
        &self,
        rover: &mut Rover,
        departure: &Departure,
    ) -> Result<End, TrialError> {
        let Departure { id, from, to, phase } = departure;
        let end = self.members[*from].ends.wait(id, PATIENCE).await?;
        self.ledger.add(*phase, (*from, *to), &end);
        match end.owner.as_str() {
            "destination" => {
                self.members[*to].ends.wait(id, PATIENCE).await?;
                self.hand_over(rover, (*from, *to)).await?;
            }
            "source" => self.release(*to, id).await?,
            _ => {
                let (guest, id) = (rover.name.clone(), id.clone());
                return Err(TrialError::InDoubt { guest, id });
            }
        }
        Ok(end)
    }

    /// Whether a move has begun at both ends, and not ended.
    ///
    /// # Errors
    /// The node is gone.
    pub async fn is_under_way(&self, departure: &Departure) -> Result<bool, TrialError> {
        let path = format!("/v3/migrations/{}", departure.id);
        let migration = self.members[departure.from].node.client.get(&path).await?;
        let is_connected = migration["progress"]["phase"] != Phase::Connect.name();
        Ok(migration["report"].is_null() && is_connected)
    }

    /// Waits until it has.
    ///
    /// # Errors
    /// It does not, or the node is gone.
    pub async fn wait_until_under_way(&self, departure: &Departure) -> Result<(), TrialError> {
        let begun = Instant::now();
        while !self.is_under_way(departure).await? {
            if begun.elapsed() > PATIENCE {
                let (id, patience_s) = (departure.id.clone(), PATIENCE.as_secs());
                return Err(TrialError::Hangs { id, patience_s });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(())
    }

    /// Lets a move that was held back go as fast as it can.
    ///
    /// # Errors
    /// The node is gone.
    pub async fn lift_limit(&self, departure: &Departure) -> Result<(), TrialError> {
        let path = format!("/v3/migrations/{}/bandwidth", departure.id);
        let body = json!({ "limit": "none" });
        self.members[departure.from].node.client.post(&path, body).await?;
        Ok(())
    }

    async fn hand_over(
        &self,
        rover: &mut Rover,
        (from, to): (usize, usize),
    ) -> Result<(), TrialError> {
        let came = self.members[to].node.ask(rover.order("own")).await?;
        rover.expected_at.remove(&to);
        rover.stop = (rover.stop + 1) % rover.route.len();
        // It comes back by and by.
        let left = self.members[from].node.ask(rover.order("expect")).await?;
        rover.expected_at.insert(from);
        let is_whole = left["count"] == came["arrived_with"];
        if left["is_running"] == false && is_whole {
            return Ok(());
        }
        let reason = match is_whole {
            true => format!("it still runs at {}, which gave it away", self.members[from].name()),
            false => format!(
                "it left {} after write {} and came to {} with {}",
                self.members[from].name(),
                left["count"],
                self.members[to].name(),
                came["arrived_with"]
            ),
        };
        Err(TrialError::Lost { guest: rover.name.clone(), reason })
    }

    /// Tells a destination that nothing comes any more, as an operator does who does not want to wait
    /// for its timeouts: where connections were broken, its source could not.
    async fn release(&self, at: usize, id: &str) -> Result<(), TrialError> {
        let member = &self.members[at];
        if member.node.client.post(&format!("/v3/migrations/{id}/cancel"), json!({})).await.is_ok()
        {
            member.ends.wait(id, PATIENCE).await?;
        }
        // Otherwise it has never heard of it.
        Ok(())
    }
}

/// Guests that are on the move, until they are told to stay.
pub struct Roving {
    is_over: Arc<AtomicBool>,
    tasks: JoinSet<(Rover, Result<(), TrialError>)>,
}

impl Roving {
    /// Moves each guest again and again, with a rest between two moves, whatever comes of them.
    pub fn begin(crowd: &Arc<Crowd>, rovers: Vec<Rover>, options: &Value, rest: Duration) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for mut rover in rovers {
            let (crowd, options, is_over) = (crowd.clone(), options.clone(), is_over.clone());
            tasks.spawn(async move {
                while !is_over.load(Ordering::Relaxed) {
                    if let Err(error) = step(&crowd, &mut rover, &options).await {
                        return (rover, Err(error));
                    }
                    tokio::time::sleep(rest).await;
                }
                (rover, Ok(()))
            });
        }
        Self { is_over, tasks }
    }

    /// Lets every guest end its move, and stay; gives them, by name, and what went wrong with those
    /// that could not go on.
    pub async fn end(mut self) -> (Vec<Rover>, Vec<String>) {
        self.is_over.store(true, Ordering::Relaxed);
        let (mut rovers, mut faults) = (Vec::new(), Vec::new());
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok((rover, outcome)) => {
                    faults.extend(outcome.err().map(|error| error.to_string()));
                    rovers.push(rover);
                }
                Err(error) => faults.push(error.to_string()),
            }
        }
        rovers.sort_by(|a, b| a.name.cmp(&b.name));
        (rovers, faults)
    }
}

async fn step(crowd: &Crowd, rover: &mut Rover, options: &Value) -> Result<(), TrialError> {
    let departure = crowd.depart(rover, options).await?;
    crowd.arrive(rover, &departure).await.map(drop)
}

/// How long one move may take, with the end of what was broken.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
