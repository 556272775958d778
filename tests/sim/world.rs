//! Two hosts and what is between them; steps are taken in random order until all is over.

mod judge;

use super::guest::{PAGE, SimGuest};
use super::network::{Pipe, Received};
use super::weather::Ends;
use dwcp::base::{MigrationId, StreamId, Time};
use dwcp::encoding::{CodecChoice, ImageDigest};
use dwcp::migration::destination::{self, ChunkError, Destination, DestinationSetup, FaultStance};
use dwcp::migration::ownership::Mark;
use dwcp::migration::page_io::{Carriage, ChunkReader, ChunkWriter, StoreError, unset};
use dwcp::migration::source::{self, ChunkPlan, Source, SourceSetup, Work};
use dwcp::migration::{
    Ending, Failure, GuestSink, GuestSource, MigrationOptions, MissingPages, Owner, PostCopyRule,
    Report,
};
use dwcp::wire::ChunkHeader;
use dwcp::wire::hello::Ended;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Steps with faults, and as many again in which everything must come to an end.
const STORM_STEPS: u64 = 2_000;
const CALM_STEPS: u64 = 200_000;
/// What a destination answers about a migration that ended.
const OVER: i32 = dwcp::Status::PeerAborted as i32;
const LOST: i32 = dwcp::Status::PostCopyLost as i32;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Moved,
    Stayed,
    InDoubt,
    /// By post-copy.
    Switched,
    Lost,
    SourceCrashed,
    DestinationCrashed,
}

/// What may go wrong, in chances out of 10,000 a step.
#[derive(Clone, Copy, Default)]
struct Weather {
    misbehave: u32,
    cut: u32,
    cut_all: u32,
    retire: u32,
    call_fails: u32,
    disk_full: u32,
    cancel: u32,
    crash: u32,
    long_pause: u32,
    switch: u32,
    abandon: u32,
}

struct Link {
    to_destination: Pipe,
    to_source: Pipe,
    source_open: bool,
    destination_open: bool,
    encoding: Option<ChunkPlan>,
    storing: Option<(ChunkHeader, Vec<u8>)>,
}

pub struct World {
    random: fastrand::Rng,
    talk: bool,
    weather: Weather,
    now: Time,
    step: u64,
    options: MigrationOptions,
    /// Whether the destination reads pages out of the source's memory itself, as by RDMA.
    reads: bool,
    source_guest: Arc<SimGuest>,
    sink_guest: Arc<SimGuest>,
    source: Source,
    source_digest: Arc<ImageDigest>,
    source_busy: Option<source::Action>,
    source_record: Option<Mark>,
    source_crashed: bool,
    /// The operator has given the guest up at the source.
    given_up_here: bool,
    /// The source heard on a new connection that all is over.
    told_over: bool,
    destination: Option<Destination>,
    sink_digest: Arc<ImageDigest>,
    destination_busy: Option<destination::Action>,
    destination_record: Option<Mark>,
    destination_crashed: bool,
    missing: Option<Arc<dyn MissingPages>>,
    /// A page that the devices need while they are restored.
    device_page: usize,
    /// What the guest was about to write when it had to wait.
    waiting: Option<(usize, u64)>,
    links: BTreeMap<StreamId, Link>,
    next_stream: u32,
    ends: Ends,
    writer: ChunkWriter,
    reader: ChunkReader,
}

impl World {
    pub fn new(seed: u64, talk: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut chance = |most: u32| if random.bool() { random.u32(..=most) } else { 0 };
        let weather = Weather {
            misbehave: chance(60),
            cut: chance(100),
            cut_all: chance(20),
            retire: chance(200),
            call_fails: chance(3),
            disk_full: chance(4),
            cancel: chance(3),
            crash: chance(12),
            long_pause: chance(40),
            switch: chance(60),
            abandon: chance(3),
        };
        Self::with(seed, random, weather, talk)
    }

    /// A world in which nothing goes wrong.
    pub fn calm(seed: u64, talk: bool) -> Self {
        Self::with(seed, fastrand::Rng::with_seed(seed), Weather::default(), talk)
    }

    /// A world in which nothing goes wrong, and streams retire all the time.
    pub fn restless(seed: u64, talk: bool) -> Self {
        let weather = Weather { retire: 300, ..Weather::default() };
        Self::with(seed, fastrand::Rng::with_seed(seed), weather, talk)
    }

    fn with(seed: u64, mut random: fastrand::Rng, weather: Weather, talk: bool) -> Self {
        let pages = [random.u64(1..80), random.u64(1..20)];
        let (here, there) = (SimGuest::new(pages, true), SimGuest::new(pages, false));
        for page in 0..here.layout().page_count() as usize {
            here.write(page, random.u64(..1000));
        }
        let codecs = [CodecChoice::None, CodecChoice::Lz4, CodecChoice::Zstd(1)];
        let options = MigrationOptions {
            streams: random.u16(1..5),
            codec: codecs[random.usize(..3)].into(),
            max_downtime: Duration::from_millis(random.u64(20..400)),
            deadline: random.bool().then(|| Duration::from_secs(600)),
            bandwidth_limit_bytes_per_s: random.bool().then(|| random.u64(65_536..10_000_000)),
            multifd_channels: 0,
            throttle: random.bool(),
            post_copy: PostCopyRule::NAMES[seed as usize % 3].0,
            reconnect_timeout: Duration::from_secs(20),
            stall_timeout: stall_timeout(&weather),
        };
        let reads = options.post_copy == PostCopyRule::Never && random.bool();
        let (now, id) = (Time(1), MigrationId([7; 16]));
        let layout = here.layout().clone();
        let source_digest = Arc::new(ImageDigest::new(layout.page_count()));
        let sink_digest = Arc::new(ImageDigest::new(layout.page_count()));
        let setup = SourceSetup { id, guest: "vm".into(), layout, options: options.clone() };
        let source = Source::new(setup, source_digest.clone(), random.u32(64..2000), now);
        Self {
            random,
            talk,
            weather,
            now,
            step: 0,
            options,
            reads,
            source_guest: Arc::new(here),
            sink_guest: Arc::new(there),
            source,
            source_digest,
            source_busy: None,
            source_record: None,
            source_crashed: false,
            given_up_here: false,
            told_over: false,
            destination: None,
            sink_digest,
            destination_busy: None,
            destination_record: None,
            destination_crashed: false,
            missing: None,
            device_page: 0,
            waiting: None,
            links: BTreeMap::new(),
            next_stream: 0,
            ends: Ends::default(),
            writer: ChunkWriter::default(),
            reader: ChunkReader::default(),
        }
    }

    /// Runs to the end and checks that it is a good one.
    pub fn run(self) -> Outcome {
        self.run_and_count().0
    }

    /// The same, and tells how streams ended.
    pub fn run_and_count(mut self) -> (Outcome, Ends) {
        while !self.is_over() {
            self.step += 1;
            assert!(self.step < STORM_STEPS + CALM_STEPS, "no end: {}", self.describe());
            if self.step <= STORM_STEPS {
                self.go_wrong();
            }
            self.advance();
            self.check();
        }
        let ends = self.ends;
        (self.judge(), ends)
    }

    fn is_over(&self) -> bool {
        let source_over = self.source_crashed || self.source.is_over();
        let destination_over =
            self.destination_crashed || self.destination.as_ref().is_none_or(Destination::is_over);
        source_over && destination_over
    }

    fn chance(&mut self, of_10_000: u32) -> bool {
        of_10_000 > 0 && self.random.u32(..10_000) < of_10_000
    }

    fn say(&self, text: &str) {
        if self.talk {
            println!("{:>6} {:>12} {text}", self.step, self.now.0);
        }
    }

    fn go_wrong(&mut self) {
        let weather = self.weather;
        if self.chance(weather.misbehave)
            && let Some(id) = self.any_link()
            && let Some(link) = self.links.get_mut(&id)
        {
            let pipe =
                if self.random.bool() { &mut link.to_source } else { &mut link.to_destination };
            pipe.misbehave(&mut self.random);
        }
        let all = self.chance(weather.cut_all);
        if all || self.chance(weather.cut) {
            let cut: Vec<_> = if all {
                self.links.keys().copied().collect()
            } else {
                self.any_link().into_iter().collect()
            };
            self.say(&format!("cut {cut:?}"));
            for id in cut {
                self.cut(id);
            }
        }
        if self.chance(weather.retire)
            && let Some(id) = self.any_link()
        {
            self.source.set_retiring(id, self.random.u8(..4) > 0);
        }
        if self.chance(weather.call_fails) {
            const CALLS: [&str; 10] = [
                "begin_post_copy",
                "place",
                "start_dirty_log",
                "fetch_dirty",
                "read_pages",
                "pause",
                "save_device_state",
                "load_device_state",
                "write_pages",
                "throttle",
            ];
            let guest = if self.random.bool() { &self.source_guest } else { &self.sink_guest };
            guest.state.lock().unwrap().fail = Some(CALLS[self.random.usize(..CALLS.len())]);
        }
        if self.chance(weather.cancel) {
            self.say("cancel");
            match &mut self.destination {
                Some(destination) if self.random.bool() => destination.cancel(),
                _ => self.source.cancel(self.now),
            }
        }
        if self.chance(weather.switch) && !self.source_crashed {
            let asked = self.source.start_post_copy(self.now);
            self.say(&format!("post-copy is asked for: {asked:?}"));
        }
        if self.chance(weather.abandon) {
            self.abandon();
        }
        if self.chance(weather.long_pause) {
            self.now = self.now + Duration::from_millis(self.random.u64(1..9_000));
        }
        if self.chance(weather.crash) && !self.destination_crashed && !self.source_crashed {
            self.crash();
        }
    }

    /// Somebody gives the guest up, on either side.
    fn abandon(&mut self) {
        let mut here = false;
        let mut there = false;
        // Either may be asked first.
        for is_here in if self.random.bool() { [true, false] } else { [false, true] } {
            if here || there {
                break;
            }
            here = is_here && !self.source_crashed && self.source.abandon_post_copy().is_ok();
            there = !is_here
                && !self.destination_crashed
                && self.destination.as_mut().is_some_and(|there| there.abandon_post_copy().is_ok());
        }
        self.given_up_here |= here;
        if here || there {
            self.say(&format!("given up at the {}", if here { "source" } else { "destination" }));
        }
    }

    fn crash(&mut self) {
        self.source_crashed = self.random.bool();
        self.destination_crashed = !self.source_crashed;
        self.say(if self.source_crashed { "source crashes" } else { "destination crashes" });
        let dead = if self.source_crashed { &self.source_guest } else { &self.sink_guest };
        dead.state.lock().unwrap().running = false;
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.cut(id);
        }
    }

    fn any_link(&mut self) -> Option<StreamId> {
        let ids: Vec<_> = self.links.keys().copied().collect();
        self.random.choice(ids)
    }

    /// Cuts a connection; what is on its way may or may not still arrive.
    fn cut(&mut self, id: StreamId) {
        if let Some(link) = self.links.get_mut(&id) {
            let keep = self.random.usize(..=link.to_destination.len());
            link.to_destination.cut(keep);
            let keep = self.random.usize(..=link.to_source.len());
            link.to_source.cut(keep);
        }
    }

    fn advance(&mut self) {
        match self.random.u8(..16) {
            0 => self.write_pages(),
            1 => self.connect(),
            2..=4 => self.drive_source(),
            5..=7 => self.drive_destination(),
            8 => self.pass_time(),
            _ => {
                if let Some(id) = self.any_link() {
                    self.serve(id);
                }
            }
        }
    }

    fn write_pages(&mut self) {
        let guest = [&self.source_guest, &self.sink_guest][self.random.usize(..2)].clone();
        if !guest.state.lock().unwrap().running || self.random.u8(..3) > 0 {
            return;
        }
        let pages = guest.layout().page_count() as usize;
        let next = (self.random.usize(..pages), self.random.u64(..));
        let (page, value) = self.waiting.unwrap_or(next);
        self.waiting = None;
        if !guest.write(page, value) {
            self.waiting = Some((page, value));
            if let Some(destination) = &mut self.destination {
                assert!(!destination.on_fault(page as u64, self.now), "page {page} is nowhere");
            }
        }
    }

    fn pass_time(&mut self) {
        let is_alone = self.source_crashed || self.destination_crashed || self.source.is_over();
        if self.step > STORM_STEPS && is_alone && self.random.u8(..50) == 0 {
            self.abandon();
        }
        let quiet = self.step > STORM_STEPS || self.random.u8(..20) == 0;
        let most_us = if quiet { 1_000_000 } else { 5_000 };
        self.now = self.now + Duration::from_micros(self.random.u64(1..most_us));
        if !self.source_crashed {
            self.source.tick(self.now);
        }
        if let (Some(destination), false) = (&mut self.destination, self.destination_crashed) {
            destination.tick(self.now);
        }
    }

    fn connect(&mut self) {
        let open = self.links.values().filter(|link| link.source_open).count();
        let wanted = !self.source_crashed && self.source.wants_streams();
        if !wanted || open >= usize::from(self.options.streams) {
            return;
        }
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        if self.destination_crashed || self.chance(self.weather.cut * 5) {
            return self.answer_from_record();
        }
        if let Some((ended, status)) = self.ended_here() {
            self.told_over = true;
            return self.source.refused(status, "over", ended, self.now);
        }
        let now = self.now;
        let destination = self.destination.get_or_insert_with(|| {
            let setup = DestinationSetup {
                id: MigrationId([7; 16]),
                guest: "vm".into(),
                layout: self.sink_guest.layout().clone(),
                reconnect_timeout: Duration::from_secs(30),
                stall_timeout: Duration::from_secs(20),
                post_copy: true,
            };
            Destination::new(setup, self.sink_digest.clone(), now)
        });
        if !destination.may_join(id) {
            return;
        }
        destination.stream_up(id, "source", now);
        let lost = self.random.u8(..20) == 0 && self.weather.cut > 0;
        if !lost {
            self.source.stream_up(id, "destination", now);
        }
        let link = Link {
            to_destination: Pipe::new(lost),
            to_source: Pipe::new(lost),
            source_open: !lost,
            destination_open: true,
            encoding: None,
            storing: None,
        };
        self.links.insert(id, link);
    }

    /// A crashed destination is started again now and then, and answers from its record.
    fn answer_from_record(&mut self) {
        if !self.destination_crashed || self.random.u8(..30) > 0 {
            return self.source.connect_failed("refused");
        }
        if let Some(mark) = self.destination_record {
            let ended = match mark.owner() {
                Owner::Destination => Ended::DestinationOwns,
                _ => Ended::SourceOwns,
            };
            self.say(&format!("restarted destination says {ended:?}"));
            let status = if mark.is_loss() { LOST } else { OVER };
            self.source.refused(status, "over", ended, self.now);
        }
    }

    fn ended_here(&self) -> Option<(Ended, i32)> {
        let report = self.destination.as_ref()?.report()?;
        // As a node answers: one that ended well is only over.
        let status = match report.status {
            dwcp::Status::Ok => OVER,
            status => status.code(),
        };
        Some(match report.owner {
            Owner::Destination => (Ended::DestinationOwns, status),
            _ => (Ended::SourceOwns, status),
        })
    }

    fn drive_source(&mut self) {
        if self.source_crashed {
            return;
        }
        while let Some(event) = self.source.next_event() {
            self.ends.count(&event, self.source.is_over());
            self.say(&format!("source {event:?}"));
        }
        if let Some(action) = self.source_busy.take() {
            let answer = self.perform_source(action);
            return self.source.answer(answer, self.now);
        }
        // The action is taken now and done in a later step: anything may come between.
        self.source_busy = self.source.next_action();
    }

    fn perform_source(&mut self, action: source::Action) -> source::Answer {
        use source::{Action, Answer};
        self.say(&format!("source does {action:?}"));
        let guest = self.source_guest.clone();
        match action {
            Action::StartDirtyLog => Answer::DirtyLogStarted(guest.start_dirty_log()),
            Action::FetchDirty => Answer::DirtyFetched(self.fetch_dirty()),
            Action::Pause => Answer::Paused(guest.pause()),
            Action::Resume => {
                assert!(!self.sink_guest.state.lock().unwrap().running, "two guests run");
                Answer::Resumed(GuestSource::resume(guest.as_ref()))
            }
            Action::SaveDeviceState => Answer::DeviceState(guest.save_device_state()),
            Action::Throttle(percent) => Answer::Throttled(guest.throttle(percent)),
            Action::Persist(mark) => {
                let full = self.step <= STORM_STEPS && self.chance(self.weather.disk_full * 100);
                if full {
                    return Answer::Persisted(mark, Err("disk full".into()));
                }
                self.source_record = Some(mark);
                Answer::Persisted(mark, Ok(()))
            }
            Action::Finish(ending) => Answer::Finished(GuestSource::finish(guest.as_ref(), ending)),
        }
    }

    fn fetch_dirty(&mut self) -> Result<(), dwcp::migration::GuestError> {
        for region in 0..2 {
            let pages = self.source_guest.layout().pages_of(region);
            let mut log = vec![0; (pages.end - pages.start).div_ceil(64) as usize];
            self.source_guest.fetch_dirty(region, &mut log)?;
            self.source.merge_dirty(region, &log);
        }
        Ok(())
    }

    fn drive_destination(&mut self) {
        if self.destination_crashed {
            return;
        }
        let Some(destination) = &mut self.destination else { return };
        let mut said = Vec::new();
        while let Some(event) = destination.next_event() {
            self.ends.count(&event, self.source.is_over());
            said.push(event);
        }
        match (destination.fault_stance(), &self.missing) {
            (FaultStance::Release, Some(missing)) => missing.release(),
            (FaultStance::Abandon, Some(missing)) => missing.abandon(),
            _ => {}
        }
        let restores =
            matches!(self.destination_busy, Some(destination::Action::LoadDeviceState(_)));
        let lacks = self.sink_guest.state.lock().unwrap().missing[self.device_page];
        if restores && lacks {
            // The devices wait for a page of memory.
            destination.on_fault(self.device_page as u64, self.now);
        } else if let Some(action) = self.destination_busy.take() {
            if let Some(answer) = self.perform_destination(action)
                && let Some(destination) = &mut self.destination
            {
                destination.answer(answer, self.now);
            }
        } else {
            self.destination_busy = destination.next_action();
        }
        said.iter().for_each(|event| self.say(&format!("destination {event:?}")));
    }

    fn perform_destination(&mut self, action: destination::Action) -> Option<destination::Answer> {
        use destination::{Action, Answer};
        self.say(&format!("destination does {action:?}"));
        let guest = self.sink_guest.clone();
        Some(match action {
            Action::CloseStream(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.to_destination.cut(0);
                    link.to_source.closed = true;
                }
                return None;
            }
            Action::BeginPostCopy(missing) => {
                let begun = guest.begin_post_copy(&missing);
                self.device_page = self.random.usize(..guest.layout().page_count() as usize);
                Answer::PostCopyBegun(begun.map(|missing| self.missing = Some(missing)))
            }
            Action::LoadDeviceState(state) => {
                Answer::DeviceStateLoaded(guest.load_device_state(&state))
            }
            Action::Resume => {
                self.check_handover();
                Answer::Resumed(GuestSink::resume(guest.as_ref()))
            }
            Action::Persist(mark) => {
                let full = self.step <= STORM_STEPS && self.chance(self.weather.disk_full * 100);
                if full {
                    return Some(Answer::Persisted(mark, Err("disk full".into())));
                }
                self.destination_record = Some(mark);
                Answer::Persisted(mark, Ok(()))
            }
            Action::Finish(ending) => Answer::Finished(GuestSink::finish(guest.as_ref(), ending)),
        })
    }

    /// The image at the destination is the source's, bit by bit, and the source stands still.
    fn check_handover(&self) {
        let (here, mut there) =
            (self.source_guest.state.lock().unwrap(), self.sink_guest.state.lock().unwrap());
        assert!(!here.running, "the guest is started at the destination while the source's runs");
        for page in (0..there.missing.len()).filter(|page| !there.missing[*page]) {
            let at = page * PAGE..(page + 1) * PAGE;
            assert!(here.memory[at.clone()] == there.memory[at], "page {page} differs");
        }
        there.truth = Some(here.memory.clone());
        assert_eq!(here.device, there.device, "the device state differs");
    }

    /// One step of the threads of one stream.
    fn serve(&mut self, id: StreamId) {
        match self.random.u8(..4) {
            0 | 1 => self.send(id),
            2 => self.receive_at_source(id),
            _ => self.receive_at_destination(id),
        }
        let gone = |link: &Link| !link.source_open && !link.destination_open;
        if self.links.get(&id).is_some_and(gone) {
            self.links.remove(&id);
        }
    }

    fn send(&mut self, id: StreamId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if self.source_crashed || !link.source_open {
            link.source_open &= !self.source_crashed;
            return;
        }
        if let Some(plan) = link.encoding.take() {
            return self.encode(id, &plan);
        }
        if link.to_source.is_dry() {
            return self.close_source(id, "closed");
        }
        if link.to_destination.len() > 4 {
            return;
        }
        match self.source.next_work(id, self.now) {
            Work::Frame(frame) => link.to_destination.send_frame(&frame),
            Work::Chunk(plan) => link.encoding = Some(plan),
            Work::Wait(until) => assert!(until > self.now, "a wait that is over"),
            Work::Close => self.close_source(id, "over"),
        }
    }

    fn encode(&mut self, id: StreamId, plan: &ChunkPlan) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let pages = (plan.id, plan.runs.as_slice());
        let (guest, layout) = (self.source_guest.as_ref(), self.source_guest.layout());
        let sequence = link.to_destination.sequence();
        let carriage = match self.reads {
            true => Carriage::Read { is_still: self.source.is_still() },
            false => Carriage::Packed(self.options.codec.one()),
        };
        match self.writer.encode(pages, guest, layout, carriage, &self.source_digest, sequence) {
            Ok(chunk) => {
                let (zero, full) = (chunk.zero_pages, chunk.full_pages);
                self.source.chunk_encoded(plan.id, zero, full, chunk.wire_bytes(), self.now);
                link.to_destination.send([chunk.head, chunk.payload].concat());
            }
            Err(error) => {
                let failure = Failure::new(dwcp::Status::Callback, error.to_string());
                self.source.chunk_failed(plan.id, failure, self.now);
            }
        }
    }

    fn close_source(&mut self, id: StreamId, reason: &str) {
        if let Some(link) = self.links.get_mut(&id)
            && link.encoding.is_none()
            && link.source_open
        {
            link.source_open = false;
            link.to_destination.closed = true;
            link.to_source.cut(0);
            self.source.stream_down(id, reason, self.now);
        }
    }

    fn receive_at_source(&mut self, id: StreamId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if self.source_crashed || !link.source_open {
            return;
        }
        let good = match link.to_source.receive() {
            Some(Ok(Received::Frame(frame))) => self.source.frame(id, &frame, self.now).is_ok(),
            Some(_) => false,
            None => return,
        };
        if !good {
            link.to_source.cut(0);
        }
    }

    fn receive_at_destination(&mut self, id: StreamId) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if self.destination_crashed || !link.destination_open {
            link.destination_open &= !self.destination_crashed;
            return;
        }
        if let Some((header, payload)) = link.storing.take() {
            return self.store(id, &header, &payload);
        }
        let Some(destination) = &mut self.destination else { return };
        let good = match link.to_destination.receive() {
            Some(Ok(Received::Frame(frame))) => destination.frame(id, &frame, self.now).is_ok(),
            Some(Ok(Received::Chunk(header, payload))) => {
                let claimed = destination.begin_chunk(id, &header);
                if claimed.is_ok() {
                    // The first half of each page comes now, the second when the guest has gone on.
                    self.sink_guest.read_half(&self.source_guest, &header, 0);
                    link.storing = Some((header, payload));
                }
                // The runtime, too, passes over one that comes when nothing is needed any more.
                matches!(claimed, Ok(()) | Err(ChunkError::NotReceiving(_)))
            }
            Some(Err(_)) => false,
            None if link.to_destination.closed => false,
            None => true,
        };
        if good {
            return self.flush(id);
        }
        link.destination_open = false;
        link.to_destination.cut(0);
        link.to_source.closed = true;
        destination.stream_down(id, "broken", self.now);
    }

    fn store(&mut self, id: StreamId, header: &ChunkHeader, payload: &[u8]) {
        if header.is_read() {
            return self.accept(id, header);
        }
        let (guest, layout) = (self.sink_guest.as_ref(), self.sink_guest.layout());
        let mut stream = payload;
        let stored = match self.missing.clone() {
            Some(pages) => {
                self.reader.place(header, &mut stream, pages.as_ref(), layout, &self.sink_digest)
            }
            None => self.reader.store(header, &mut stream, guest, layout, &self.sink_digest),
        };
        let Some(destination) = &mut self.destination else { return };
        destination.end_chunk(id, header, stored.as_ref().ok().copied(), self.now);
        match stored {
            Ok(_) => self.flush(id),
            Err(error) => {
                if !matches!(error, StoreError::Stream(_)) {
                    destination.fail(Failure::new(dwcp::Status::Callback, error.to_string()));
                }
                if let Some(link) = self.links.get_mut(&id) {
                    link.to_destination.cut(0);
                }
            }
        }
    }

    fn accept(&mut self, id: StreamId, header: &ChunkHeader) {
        let (guest, layout) = (self.sink_guest.as_ref(), self.sink_guest.layout());
        let (Some(link), Some(destination)) = (self.links.get_mut(&id), &mut self.destination)
        else {
            return;
        };
        // The source's end goes with its connection.
        let accepted = match self.source_crashed || !link.source_open {
            true => {
                unset(header, &self.sink_digest);
                None
            }
            false => {
                guest.read_half(&self.source_guest, header, 1);
                Some(self.reader.accept(header, guest, layout, &self.sink_digest))
            }
        };
        let whole = accepted.as_ref().and_then(|accepted| accepted.as_ref().ok().copied());
        destination.end_chunk(id, header, whole, self.now);
        match accepted {
            Some(Ok(_)) => return self.flush(id),
            Some(Err(error)) => destination.fail(error.into()),
            None => {}
        }
        link.to_destination.cut(0);
    }

    fn flush(&mut self, id: StreamId) {
        let (Some(link), Some(destination)) = (self.links.get_mut(&id), &mut self.destination)
        else {
            return;
        };
        while link.destination_open
            && let Some(frame) = destination.next_frame(id, self.now)
        {
            link.to_source.send_frame(&frame);
        }
    }
}

/// Where nothing breaks streams, none is made anew because steps that are drawn late let time pass.
fn stall_timeout(weather: &Weather) -> Duration {
    Duration::from_secs(if weather.cut == 0 { 600 } else { 20 })
}
