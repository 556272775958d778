//! The thread behind the modes: sleeps until something is due, and waits for many probes at a time.

use super::{Modes, probe};
use crate::base::Time;
use crate::observe::EventKind;
use crate::runtime::clock::now;
use std::future::pending;
use std::io;
use std::os::unix::net::UnixStream as Socket;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::sync::Notify;

/// What becomes due within so long is done at one time: a thousand peers would otherwise wake the thread
/// a thousand times a second.
const BURST: Duration = Duration::from_millis(100);

/// Runs until the modes are stopped; a byte comes in on `news` when there is something new.
pub fn run(modes: &Arc<Modes>, news: Socket) {
    // Names are looked up by a second thread, one at a time; most peers have numbers.
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
    if let Err(error) = runtime.and_then(|runtime| runtime.block_on(serve(modes, news))) {
        let text = format!("modes of peers are not measured: {error}");
        modes.journal.publish(None, None, EventKind::Notice { text });
    }
}

async fn serve(modes: &Arc<Modes>, news: Socket) -> io::Result<()> {
    let news = UnixStream::from_std(news)?;
    let answered = Arc::new(Notify::new());
    while let Some((due, next)) = modes.step(probe::random_number) {
        for due in due {
            let (modes, answered) = (modes.clone(), answered.clone());
            tokio::spawn(async move {
                let outcome = probe::once(&due.peer, due.number, modes.dscp()).await;
                modes.probed(&due, outcome);
                // The answer may have made the next one due sooner.
                answered.notify_one();
            });
        }
        tokio::time::sleep(BURST).await;
        tokio::select! {
            ready = news.readable() => {
                ready?;
                read_all(&news)?;
            }
            () = answered.notified() => {}
            () = until(next) => {}
        }
    }
    Ok(())
}

/// Takes what is there; all of it says the same.
fn read_all(news: &UnixStream) -> io::Result<()> {
    loop {
        match news.try_read(&mut [0; 64]) {
            // The other end is gone, and `step` will say so.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

async fn until(next: Option<Time>) {
    match next {
        Some(next) => tokio::time::sleep(next.since(now())).await,
        None => pending().await,
    }
}
