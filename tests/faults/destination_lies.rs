//! A destination that accepts and then lies, stalls or goes away: the source keeps its guest, or
//! says that it cannot know.

use crate::hand::{FEATURES, Hand, PAGE_BYTES, stored_chunk};
use crate::stage::{PATIENCE, Stage, hasty};
use dwcp::Status;
use dwcp::base::{ChunkId, StreamId};
use dwcp::migration::{Ending, MigrationOptions, Owner};
use dwcp::runtime::connection::Incoming;
use dwcp::wire::hello::{Ended, Features};
use dwcp::wire::{ChunkAck, ChunkHeader, Control, FrameKind, HelloReply};
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

/// Accepts connections and hands each to a script on a thread of its own.
pub struct Fake {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Fake {
    pub fn new(script: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stopped, accepted) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let (stop, count, script) = (stopped.clone(), Arc::clone(&accepted), Arc::new(script));
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if stop.load(SeqCst) {
                    return;
                }
                count.fetch_add(1, SeqCst);
                let (socket, script) = (socket.unwrap(), script.clone());
                std::thread::spawn(move || script(socket));
            }
        });
        Self { address, stopped, accepted, thread: Some(thread) }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Answers every hello with this.
    fn replying(reply: HelloReply) -> Self {
        Self::new(move |socket| {
            if let Some((mut hand, _)) = Hand::answer(socket, &reply) {
                hand.drain();
            }
        })
    }

    /// A destination that stores and acknowledges as it should, but for what `answer` says.
    fn storing(answer: impl Fn(&Control) -> Vec<Control> + Send + Sync + 'static) -> Self {
        Self::new(move |socket| {
            let Some((mut hand, _)) = Hand::answer(socket, &accept()) else { return };
            serve(&mut hand, &answer, |id| ChunkAck { arrived: vec![id], ..ChunkAck::default() });
        })
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stopped.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn accept() -> HelloReply {
    accept_with(FEATURES)
}

pub fn accept_with(features: Features) -> HelloReply {
    HelloReply::Accept { token: [5; 16], features, node: "mallory".into() }
}

fn refuse(status: i32, ended: Ended) -> HelloReply {
    HelloReply::Refuse { status, reason: "no room at the inn".into(), ended }
}

fn serve(
    hand: &mut Hand,
    answer: &dyn Fn(&Control) -> Vec<Control>,
    acknowledge: impl Fn(ChunkId) -> ChunkAck,
) {
    while let Ok(incoming) = hand.next() {
        match incoming {
            Incoming::Chunk(header) => {
                skip_payload(hand, &header);
                hand.frame(FrameKind::ChunkAck, acknowledge(header.id).encode());
            }
            Incoming::Frame(frame) if frame.kind == FrameKind::Control => {
                let (sequence, message) = Control::decode(&frame.payload).unwrap();
                hand.frame(FrameKind::ControlAck, (sequence + 1).to_le_bytes().to_vec());
                answer(&message).iter().for_each(|reply| hand.say(reply));
            }
            Incoming::Frame(_) | Incoming::Segment(_) => {}
        }
    }
}

pub fn skip_payload(hand: &mut Hand, header: &ChunkHeader) {
    let mut payload = vec![0; header.payload_bytes as usize];
    hand.reader.payload().read_exact(&mut payload).unwrap();
}

fn one_stream() -> MigrationOptions {
    MigrationOptions { streams: 1, ..hasty() }
}

/// The migration to this destination fails so, and the guest then moves to an honest one.
fn assert_kept(fake: &Fake, status: Status, text: &str) {
    assert_kept_by(one_stream(), fake, status, text);
}

/// As [`assert_kept`], when every wait for a connection is shorter than what is allowed.
fn assert_given_up(fake: &Fake, status: Status, text: &str) {
    let reconnect_timeout = Duration::from_secs(3);
    assert_kept_by(MigrationOptions { reconnect_timeout, ..one_stream() }, fake, status, text);
}

fn assert_kept_by(options: MigrationOptions, fake: &Fake, status: Status, text: &str) {
    let stage = Stage::new();
    let report = stage.run(&fake.address.to_string(), options);
    stage.assert_stayed(&report, status, text);
    stage.assert_moves();
}

/// Answers `AllArrived` as an honest destination would: with the digest that was promised.
fn honest_then(last: impl Fn(&Control) -> Vec<Control>) -> impl Fn(&Control) -> Vec<Control> {
    let promised = std::sync::Mutex::new([0; 16]);
    move |message| match message {
        Control::Finalize { digest, .. } => {
            *promised.lock().unwrap() = *digest;
            Vec::new()
        }
        Control::AllArrived => vec![Control::Verified { digest: *promised.lock().unwrap() }],
        other => last(other),
    }
}

#[test]
fn another_digest_keeps_the_guest_here() {
    let fake = Fake::storing(|message| match message {
        Control::AllArrived => vec![Control::Verified { digest: [9; 16] }],
        _ => Vec::new(),
    });
    let text = format!("destination's image digest is {}, the source's", "09".repeat(16));
    assert_kept(&fake, Status::DigestMismatch, &text);
}

#[test]
fn messages_out_of_turn_keep_the_guest_here() {
    let lies = [
        Control::Committed,
        Control::Verified { digest: [0; 16] },
        Control::Resumed { status: 0, reason: String::new() },
        Control::Commit,
        Control::AllArrived,
        Control::Fenced { stream: StreamId(0), arrived: Vec::new() },
    ];
    for lie in lies {
        let text = format!("unexpected message from the destination: {lie:?}");
        let fake = Fake::new(move |socket| {
            let Some((mut hand, _)) = Hand::answer(socket, &accept()) else { return };
            hand.say(&lie);
            serve(&mut hand, &|_| Vec::new(), |_| ChunkAck::default());
        });
        assert_kept(&fake, Status::UnexpectedMessage, &text);
    }
}

#[test]
fn an_abort_after_the_commit_gives_the_guest_back() {
    let fake = Fake::storing(honest_then(|message| match message {
        Control::Commit => {
            let reason = "cannot write it down".to_string();
            vec![Control::Abort { status: Status::StateFile.code(), reason }]
        }
        _ => Vec::new(),
    }));
    assert_kept(&fake, Status::StateFile, "destination: cannot write it down");
}

#[test]
fn silence_after_the_commit_leaves_the_guest_paused_and_in_doubt() {
    let fake = Fake::storing(honest_then(|_| Vec::new()));
    let stage = Stage::new();
    let report = stage.run(&fake.address.to_string(), one_stream());
    assert_eq!((report.status, report.owner), (Status::InDoubt, Owner::InDoubt));
    let advice = "the destination's record tells whether it has the guest";
    assert!(report.reason.contains(advice), "{}", report.reason);
    assert!(!stage.here.is_running() && !stage.there.is_running());
    assert_eq!(stage.here.endings(), [Ending::Undecided]);
    // Moving it elsewhere could make two of it.
    let again = stage.alpha.migrate("vm", &fake.address.to_string(), one_stream());
    assert!(again.err().unwrap().to_string().contains("no guest \"vm\""));
}

#[test]
fn acknowledgements_of_nothing_do_not_count() {
    let fake = Fake::new(|socket| {
        let Some((mut hand, _)) = Hand::answer(socket, &accept()) else { return };
        let others = |id: ChunkId| ChunkId(id.0 + 1_000_000);
        serve(&mut hand, &|_| Vec::new(), |id| ChunkAck {
            arrived: vec![others(id)],
            damaged: vec![others(id)],
        });
    });
    assert_kept(&fake, Status::PeerStalled, "chunks unacknowledged");
}

#[test]
fn chunks_that_always_arrive_damaged_end_it() {
    let fake = Fake::new(|socket| {
        let Some((mut hand, _)) = Hand::answer(socket, &accept()) else { return };
        serve(&mut hand, &|_| Vec::new(), |id| ChunkAck {
            damaged: vec![id],
            ..ChunkAck::default()
        });
    });
    assert_kept(&fake, Status::Corrupt, "1000 chunks in a row arrived damaged");
}

#[test]
fn a_destination_that_never_answers_stalls_it() {
    let fake = Fake::new(|socket| {
        let hand = Hand::answer(socket, &accept());
        std::thread::sleep(Duration::from_secs(5));
        drop(hand);
    });
    assert_kept(&fake, Status::PeerStalled, "the destination made no progress for");
}

#[test]
fn a_hello_never_answered_is_a_failure_to_connect() {
    let fake = Fake::new(|socket| {
        std::thread::sleep(Duration::from_secs(5));
        drop(socket);
    });
    assert_kept(&fake, Status::Connect, "no connection for");
}

#[test]
fn closing_at_once_for_ever_is_found_out() {
    let rude = Fake::new(drop);
    assert_kept(&rude, Status::Connect, "no connection for");
    let polite = Fake::new(|socket| drop(Hand::answer(socket, &accept())));
    assert_given_up(&polite, Status::ConnectionLost, "no progress for");
    assert!(polite.accepted.load(SeqCst) > 2, "it must have tried again");
}

#[test]
fn breaking_the_protocol_for_ever_is_found_out() {
    let page = [3; PAGE_BYTES as usize];
    let chunks = Fake::new(move |socket| {
        let Some((mut hand, _)) = Hand::answer(socket, &accept()) else { return };
        hand.chunk(&stored_chunk(1, 0, &page), &page);
        hand.drain();
    });
    assert_given_up(&chunks, Status::ConnectionLost, "no progress for");
    let ahead = Fake::new(|socket| {
        let Some((mut hand, _)) = Hand::answer(socket, &accept()) else { return };
        hand.frame(FrameKind::ControlAck, 9_000_u64.to_le_bytes().to_vec());
        hand.drain();
    });
    assert_given_up(&ahead, Status::ConnectionLost, "no progress for");
}

#[test]
fn a_refusal_is_passed_on() {
    let known = Fake::replying(refuse(Status::NotFound.code(), Ended::No));
    assert_kept(&known, Status::NotFound, "the destination refused: no room at the inn");
    let unknown = Fake::replying(refuse(-77_777, Ended::No));
    assert_kept(&unknown, Status::Refused, "no room at the inn");
    let busy = Fake::replying(refuse(Status::Busy.code(), Ended::No));
    assert_kept(&busy, Status::Connect, "last attempt: no room at the inn");
    let newer = Fake::replying(refuse(Status::BadVersion.code(), Ended::No));
    assert_kept(&newer, Status::Connect, "last attempt: no room at the inn");
    for ended in [Ended::SourceOwns, Ended::DestinationOwns] {
        let over = Fake::replying(refuse(Status::BadState.code(), ended));
        assert_kept(&over, Status::BadState, "migration is over: no room at the inn");
    }
}

#[test]
fn an_accept_out_of_bounds_names_its_value() {
    let features = Features { chunk_bytes: 7, ..FEATURES };
    let tiny = Fake::replying(HelloReply::Accept { token: [5; 16], features, node: "m".into() });
    assert_kept(&tiny, Status::Connect, "chunk size is 7, allowed is 64 KiB to 1 MiB");
}

#[test]
fn a_failing_start_at_the_destination_is_its_own() {
    let fake = Fake::storing(honest_then(|message| match message {
        Control::Commit => {
            let reason = "no CPU left".to_string();
            vec![Control::Committed, Control::Resumed { status: -500, reason }]
        }
        _ => Vec::new(),
    }));
    let stage = Stage::new();
    let migration = stage.migrate(&fake.address.to_string(), one_stream());
    let report = migration.wait(PATIENCE).unwrap();
    assert_eq!((report.status, report.owner), (Status::Callback, Owner::Destination));
    assert!(report.reason.contains("cannot start it: no CPU left"), "{}", report.reason);
    assert!(!stage.here.is_running());
    assert_eq!(stage.here.endings(), [Ending::Discard]);
}
