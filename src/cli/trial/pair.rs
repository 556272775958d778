//! Two nodes and one guest: moved from one to the other, and looked at on both.

use super::TrialError;
use super::child::{TrialChild, Usage};
use super::node::GUEST;
use crate::Status;
use crate::cli::client::Client;
use crate::migration::Phase;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The nodes, and where the guest is.
pub struct Pair {
    /// Both nodes.
    pub nodes: [TrialChild; 2],
    /// Which of them has the guest.
    pub home: usize,
}

/// A migration that has ended, by what its source says.
#[derive(Clone, Debug, Default)]
pub struct Ended {
    /// Its id.
    pub id: String,
    /// The source's report.
    pub report: Value,
}

/// What both nodes say of the guest, and what is wrong with that.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// Pages that were compared.
    pub pages: u64,
    /// Pages that are not as they must be.
    pub damaged: u64,
    /// What is wrong.
    pub faults: Vec<String>,
}

impl Ended {
    /// Whether the guest has moved.
    pub fn is_moved(&self) -> bool {
        self.report["status"] == Status::Ok.name()
    }

    /// Who owns the guest, as far as the source knows: `source`, `destination` or `in_doubt`.
    pub fn owner(&self) -> &str {
        self.report["owner"].as_str().unwrap_or("in_doubt")
    }

    /// Why it failed.
    pub fn reason(&self) -> String {
        let text = |field: &str| self.report[field].as_str().unwrap_or("").to_owned();
        format!("{} ({})", text("reason"), text("status"))
    }
}

impl Pair {
    /// Two nodes, the first of which gets a new guest.
    ///
    /// # Errors
    /// The guest cannot be made.
    pub async fn boot(nodes: [TrialChild; 2]) -> Result<Self, TrialError> {
        nodes[0].tell("boot").await?;
        Ok(Self { nodes, home: 0 })
    }

    /// The node that the guest is not at.
    pub fn away(&self) -> usize {
        1 - self.home
    }

    /// What both nodes hold.
    ///
    /// # Errors
    /// A node is gone.
    pub fn usage(&self) -> Result<Usage, TrialError> {
        let [a, b] = [self.nodes[0].usage()?, self.nodes[1].usage()?];
        Ok(Usage {
            memory_bytes: a.memory_bytes + b.memory_bytes,
            descriptors: a.descriptors + b.descriptors,
            threads: a.threads + b.threads,
        })
    }

    /// Starts to move the guest to the other node; gives the migration's id. Options are the fields
    /// of the control socket's request.
    ///
    /// # Errors
    /// A node refuses.
    pub async fn start(&mut self, options: &Value) -> Result<String, TrialError> {
        let away = self.away();
        if !self.nodes[away].knows_guest().await? {
            self.nodes[away].tell("expect").await?;
        }
        let mut request = options.clone();
        request["guest"] = GUEST.into();
        request["to"] = self.nodes[away].address.clone().into();
        let migration = self.nodes[self.home].client.post("/v3/migrations", request).await?;
        Ok(migration["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until both sides say how a migration ended. Where it is the guest's, or may be, the
    /// other side is asked too.
    ///
    /// # Errors
    /// It has no end, or a node is gone.
    pub async fn wait(&mut self, id: &str, patience: Duration) -> Result<Ended, TrialError> {
        let ended = self.wait_at_home(id, patience).await?;
        if ended.owner() == "destination" {
            report_of(&self.nodes[self.away()].client, id, patience).await?;
        }
        Ok(ended)
    }

    /// Waits until the source says how a migration ended.
    ///
    /// # Errors
    /// It has no end, or the node is gone.
    pub async fn wait_at_home(&self, id: &str, patience: Duration) -> Result<Ended, TrialError> {
        self.wait_at(self.home, id, patience).await
    }

    /// Waits until this node says how a migration ended.
    ///
    /// # Errors
    /// It has no end, or the node is gone.
    pub async fn wait_at(
        &self,
        at: usize,
        id: &str,
        patience: Duration,
    ) -> Result<Ended, TrialError> {
        let report = report_of(&self.nodes[at].client, id, patience).await?;
        Ok(Ended { id: id.to_owned(), report })
    }

    /// Waits until this share of the guest has been sent once, beyond 1 until it is paused, or all
    /// is over: by progress, not by the clock, so that it means the same on any machine.
    ///
    /// # Errors
    /// There is no progress, or the node is gone.
    pub async fn wait_for_share(
        &self,
        id: &str,
        share: f64,
        patience: Duration,
    ) -> Result<(), TrialError> {
        let is_paused =
            |phase: &str| ![Phase::Connect, Phase::Precopy].map(Phase::name).contains(&phase);
        let is_so_far = |progress: &Value| {
            let number = |field: &str| progress[field].as_f64().unwrap_or(0.0);
            let left = number("remaining_pages") / number("pages").max(1.0);
            left <= 1.0 - share || progress["phase"].as_str().is_some_and(is_paused)
        };
        self.wait_for_progress(id, is_so_far, patience).await
    }

    /// Waits until source and destination have agreed on the migration, or all is over.
    ///
    /// # Errors
    /// There is no progress, or the node is gone.
    pub async fn wait_for_connection(
        &self,
        id: &str,
        patience: Duration,
    ) -> Result<(), TrialError> {
        let is_there = |progress: &Value| progress["phase"] != Phase::Connect.name();
        self.wait_for_progress(id, is_there, patience).await
    }

    /// Waits until the source is about to give the guest away, or all is over.
    ///
    /// # Errors
    /// There is no progress, or the node is gone.
    pub async fn wait_for_commit(&self, id: &str, patience: Duration) -> Result<(), TrialError> {
        let is_there = |progress: &Value| progress["phase"] == Phase::Handover.name();
        self.wait_for_progress(id, is_there, patience).await
    }

    async fn wait_for_progress(
        &self,
        id: &str,
        is_so_far: impl Fn(&Value) -> bool,
        patience: Duration,
    ) -> Result<(), TrialError> {
        let begun = Instant::now();
        loop {
            let migration = self.nodes[self.home].client.get(&migration_path(id)).await?;
            if !migration["report"].is_null() || is_so_far(&migration["progress"]) {
                return Ok(());
            }
            if begun.elapsed() > patience {
                let patience_s = patience.as_secs();
                return Err(TrialError::Hangs { id: id.to_owned(), patience_s });
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Whether the source says that a migration has ended.
    ///
    /// # Errors
    /// The node is gone.
    pub async fn has_ended(&self, id: &str) -> Result<bool, TrialError> {
        let migration = self.nodes[self.home].client.get(&migration_path(id)).await?;
        Ok(!migration["report"].is_null())
    }

    /// Moves the guest; gives the source's report.
    ///
    /// # Errors
    /// As of [`Self::start`] and [`Self::wait`].
    pub async fn move_guest(
        &mut self,
        options: &Value,
        patience: Duration,
    ) -> Result<Ended, TrialError> {
        let id = self.start(options).await?;
        self.wait(&id, patience).await
    }

    /// The guest has come to the other node: it is to be able to leave that again.
    ///
    /// # Errors
    /// The node refuses.
    pub async fn settle(&mut self) -> Result<(), TrialError> {
        self.home = self.away();
        let home = self.home;
        self.nodes[home].tell("own").await
    }

    /// Looks at the guest on both nodes: it must run at `expected`, nowhere else, with every page as
    /// it must be.
    ///
    /// # Errors
    /// A node is gone.
    pub async fn look(&mut self, expected: usize) -> Result<Sight, TrialError> {
        let looks = self.looks().await?;
        Ok(self.judge(&looks, expected))
    }

    /// Looks at a guest that has just moved to the other node, and was not settled there yet: it must
    /// have lost no write on its way either, and both sides must have seen the same image.
    ///
    /// # Errors
    /// A node is gone.
    pub async fn look_at_arrival(&mut self, ended: &Ended) -> Result<Sight, TrialError> {
        let (from, to) = (self.home, self.away());
        let looks = self.looks().await?;
        let mut sight = self.judge(&looks, to);
        let (left, came) = (looks[from]["count"].as_u64(), looks[to]["arrived_with"].as_u64());
        if left != came {
            sight.faults.push(format!("it left after write {left:?} and came with {came:?}"));
        }
        let arrived = arrived_report(&self.nodes[to].client, &ended.id).await?;
        if arrived["digest"] != ended.report["digest"] {
            let (sent, got) = (&ended.report["digest"], &arrived["digest"]);
            sight.faults.push(format!("the image sent has digest {sent}, the one received {got}"));
        }
        Ok(sight)
    }

    async fn looks(&mut self) -> Result<[Value; 2], TrialError> {
        let order = json!({ "do": "look" });
        let [a, b] = &mut self.nodes;
        Ok([a.ask(order.clone()).await?, b.ask(order).await?])
    }

    fn judge(&self, looks: &[Value; 2], expected: usize) -> Sight {
        let number = |field: &str| looks[expected][field].as_u64().unwrap_or(0);
        let (pages, damaged) = (number("pages"), number("damaged"));
        let mut sight = Sight { pages, damaged, faults: Vec::new() };
        let runs_at: Vec<usize> = (0..2).filter(|at| looks[*at]["is_running"] == true).collect();
        let name = |at: usize| self.nodes[at].name();
        match runs_at[..] {
            [at] if at == expected => {}
            [at] => sight.faults.push(format!("it runs at {}, not {}", name(at), name(expected))),
            [] => sight.faults.push("it runs nowhere".to_owned()),
            _ => sight.faults.push("it runs at both nodes".to_owned()),
        }
        if sight.damaged > 0 {
            let first = looks[expected]["first_damage"].as_str().unwrap_or_default();
            sight.faults.push(format!("{} damaged pages; {first}", sight.damaged));
        }
        sight
    }
}

/// The destination's report of a migration that has ended for its source: it may still have last words to
/// wait for.
async fn arrived_report(client: &Client, id: &str) -> Result<Value, TrialError> {
    report_of(client, id, ARRIVAL_PATIENCE).await
}

/// A node's report of a migration, once there is one.
async fn report_of(client: &Client, id: &str, patience: Duration) -> Result<Value, TrialError> {
    let begun = Instant::now();
    loop {
        let mut migration = client.get(&migration_path(id)).await?;
        if !migration["report"].is_null() {
            return Ok(migration["report"].take());
        }
        if begun.elapsed() > patience {
            let patience_s = patience.as_secs();
            return Err(TrialError::Hangs { id: id.to_owned(), patience_s });
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

fn migration_path(id: &str) -> String {
    format!("/v3/migrations/{id}")
}

const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// A destination that lost the last words waits a minute for them.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    /// A control socket that answers one request after another; to those without an answer it is
    /// silent.
    fn serve(name: &str, answers: Vec<Option<Value>>) -> PathBuf {
        let path = std::env::temp_dir().join(format!("dwcp-pair-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let mut kept = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await.unwrap();
                if let Some(answer) = answer.map(|answer| answer.to_string()) {
                    let head =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", answer.len());
                    stream.write_all((head + &answer).as_bytes()).await.unwrap();
                }
                kept.push(stream);
            }
            std::future::pending::<()>().await;
        });
        path
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test);
    }

    #[test]
    fn a_destination_that_has_not_ended_yet_is_waited_for() {
        run(async {
            let unended = || Some(json!({ "report": null }));
            let ended = Some(json!({ "report": { "digest": "7" } }));
            let path = serve("late", vec![unended(), unended(), unended(), ended]);
            let client = Client::new(path.clone());
            assert_eq!(arrived_report(&client, "1").await.unwrap(), json!({ "digest": "7" }));
            std::fs::remove_file(path).unwrap();
        });
    }

    #[test]
    fn a_node_that_is_silent_costs_a_trial_no_more_than_its_patience() {
        run(async {
            let path = serve("silent", vec![None]);
            let client = Client::with_patience(path.clone(), Duration::from_millis(50));
            let error = arrived_report(&client, "1").await.unwrap_err().to_string();
            assert!(error.contains("no answer to /v3/migrations/1 within 50ms"), "{error}");
            std::fs::remove_file(path).unwrap();
        });
    }
}
