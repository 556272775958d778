//! The ends of a node's migrations, as its events tell them: one request at a time for all of them,
//! where asking after each one would keep the machine busy.

use crate::Status;
use crate::cli::client::Client;
use crate::cli::trial::TrialError;
use crate::runtime::lock::lock;
use serde_json::Value;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// How one side saw a migration end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// The migration.
    pub id: String,
    /// The status' name.
    pub status: String,
    /// Who owns the guest, as far as this side knows: `source`, `destination` or `in_doubt`.
    pub owner: String,
    /// Why it failed.
    pub reason: String,
    /// How long the guest stood still.
    pub downtime: Duration,
}

impl End {
    fn read(event: &Value) -> Self {
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let number = |field: &str| event[field].as_u64().unwrap_or(0);
        Self {
            id: text("migration"),
            status: text("status"),
            owner: text("owner"),
            reason: text("reason"),
            downtime: Duration::from_micros(number("downtime_us")),
        }
    }

    /// Whether the guest has moved, and all went well.
    pub fn is_moved(&self) -> bool {
        self.status == Status::Ok.name()
    }
}

/// The ends that nobody has taken yet, on one node.
pub struct Ends {
    node: String,
    kept: Mutex<Kept>,
    news: Notify,
}

#[derive(Default)]
struct Kept {
    ends: VecDeque<End>,
    /// Why no more will come.
    lost: Option<String>,
}

impl Ends {
    /// Of a node of this name.
    pub fn of(node: &str) -> Self {
        Self { node: node.to_owned(), kept: Mutex::default(), news: Notify::new() }
    }

    /// Takes in what the node tells, until it is silent.
    pub async fn follow(self: Arc<Self>, client: Client) {
        let mut after = 0_u64;
        loop {
            let position = after.to_string();
            let parameters = [
                ("after", Some(&*position)),
                ("wait_ms", Some(WAIT_MS)),
                ("filter", Some("migration_ended")),
            ];
            match client.query("/v3/events", &parameters).await {
                Ok(answer) => {
                    after = answer["last"].as_u64().unwrap_or(after);
                    self.add(answer["events"].as_array().into_iter().flatten().map(End::read));
                }
                Err(error) => {
                    lock(&self.kept).lost = Some(error.to_string());
                    return self.news.notify_waiters();
                }
            }
        }
    }

    fn add(&self, ends: impl Iterator<Item = End>) {
        let mut kept = lock(&self.kept);
        kept.ends.extend(ends);
        // What nobody asks for, such as the destination's word on what failed, is not kept for ever.
        let surplus = kept.ends.len().saturating_sub(MAX_ENDS);
        kept.ends.drain(..surplus);
        drop(kept);
        self.news.notify_waiters();
    }

    /// Waits for the end of a migration, and takes it.
    ///
    /// # Errors
    /// It has none, or the node is silent.
    pub async fn wait(&self, id: &str, patience: Duration) -> Result<End, TrialError> {
        let hangs = |_| TrialError::Hangs { id: id.to_owned(), patience_s: patience.as_secs() };
        tokio::time::timeout(patience, self.next(id)).await.map_err(hangs)?
    }

    async fn next(&self, id: &str) -> Result<End, TrialError> {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            // From here on no telling is missed.
            news.as_mut().enable();
            if let Some(end) = self.take(id)? {
                return Ok(end);
            }
            news.await;
        }
    }

    fn take(&self, id: &str) -> Result<Option<End>, TrialError> {
        let mut kept = lock(&self.kept);
        if let Some(at) = kept.ends.iter().position(|end| end.id == id) {
            return Ok(kept.ends.remove(at));
        }
        match &kept.lost {
            None => Ok(None),
            Some(reason) => Err(TrialError::Silent {
                name: self.node.clone(),
                order: "events".to_owned(),
                source: io::Error::other(reason.clone()),
            }),
        }
    }
}

/// How long the node lets a request for news wait.
const WAIT_MS: &str = "5000";
const MAX_ENDS: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test);
    }

    fn end(id: &str) -> End {
        End { id: id.to_owned(), ..End::default() }
    }

    #[test]
    fn an_end_is_taken_whether_it_comes_before_or_after_somebody_waits() {
        run(async {
            let ends = Arc::new(Ends::of("n"));
            ends.add([end("early")].into_iter());
            let waiting = ends.clone();
            let late = tokio::spawn(async move { waiting.wait("late", PATIENCE).await });
            tokio::task::yield_now().await;
            ends.add([end("other"), end("late")].into_iter());
            assert_eq!(late.await.unwrap().unwrap().id, "late");
            assert_eq!(ends.wait("early", PATIENCE).await.unwrap().id, "early");
            let error = ends.wait("late", Duration::ZERO).await.unwrap_err();
            assert!(error.to_string().contains("late has no end"), "{error}");
        });
    }

    #[test]
    fn who_waits_for_a_node_that_is_gone_hears_of_it() {
        run(async {
            let ends = Arc::new(Ends::of("n"));
            ends.clone().follow(Client::new("/nowhere".into())).await;
            let error = ends.wait("x", PATIENCE).await.unwrap_err();
            assert!(error.to_string().contains("node n does not answer"), "{error}");
        });
    }

    #[test]
    fn what_nobody_takes_is_not_kept_for_ever() {
        let ends = Ends::of("n");
        ends.add((0..MAX_ENDS * 2).map(|number| end(&number.to_string())));
        assert_eq!(lock(&ends.kept).ends.len(), MAX_ENDS);
        assert!(ends.take(&(MAX_ENDS * 2 - 1).to_string()).unwrap().is_some());
    }

    #[test]
    fn an_event_is_read() {
        let event = json!({ "migration": "7", "status": "DWCP_OK", "owner": "destination", "downtime_us": 1500 });
        let end = End::read(&event);
        assert!(end.is_moved());
        assert_eq!((end.id.as_str(), end.downtime), ("7", Duration::from_micros(1500)));
    }

    const PATIENCE: Duration = Duration::from_secs(60);
}
