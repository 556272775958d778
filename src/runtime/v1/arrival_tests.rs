//! Arrivals by hand: connection threads that write late, and what is left once all is over.

use super::*;
use crate::base::RegionLayout;
use crate::migration::Dialect;
use crate::runtime::state_file::Side;
use crate::runtime::v1::intake::Start;
use crate::wire::v1::{f8, f16};
use std::sync::mpsc::{Receiver, Sender, channel};

const PATIENCE: Duration = Duration::from_secs(120);
const PAGES: u64 = 4;
const PAGE: usize = 4096;
const IMAGE: usize = PAGES as usize * PAGE;

/// A guest that tells what is done to it, and may take its time to be written.
#[derive(Default)]
struct Sink {
    calls: Mutex<Vec<&'static str>>,
    gate: Option<Gate>,
}

/// Where a write says that it has begun, and waits for a word.
struct Gate {
    begun: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

impl GuestSink for Sink {
    fn layout(&self) -> MemoryLayout {
        let length_bytes = IMAGE as u64;
        let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes };
        MemoryLayout::new(PAGE as u32, vec![region]).unwrap()
    }

    fn write_pages(&self, _: usize, _: u64, _: &[u8]) -> Result<(), GuestError> {
        if let Some(Gate { begun, go }) = &self.gate {
            lock(begun).send(()).unwrap();
            let _ = lock(go).recv_timeout(PATIENCE);
        }
        lock(&self.calls).push("written");
        Ok(())
    }

    fn zero_pages(&self, _: usize, _: u64, _: u64) -> Result<(), GuestError> {
        lock(&self.calls).push("zeroed");
        Ok(())
    }

    fn read_pages(&self, _: usize, _: u64, _: &mut [u8]) -> Result<(), GuestError> {
        Err(GuestError::new("read_pages", "nobody asks"))
    }

    fn load_device_state(&self, _: &[u8]) -> Result<(), GuestError> {
        Err(GuestError::new("load_device_state", "v1 has none"))
    }

    fn resume(&self) -> Result<(), GuestError> {
        Err(GuestError::new("resume", "never from v1"))
    }

    fn finish(&self, _: Ending) -> Result<(), GuestError> {
        lock(&self.calls).push("finished");
        Ok(())
    }
}

fn begin(sink: &Arc<Sink>, dialect: Dialect) -> (Arc<Arrival>, JoinHandle<()>) {
    let v1 = V1Options { dialect, f8_chunk_bytes: PAGE as u32, ..V1Options::default() };
    let (id, peer) = (MigrationId([3; 16]), "10.0.0.1".parse().unwrap());
    let setup = ArrivalSetup { id, guest: "vm".into(), peer, v1 };
    let arrival = Arrival::new(setup, sink.clone(), 1, Arc::default()).unwrap();
    let keeper = RecordKeeper::new(None, Side::Destination, id, ("vm", "v1://10.0.0.1"));
    let driver = arrival.start(keeper, Box::new(|| {}), Box::new(|_| {})).unwrap();
    (arrival, driver)
}

fn claim_f8(arrival: &Arrival, id: u32) -> u64 {
    let start = Start::F8(f8::ChunkHeader { id, payload_bytes: PAGE as u32 });
    arrival.take_in(|intake| intake.claim(&start)).unwrap()
}

#[test]
fn a_guest_is_not_finished_while_somebody_writes_into_it() {
    let ((begun, is_begun), (go, may_go)) = (channel(), channel());
    let gate = Some(Gate { begun: Mutex::new(begun), go: Mutex::new(may_go) });
    let sink = Arc::new(Sink { gate, ..Sink::default() });
    let (arrival, driver) = begin(&sink, Dialect::F8);
    let at = claim_f8(&arrival, 0);
    let stored = std::thread::scope(|scope| {
        let writer = scope.spawn(|| arrival.store(at, &[7; PAGE]));
        is_begun.recv_timeout(PATIENCE).unwrap();
        arrival.cancel();
        let is_early = arrival.wait(Duration::from_millis(300)).is_some();
        go.send(()).unwrap();
        assert!(!is_early, "it is over, and a write is under way");
        writer.join().unwrap()
    });
    assert!(stored.is_ok(), "{stored:?}");
    assert_eq!(arrival.wait(PATIENCE).unwrap().status, Status::Cancelled);
    driver.join().unwrap();
    assert_eq!(*lock(&sink.calls), ["written", "finished"]);
}

#[test]
fn nothing_is_written_once_an_arrival_has_failed() {
    let sink = Arc::new(Sink::default());
    let (arrival, driver) = begin(&sink, Dialect::F8);
    let at = claim_f8(&arrival, 0);
    arrival.cancel();
    let failure = arrival.store(at, &[7; PAGE]).unwrap_err();
    assert_eq!(failure.status, Status::Cancelled, "{failure:?}");
    driver.join().unwrap();
    assert_eq!(*lock(&sink.calls), ["finished"]);
}

#[test]
fn what_has_ended_holds_nothing_and_still_tells_how_much_came() {
    let sink = Arc::new(Sink::default());
    let (arrival, driver) = begin(&sink, Dialect::F16);
    let header =
        f16::ChunkHeader { id: 0, offset_bytes: 0, payload_bytes: 4096, total_bytes: 8192 };
    arrival.take_in(|intake| intake.claim(&Start::F16(header))).unwrap();
    arrival.fill(0, vec![7; 4096]).unwrap();
    let held = arrival.footprint();
    assert_eq!((held.early_bytes, held.page_table_bytes), (4096, PAGES * HASH_BYTES));
    arrival.cancel();
    assert_eq!(arrival.wait(PATIENCE).unwrap().wire_bytes, 4096);
    driver.join().unwrap();
    assert_eq!(arrival.footprint(), Footprint::default());
    assert_eq!(lock(&arrival.state).intake.held_bytes(), 0);
    assert_eq!(lock(&arrival.digest).unset_pages(), 0, "no page has a hash, set or unset");
    let progress = arrival.progress();
    assert_eq!((progress.wire_bytes, progress.remaining_pages), (4096, PAGES / 2));
}

#[test]
fn a_whole_image_keeps_its_digest_and_nothing_else() {
    let sink = Arc::new(Sink::default());
    let (arrival, driver) = begin(&sink, Dialect::F8);
    for id in 0..PAGES as u32 {
        arrival.store(claim_f8(&arrival, id), &[id as u8; PAGE]).unwrap();
    }
    let report = arrival.wait(PATIENCE).unwrap();
    driver.join().unwrap();
    let pages =
        (0..PAGES).map(|page| (page, crate::encoding::digest::page_hash(&[page as u8; PAGE])));
    assert_eq!(report.digest, ImageDigest::of_pages(pages).to_string());
    assert_eq!(arrival.footprint(), Footprint::default());
    assert_eq!(*lock(&sink.calls), ["zeroed", "written", "written", "written", "finished"]);
    let more = arrival.store(0, &[1; PAGE]).unwrap_err();
    assert!(more.reason.contains("more follows on a whole image"), "{more:?}");
}
