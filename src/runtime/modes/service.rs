//! The thread behind the modes: sleeps until something is due, and waits for many probes at a time.

use super::{Modes, probe};
use crate::base::Time;
use crate::observe::EventKind;
use crate::runtime::clock::now;
use std::future::pending;
use std::sync::Arc;
use tokio::runtime::Builder;

/// Runs until the modes are stopped.
pub fn run(modes: &Arc<Modes>) {
    // Names are looked up by a second thread, one at a time; most peers have numbers.
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    match runtime {
        Ok(runtime) => runtime.block_on(serve(modes)),
        Err(error) => {
            let text = format!("modes of peers are not measured: {error}");
            modes.journal.publish(None, None, EventKind::Notice { text });
        }
    }
}

async fn serve(modes: &Arc<Modes>) {
    while let Some((due, next)) = modes.step(probe::random_number) {
        for due in due {
            let modes = modes.clone();
            tokio::spawn(async move {
                let outcome = probe::once(&due.peer, due.number).await;
                modes.probed(&due, outcome);
                // The answer may have made the next one due sooner.
                modes.news.notify_one();
            });
        }
        tokio::select! {
            () = modes.news.notified() => {}
            () = until(next) => {}
        }
    }
}

async fn until(next: Option<Time>) {
    match next {
        Some(next) => tokio::time::sleep(next.since(now())).await,
        None => pending().await,
    }
}
