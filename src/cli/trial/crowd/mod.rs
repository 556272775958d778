//! Many nodes, each a process of its own, and many guests that move between them all the time.
//!
//! Guests are moved as an operator would, by the nodes' control sockets, and every one as soon as
//! it has come: so there are always some under way, whatever else the trial does. How each move
//! ended is kept by the phase of the trial in which it began.

mod ends;
mod ledger;
mod rover;

pub use ends::End;
pub use ledger::{Ledger, Tally};
pub use rover::{Departure, Rover, Roving};

use super::TrialError;
use super::child::{OwnProgram, Setup, TrialChild};
use super::fleet::Fleet;
use super::pair::Sight;
use super::scratch::Scratch;
use ends::Ends;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::process::Command;
use std::sync::Arc;
use tokio::task::JoinSet;

/// Nodes of one crowd, at most: each is a process.
pub const MAX_NODES: usize = 64;

/// The nodes; all of them end, and what they wrote is gone, when this is dropped.
pub struct Crowd {
    // First, so that nodes end before their directories go.
    members: Vec<Member>,
    /// How moves ended.
    pub ledger: Ledger,
    _scratch: Scratch,
}

/// A node of a crowd.
pub struct Member {
    /// Its process.
    pub node: TrialChild,
    ends: Arc<Ends>,
    /// Where it dials others, by their place, instead of at their own addresses.
    ways: BTreeMap<usize, String>,
    // Ends with it.
    _follower: JoinSet<()>,
}

impl Crowd {
    /// Starts so many nodes on the loopback.
    ///
    /// # Errors
    /// One of them does not start.
    pub async fn start(count: usize, is_plain: bool) -> Result<Self, TrialError> {
        let (program, scratch) = (OwnProgram::find()?, Scratch::new()?);
        let fleet = Fleet::found(scratch.path(), is_plain)?;
        let mut starting = JoinSet::new();
        for at in 0..count.min(MAX_NODES) {
            let (name, listen) = (node_name(at), SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
            let identity_dir = fleet.issue(&name, listen.ip())?;
            let directory = scratch.path().join(&name);
            let setup = Setup { name, listen, directory, identity_dir, guest: None };
            let command = program.complete(Command::new(OwnProgram::PATH));
            starting.spawn(async move { (at, TrialChild::start(command, &setup).await) });
        }
        let mut members = BTreeMap::new();
        while let Some(started) = starting.join_next().await {
            let (at, node) = started.map_err(|error| TrialError::OwnProgram(error.into()))?;
            members.insert(at, Member::new(node?));
        }
        let members = members.into_values().collect();
        Ok(Self { members, ledger: Ledger::default(), _scratch: scratch })
    }

    /// The nodes, by place.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// From now on one node dials another by a link that can be made to break.
    ///
    /// # Errors
    /// It is silent, or no port is left.
    pub async fn link(&mut self, from: usize, to: usize) -> Result<(), TrialError> {
        let (peer, address) = (self.members[to].name(), &self.members[to].node.address);
        let order = json!({ "do": "link", "peer": peer, "to": address });
        let answer = self.members[from].node.ask(order).await?;
        let way = answer["address"].as_str().unwrap_or_default().to_owned();
        self.members[from].ways.insert(to, way);
        Ok(())
    }

    /// Where one node dials another.
    pub fn way(&self, from: usize, to: usize) -> &str {
        let own = &self.members[to].node.address;
        self.members[from].ways.get(&to).unwrap_or(own)
    }

    /// Looks at every guest on every node: each must run at one, where it is believed to be, with
    /// every page as it must be. Nothing may be under way.
    ///
    /// # Errors
    /// A node is gone.
    pub async fn census(&self, rovers: &[Rover]) -> Result<Sight, TrialError> {
        let mut seen = Vec::new();
        for member in &self.members {
            seen.push(member.node.ask(json!({ "do": "census" })).await?);
        }
        let names: Vec<&str> = self.members.iter().map(Member::name).collect();
        let mut sight = Sight::default();
        for rover in rovers {
            judge(rover, &names, &seen, &mut sight);
        }
        Ok(sight)
    }
}

/// Does something with each of these nodes at the same time, as who operates many of them does.
///
/// # Errors
/// The first that occurs; the others are not waited for then.
pub async fn at_once<T, F>(
    crowd: &Arc<Crowd>,
    places: Range<usize>,
    what: impl Fn(Arc<Crowd>, usize) -> F,
) -> Result<Vec<T>, TrialError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, TrialError>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    places.for_each(|at| drop(tasks.spawn(what(crowd.clone(), at))));
    let mut outcomes = Vec::new();
    while let Some(done) = tasks.join_next().await {
        outcomes.push(done.map_err(|error| TrialError::OwnProgram(error.into()))??);
    }
    Ok(outcomes)
}

impl Member {
    fn new(node: TrialChild) -> Self {
        let ends = Arc::new(Ends::of(node.name()));
        let mut follower = JoinSet::new();
        follower.spawn(ends.clone().follow(node.client.clone()));
        Self { node, ends, ways: BTreeMap::new(), _follower: follower }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.name()
    }
}

/// The name of the node at this place: names of one length, in the order of their places.
pub fn node_name(at: usize) -> String {
    format!("node-{at:02}")
}

/// Adds what the nodes say of one guest.
fn judge(rover: &Rover, names: &[&str], seen: &[Value], sight: &mut Sight) {
    let guest = rover.name.as_str();
    let runs = |at: &usize| seen[*at][guest]["is_running"] == true;
    let runs_at: Vec<usize> = (0..seen.len()).filter(runs).collect();
    let list = || runs_at.iter().map(|at| names[*at]).collect::<Vec<_>>().join(" and ");
    match runs_at[..] {
        [at] if at == rover.at() => {}
        [] => sight.faults.push(format!("{guest} runs nowhere")),
        [at] => {
            let (found, expected) = (names[at], names[rover.at()]);
            sight.faults.push(format!("{guest} runs at {found}, not {expected}"));
        }
        _ => sight.faults.push(format!("{guest} runs at {}", list())),
    }
    for at in runs_at.iter().copied() {
        let look = &seen[at][guest];
        let number = |field: &str| look[field].as_u64().unwrap_or(0);
        sight.pages += number("pages");
        sight.damaged += number("damaged");
        if number("damaged") > 0 {
            let first = look["first_damage"].as_str().unwrap_or_default();
            let text = format!("{guest} has {} damaged pages; {first}", number("damaged"));
            sight.faults.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::trial::guest::GuestSize;

    #[test]
    fn a_guest_twice_nowhere_elsewhere_or_damaged_is_found() {
        let size = GuestSize { bytes: 1 << 20, writes_per_s: 0 };
        let rover = Rover::new("a".to_owned(), size, vec![1, 0]);
        let here = |damaged: u64| json!({ "is_running": true, "pages": 9, "damaged": damaged, "first_damage": "page 7" });
        let (gone, never) = (json!({ "is_running": false }), Value::Null);
        let look = |seen: [&Value; 2]| {
            let seen = seen.map(|look| json!({ "a": look, "b": here(5) }));
            let mut sight = Sight::default();
            judge(&rover, &["x", "y"], &seen, &mut sight);
            (sight.pages, sight.damaged, sight.faults.join("; "))
        };
        assert_eq!(look([&gone, &here(0)]), (9, 0, String::new()));
        assert_eq!(look([&never, &here(2)]), (9, 2, "a has 2 damaged pages; page 7".to_owned()));
        assert_eq!(look([&here(0), &here(0)]).2, "a runs at x and y");
        assert_eq!(look([&here(0), &gone]).2, "a runs at x, not y");
        assert_eq!(look([&gone, &never]).2, "a runs nowhere");
    }
}
