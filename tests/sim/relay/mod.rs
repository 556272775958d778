//! A relayed migration: the two state machines, a hypervisor that writes its stream, and a world
//! between and around them that goes wrong.
//!
//! The hypervisors outlive the processes that relay for them, as QEMU does: one whose migration
//! breaks off lets its guest go on, one that has written everything leaves it paused, and one that
//! has not got the stream's end never runs it.

mod judge;

use super::channels::{Queues, Sockets, Writer, place_of};
use super::network::{Pipe, Received};
use super::weather::{Ends, Weather};
pub use super::world::Outcome;
use dwcp::Status;
use dwcp::base::limits::{MAX_ANNOUNCED_PAGES, MAX_ANNOUNCED_PIECE_PAGES};
use dwcp::base::{MachineFacts, MigrationId, StreamId, Time};
use dwcp::encoding::{HeldKey, page_hash};
use dwcp::migration::ownership::Mark;
use dwcp::migration::relay::RelaySetup;
use dwcp::migration::relay::destination::{self, Patience, RelayDestination, Released};
use dwcp::migration::relay::source::{self, PageCounts, RelaySource};
use dwcp::migration::source::Work;
use dwcp::migration::{Ending, Failure, MigrationOptions, Owner};
use dwcp::wire::hello::{Ended, Features};
use dwcp::wire::segment::SegmentPayload;
use dwcp::wire::{Frame, FrameKind};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Steps with faults, and as many again in which everything must come to an end.
const STORM_STEPS: u64 = 3_000;
const CALM_STEPS: u64 = 400_000;
/// Steps from an outage to the next, at least.
const REST_STEPS: u64 = 200;
/// No run takes longer on the virtual clock.
const LONGEST: Duration = Duration::from_secs(1_800);
/// Segments that the hypervisor's reader has under its hands, beyond the window.
const MOST_IN_PACKERS: usize = 6;
/// The destination's acknowledgements go out at the latest when so many wait.
const ACK_BATCH: usize = 4;
/// What the destination hashes pages under.
const KEY: HeldKey = HeldKey([6; 32]);
/// The largest window that a source has.
const WINDOW_BYTES: u64 = 64 << 20;
/// Segments that are acknowledged before they are replayed.
const ACKNOWLEDGED_AHEAD: u64 = 32;

/// What is said of a guest that is lost.
const GONE: &str = "the hypervisor has ended";

struct Link {
    to_destination: Pipe,
    to_source: Pipe,
    source_open: bool,
    destination_open: bool,
}

pub struct RelayWorld {
    random: fastrand::Rng,
    talk: bool,
    weather: Weather,
    now: Time,
    /// Nothing passes and nobody connects until then.
    outage_until: Time,
    step: u64,
    /// No outage begins before this step, or several would be one that nobody waits out.
    rests_until: u64,
    options: MigrationOptions,
    keeps_records: bool,
    writer: Writer,
    /// Pages that the destination announces; none: the two did not agree that it does.
    announced: Option<u32>,
    source: RelaySource,
    source_busy: Option<source::Action>,
    source_started: bool,
    source_record: Option<Mark>,
    source_endings: Vec<Ending>,
    source_crashed: bool,
    destination: Option<RelayDestination>,
    destination_busy: Option<destination::Action>,
    destination_record: Option<Mark>,
    destination_endings: Vec<Ending>,
    destination_crashed: bool,
    /// It crashed between its record and the guest's first instruction.
    crashed_releasing: bool,
    /// It could not take back in writing what it had written down.
    could_not_take_back: bool,
    /// The channel whose threads hardly get to run.
    sleeper: Option<u8>,
    /// A segment that is being unpacked.
    in_hand: Option<Vec<u8>>,
    queues: Queues,
    arrived: Sockets,
    replayed_bytes: u64,
    arrived_runs: bool,
    /// The hypervisor that had the end is gone: the guest may have run there.
    lost_there: bool,
    links: BTreeMap<StreamId, Link>,
    next_stream: u32,
    ends: Ends,
}

fn sum_of(payload: &[u8]) -> (u64, u64) {
    (payload.len() as u64, page_hash(payload))
}

impl RelayWorld {
    pub fn new(seed: u64, talk: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let weather = Weather::stormy(seed, &mut random);
        Self::with(seed, random, weather, talk)
    }

    /// A world in which the network alone goes wrong, and never for longer than anybody waits.
    pub fn bad_network(seed: u64, talk: bool) -> Self {
        Self::with(seed, fastrand::Rng::with_seed(seed), Weather::BAD_NETWORK, talk)
    }

    /// A world in which nothing goes wrong, and streams retire all the time.
    pub fn restless(seed: u64, talk: bool) -> Self {
        Self::with(seed, fastrand::Rng::with_seed(seed), Weather::RESTLESS, talk)
    }

    /// A world in which nothing goes wrong, but for readers and writers of channels that sleep while
    /// others go on, with pieces that fill windows.
    pub fn out_of_step(seed: u64, talk: bool) -> Self {
        let weather = Weather::OUT_OF_STEP;
        let mut random = fastrand::Rng::with_seed(seed);
        let channels = random.u8(1..=4);
        let segments = (random.u64(1..40), 300 << 10);
        let writer = Writer::with(seed, channels, segments, &mut random);
        let sleeper = Some(random.u8(..=channels));
        Self { sleeper, ..Self::with_writer(random, weather, writer, talk) }
    }

    fn with(seed: u64, mut random: fastrand::Rng, weather: Weather, talk: bool) -> Self {
        let writer = Writer::new(seed, &mut random);
        // Mostly little; now and then many pieces, or more than may be told.
        let announced = match seed % 1_000 {
            0 => Some(MAX_ANNOUNCED_PAGES + 1),
            1..=10 => Some(seed as u32 % 11 * MAX_ANNOUNCED_PIECE_PAGES as u32 / 3),
            _ if !seed.is_multiple_of(4) => Some(seed as u32 % 100),
            _ => None,
        };
        Self { announced, ..Self::with_writer(random, weather, writer, talk) }
    }

    fn with_writer(
        mut random: fastrand::Rng,
        weather: Weather,
        writer: Writer,
        talk: bool,
    ) -> Self {
        let options = MigrationOptions {
            streams: random.u16(1..5),
            bandwidth_limit_bytes_per_s: random.bool().then(|| 65_536 << random.u8(..8)),
            reconnect_timeout: Duration::from_secs(20),
            stall_timeout: stall_timeout(&weather),
            ..MigrationOptions::default()
        };
        let source = RelaySource::new(setup(&writer), options.clone(), Time(1));
        Self {
            keeps_records: random.u8(..4) > 0,
            random,
            talk,
            weather,
            now: Time(1),
            outage_until: Time(0),
            step: 0,
            rests_until: 0,
            options,
            announced: None,
            source,
            source_busy: None,
            source_started: false,
            source_record: None,
            source_endings: Vec::new(),
            source_crashed: false,
            destination: None,
            destination_busy: None,
            destination_record: None,
            destination_endings: Vec::new(),
            destination_crashed: false,
            crashed_releasing: false,
            could_not_take_back: false,
            sleeper: None,
            in_hand: None,
            queues: vec![VecDeque::new(); usize::from(writer.scripts.channels()) + 1],
            arrived: Sockets::new(&writer.scripts),
            replayed_bytes: 0,
            arrived_runs: false,
            lost_there: false,
            links: BTreeMap::new(),
            next_stream: 0,
            ends: Ends::default(),
            writer,
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
            assert!(self.now.since(Time(0)) < LONGEST, "too long: {}", self.describe());
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
        let destination_over = self.destination_crashed
            || self.destination.as_ref().is_none_or(RelayDestination::is_over);
        source_over && destination_over
    }

    fn chance(&mut self, of_10_000: u32) -> bool {
        of_10_000 > 0 && self.step <= STORM_STEPS && self.random.u32(..10_000) < of_10_000
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
        let mut cut = Vec::new();
        if self.chance(weather.cut) {
            cut.extend(self.any_link());
        }
        if self.chance(weather.cut_all) {
            cut.extend(self.links.keys());
        }
        cut.into_iter().for_each(|id| self.cut(id));
        if self.chance(weather.retire)
            && let Some(id) = self.any_link()
        {
            self.source.set_retiring(id, self.random.u8(..4) > 0);
        }
        if self.chance(weather.hypervisor_fails) && self.source_started && !self.writer.end_told {
            self.say("the hypervisor gives up");
            let failure = Failure::new(Status::Callback, "as the simulator wants it");
            self.writer.break_off();
            self.source.fail(failure, self.now);
        }
        if self.chance(weather.cancel) {
            self.cancel();
        }
        if self.chance(weather.announces_again)
            && let Some(destination) = &mut self.destination
        {
            destination.announce(KEY, &[1, 2, 3]);
        }
        if self.chance(weather.long_pause) {
            self.now = self.now + Duration::from_millis(self.random.u64(1..9_000));
        }
        if self.now < self.outage_until {
            self.rests_until = self.step + REST_STEPS;
        }
        if self.chance(weather.outage) && self.step >= self.rests_until {
            let seconds = self.random.u64(1..=weather.longest_outage_s);
            self.outage_until = self.now + Duration::from_secs(seconds);
            self.say(&format!("no network until {}", self.outage_until.0));
        }
        // What is being written down or set in motion at the end is the worst moment.
        let delicate = self.destination_busy.is_some() && self.replayed_bytes > 0;
        let crash = if delicate { weather.crash * 20 } else { weather.crash };
        if self.chance(crash) && !self.destination_crashed && !self.source_crashed {
            self.crash();
        }
    }

    fn cancel(&mut self) {
        let there = self.random.bool() && !self.destination_crashed;
        self.say(if there { "cancel at the destination" } else { "cancel at the source" });
        match &mut self.destination {
            Some(destination) if there => destination.cancel(),
            _ => self.source.cancel(self.now),
        }
    }

    fn crash(&mut self) {
        if self.random.bool() {
            self.say("source crashes");
            self.source_crashed = true;
            self.writer.break_off();
        } else {
            self.say("destination crashes");
            self.destination_crashed = true;
            let released = self.arrived_runs || self.lost_there;
            self.crashed_releasing = self.destination_record == Some(Mark::Owned) && !released;
        }
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.cut(id);
        }
    }

    fn any_link(&mut self) -> Option<StreamId> {
        let ids: Vec<_> = self.links.keys().copied().collect();
        self.random.choice(ids)
    }

    /// Cuts a connection; what is on its way may or may not still arrive, and may do so when the
    /// source has long sent it again.
    fn cut(&mut self, id: StreamId) {
        if let Some(link) = self.links.get_mut(&id) {
            let keep = self.random.usize(..=link.to_destination.len());
            link.to_destination.cut(keep);
            let keep = self.random.usize(..=link.to_source.len());
            link.to_source.cut(keep);
        }
    }

    fn advance(&mut self) {
        match self.random.u8(..20) {
            0 => self.connect(),
            1..=3 => self.drive_source(),
            4..=6 => self.write_stream(),
            7 | 8 => self.drive_destination(),
            9..=11 => self.replay(),
            12 => self.pass_time(),
            _ => {
                if let Some(id) = self.any_link().filter(|_| self.now >= self.outage_until) {
                    self.serve(id);
                }
            }
        }
    }

    fn pass_time(&mut self) {
        let idle = self.step > STORM_STEPS || self.now < self.outage_until;
        let quiet = idle || self.random.u8(..20) == 0;
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
        let outage = self.now < self.outage_until;
        if self.destination_crashed || outage || self.chance(self.weather.cut * 5) {
            return self.answer_from_record();
        }
        if let Some((status, ended)) = self.ended_there() {
            return self.source.refused(status.code(), "over", ended, self.now);
        }
        let (now, announced, setup) = (self.now, self.announced, setup(&self.writer));
        let destination = self.destination.get_or_insert_with(|| {
            let patience = Patience {
                reconnect_timeout: Duration::from_secs(30),
                stall_timeout: Duration::from_secs(20),
            };
            let mut destination = RelayDestination::new(setup, patience, now);
            if let Some(count) = announced {
                destination.announce(KEY, &(0..u64::from(count)).collect::<Vec<_>>());
            }
            destination
        });
        if !destination.may_join(id) {
            let busy = Status::Busy.code();
            return self.source.refused(busy, "no further stream", Ended::No, now);
        }
        destination.stream_up(id, "source", now);
        let lost = self.random.u8(..20) == 0 && self.weather.cut > 0;
        if !lost {
            self.source.agree(features(self.announced.is_some()), now);
            self.source.stream_up(id, "destination", now);
        }
        let link = Link {
            to_destination: Pipe::new(lost),
            to_source: Pipe::new(lost),
            source_open: !lost,
            destination_open: true,
        };
        self.links.insert(id, link);
    }

    /// A crashed destination is started again now and then, and answers from its record.
    fn answer_from_record(&mut self) {
        let outage = self.now < self.outage_until;
        if !self.destination_crashed || outage || self.random.u8(..30) > 0 {
            return self.source.connect_failed("refused");
        }
        let (status, ended) = match self.destination_record.filter(|_| self.keeps_records) {
            Some(mark) if mark.owner() == Owner::Destination => (-17, Ended::DestinationOwns),
            Some(_) => (-17, Ended::SourceOwns),
            None => (Status::NotFound.code(), Ended::No),
        };
        self.say(&format!("restarted destination says {ended:?}"));
        self.source.refused(status, "over", ended, self.now);
    }

    /// What a node that remembers how it ended turns the source away with.
    fn ended_there(&self) -> Option<(Status, Ended)> {
        let report = self.destination.as_ref()?.report()?;
        let ended = match report.owner {
            Owner::Destination => Ended::DestinationOwns,
            _ => Ended::SourceOwns,
        };
        Some(match report.status {
            Status::Ok => (Status::PeerAborted, ended),
            failure => (failure, ended),
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
        if self.source.should_start(self.now) {
            self.source_started = true;
            // All of it is known before the hypervisor begins, whatever the network did.
            let known = self.source.announced().map(|pages| pages.len());
            let told = self.announced.map(|count| count.min(MAX_ANNOUNCED_PAGES));
            assert_eq!(known, told, "{}", self.describe());
        }
        // The action is taken now and done in a later step: anything may come between.
        match self.source_busy.take() {
            Some(action) => self.perform_source(action),
            None => self.source_busy = self.source.next_action(),
        }
    }

    fn perform_source(&mut self, action: source::Action) {
        self.say(&format!("source does {action:?}"));
        match action {
            source::Action::Persist(mark) => {
                let full = self.chance(self.weather.disk_full);
                if !full {
                    self.source_record = Some(mark);
                }
                let result = if full { Err("disk full".into()) } else { Ok(()) };
                self.source.persisted(mark, result, self.now);
            }
            source::Action::Return(_) => panic!("no post-copy was agreed on"),
            source::Action::Finish(ending) => {
                self.source_endings.push(ending);
                self.writer.runs |= ending == Ending::Keep;
                self.source.finished(Ok(()), self.now);
            }
        }
    }

    /// The hypervisor writes on, and the packers pack.
    fn write_stream(&mut self) {
        if self.source_crashed || !self.source_started || !self.source_endings.is_empty() {
            return;
        }
        let packing = self.writer.packing.len();
        if packing > 0 && (self.random.bool() || packing >= MOST_IN_PACKERS) {
            let (number, payload) = self.writer.packing.remove(self.random.usize(..packing));
            self.writer.pushed_bytes += payload.len() as u64;
            let stream_bytes = sum_of(&payload).0;
            let place = (place_of(&payload).0, number);
            let payload = SegmentPayload { head: payload, ..SegmentPayload::default() };
            return self.source.push(place, stream_bytes, payload, PageCounts::default());
        }
        if !self.source.wants_segments() {
            // The reader is gone, or has read all.
            if !self.writer.end_told {
                self.writer.break_off();
            }
            return;
        }
        let main_taken = self.writer.sockets.main_taken();
        if main_taken >= self.writer.stops_at && !self.writer.stop_told {
            self.writer.runs = false;
            self.writer.stop_told = true;
            return self.source.guest_stopped(self.now);
        }
        if self.writer.has_written_all() {
            self.writer.end_told = true;
            return self.source.stream_ended(self.writer.sum, self.now);
        }
        let left = self.writer.stops_at.saturating_sub(main_taken);
        // A page stands for a thousand, so that some streams have both kinds of window.
        self.source.first_pass_left(Some(left * 1000));
        for channel in 0..=self.writer.scripts.channels() {
            if self.random.u8(..4) > 0 {
                self.writer.sockets.write(&self.writer.scripts, channel);
            }
            if self.random.bool() && !self.sleeps(channel) {
                self.read_channel(channel);
            }
        }
    }

    fn sleeps(&mut self, channel: u8) -> bool {
        self.sleeper == Some(channel) && self.random.u8(..5) > 0
    }

    /// One step of a channel's reader.
    fn read_channel(&mut self, channel: u8) {
        let writer = &mut self.writer;
        let packing = &writer.packing;
        let of_channel = packing.iter().filter(|(_, one)| place_of(one).0 == channel).count();
        let Some(piece) = writer.sockets.next(channel) else { return };
        if self.source.has_room(channel, of_channel) && packing.len() < MOST_IN_PACKERS {
            let number = writer.sockets.all_taken();
            let payload = writer.scripts.payload(number, channel, piece);
            let (bytes, checksum) = sum_of(&payload);
            writer.sum.add(channel, bytes, checksum);
            writer.packing.push((number, payload));
            writer.sockets.take(channel);
        }
    }

    fn drive_destination(&mut self) {
        if self.destination_crashed {
            return;
        }
        let Some(destination) = &mut self.destination else { return };
        let said: Vec<_> = std::iter::from_fn(|| destination.next_event()).collect();
        match self.destination_busy.take() {
            Some(action) => self.perform_destination(action),
            None => self.destination_busy = destination.next_action(),
        }
        let over = self.source.is_over();
        said.iter().for_each(|event| self.ends.count(event, over));
        said.iter().for_each(|event| self.say(&format!("destination {event:?}")));
        self.flush_where(|destination, _| destination.has_control());
    }

    fn perform_destination(&mut self, action: destination::Action) {
        self.say(&format!("destination does {action:?}"));
        let full = self.chance(self.weather.disk_full);
        let refuses = self.chance(self.weather.never_runs);
        let loses = self.chance(self.weather.is_lost);
        let Some(destination) = &mut self.destination else { return };
        match action {
            destination::Action::Persist(mark) => {
                self.could_not_take_back |= full && self.destination_record == Some(Mark::Owned);
                if !full {
                    self.destination_record = Some(mark);
                }
                let result = if full { Err("disk full".into()) } else { Ok(()) };
                destination.persisted(mark, result);
            }
            destination::Action::Recover => unreachable!("nothing has switched"),
            destination::Action::ReleaseEnd if refuses => {
                let words = "the hypervisor refuses the image".into();
                destination.released(Released::NeverRan(words), self.now);
            }
            destination::Action::ReleaseEnd if loses => {
                destination.released(Released::Lost(GONE.into()), self.now);
                self.lost_there = true;
                self.check_release();
            }
            destination::Action::ReleaseEnd => {
                destination.released(Released::Running, self.now);
                self.arrived_runs = true;
                self.check_release();
            }
            destination::Action::Finish(ending) => {
                self.destination_endings.push(ending);
                destination.finished(Ok(()), self.now);
            }
        }
    }

    /// The hypervisor has the end of the stream.
    fn check_release(&self) {
        let sent_all = self.writer.has_written_all();
        let all_put = self.arrived.all_put() == self.writer.scripts.pieces();
        assert!(sent_all && all_put, "{}", self.describe());
        assert_eq!(self.destination_record, Some(Mark::Owned), "{}", self.describe());
        assert!(self.destination_endings.is_empty(), "{}", self.describe());
    }

    /// One step of the replay's threads, and of the hypervisor that reads.
    fn replay(&mut self) {
        if self.destination_crashed || self.chance(self.weather.slow_replay) {
            return;
        }
        for _ in 0..8 {
            let channel = self.random.u8(..=self.writer.scripts.channels());
            match self.random.u8(..3) {
                0 => self.unpack(),
                1 if self.sleeps(channel) => {}
                1 => self.write_channel(channel),
                _ => self.arrived.read(&self.writer.scripts, channel),
            }
        }
    }

    fn unpack(&mut self) {
        let Some(destination) = &mut self.destination else { return };
        let Some(payload) = self.in_hand.take() else {
            if destination.wants_segments() {
                self.in_hand = destination.next_segment().map(|payload| payload.head);
            }
            return;
        };
        let (channel, _) = place_of(&payload);
        let (bytes, checksum) = sum_of(&payload);
        if let Some(number) = destination.unpacked(channel, bytes, checksum) {
            assert_eq!(payload[..8], number.to_le_bytes(), "out of order");
            self.queues[usize::from(channel)].push_back(payload);
        }
        self.flush_acks();
    }

    /// One step of a channel's thread.
    fn write_channel(&mut self, channel: u8) {
        let Some(destination) = &mut self.destination else { return };
        let queue = &mut self.queues[usize::from(channel)];
        let Some(payload) = queue.front() else { return };
        let number = u64::from_le_bytes(payload[..8].try_into().unwrap());
        let (of, piece) = place_of(payload);
        if !destination.wants_segments() || !self.arrived.put(channel, piece) {
            return;
        }
        // Order, completeness and content in one.
        assert!(of == channel && *payload == self.writer.scripts.payload(number, channel, piece));
        self.replayed_bytes += payload.len() as u64;
        queue.pop_front();
        destination.replayed(number, self.now);
        self.flush_acks();
    }

    fn flush_acks(&mut self) {
        self.flush_where(|destination, id| {
            let waiting = destination.waiting_acks(id);
            waiting >= ACK_BATCH || waiting > 0 && !destination.has_segment()
        });
    }

    /// Nothing else makes frames go out, so what is forgotten here stays unsaid.
    fn flush_where(&mut self, is_due: impl Fn(&RelayDestination, StreamId) -> bool) {
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            if self.destination.as_ref().is_some_and(|destination| is_due(destination, id)) {
                self.flush(id);
            }
        }
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
        let tired = self.source.is_over() && self.random.u8(..50) == 0;
        let Some(link) = self.links.get_mut(&id) else { return };
        if self.source_crashed || !link.source_open {
            link.source_open &= !self.source_crashed;
            link.to_destination.closed |= self.source_crashed;
            return;
        }
        if link.to_source.is_dry() || tired {
            return self.close_source(id, "closed");
        }
        if link.to_destination.len() > 4 {
            return;
        }
        match self.source.next_work(id, self.now) {
            Work::Frame(frame) => link.to_destination.send_frame(&frame),
            Work::Chunk(payload) => {
                let frame = Frame { kind: FrameKind::Segment, payload: payload.head.clone() };
                link.to_destination.send_frame(&frame);
            }
            Work::Wait(until) => assert!(until > self.now, "a wait that is over"),
            Work::Close => self.close_source(id, "over"),
        }
    }

    fn close_source(&mut self, id: StreamId, reason: &str) {
        if let Some(link) = self.links.get_mut(&id) {
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
            link.to_source.closed |= self.destination_crashed;
            return;
        }
        let Some(destination) = &mut self.destination else { return };
        let tired = destination.is_over() && self.random.u8(..50) == 0;
        let good = match link.to_destination.receive() {
            Some(Ok(Received::Frame(Frame { kind: FrameKind::Segment, payload: head }))) => {
                let payload = SegmentPayload { head, ..SegmentPayload::default() };
                destination.segment(id, payload, self.now).is_ok()
            }
            Some(Ok(Received::Frame(frame))) => destination.frame(id, frame, self.now).is_ok(),
            Some(_) => false,
            None => !link.to_destination.closed,
        };
        if good && !tired {
            return self.flush_acks();
        }
        link.destination_open = false;
        link.to_destination.cut(0);
        link.to_source.closed = true;
        destination.stream_down(id, "broken", self.now);
    }

    fn flush(&mut self, id: StreamId) {
        let (Some(link), Some(destination)) = (self.links.get_mut(&id), &mut self.destination)
        else {
            return;
        };
        while link.destination_open
            && !self.destination_crashed
            && let Some(frame) = destination.next_frame(id, self.now)
        {
            link.to_source.send_frame(&frame);
        }
    }
}

fn features(held_pages: bool) -> Features {
    Features {
        codecs: 7,
        chunk_bytes: 1 << 18,
        baseline_pages: 0,
        held_pages,
        multifd_channels: 4,
        post_copy: false,
        rdma: false,
        recovers: None,
        flags: u32::MAX,
    }
}

fn setup(writer: &Writer) -> RelaySetup {
    let facts = MachineFacts { machine: "sim".into(), ram_bytes: 1 << 20, cpus: 1 };
    let channels = writer.scripts.channels();
    let (id, guest) = (MigrationId([9; 16]), "vm".into());
    RelaySetup { id, guest, facts, channels, post_copy: false, recovers: None }
}

/// Where nothing breaks streams, none is made anew because steps that are drawn late let time pass.
fn stall_timeout(weather: &Weather) -> Duration {
    Duration::from_secs(if weather.cut == 0 { 600 } else { 20 })
}
