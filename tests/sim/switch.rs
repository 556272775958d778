//! A relayed migration whose hypervisor switches to post-copy: the two state machines, a hypervisor at
//! either end, and a world in which links, hypervisors and nodes fail.
//!
//! The hypervisor at the source writes memory until it is told to switch; then its guest stands still, and
//! it writes the package, without which no guest runs there, and the memory that is missing. The one at the
//! destination answers all the time, and says at its end that it has everything.

use super::network::{Pipe, Received};
pub use super::world::Outcome;
use dwcp::Status;
use dwcp::base::{MachineFacts, MigrationId, StreamId, Time};
use dwcp::encoding::page_hash;
use dwcp::migration::ownership::Mark;
use dwcp::migration::relay::destination::{self, Patience, RelayDestination, Released};
use dwcp::migration::relay::source::{self, PageCounts, RelaySource};
use dwcp::migration::relay::{RelaySetup, StreamSum};
use dwcp::migration::source::Work;
use dwcp::migration::{Ending, MigrationOptions, Owner, PostCopyRule};
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
const STREAMS: usize = 3;
const MOST_IN_PACKERS: usize = 4;

struct Link {
    to_destination: Pipe,
    to_source: Pipe,
    source_open: bool,
    destination_open: bool,
}

/// The hypervisor that the guest leaves.
struct Here {
    runs: bool,
    dead: bool,
    ordered: bool,
    /// Pieces before the package, if it never switches; and behind it.
    most_before: u64,
    behind: u64,
    read: u64,
    /// The number of the package, once it was written.
    package: Option<u64>,
    sum: StreamSum,
    packing: Vec<(u64, Vec<u8>)>,
    ended: bool,
    heard: u8,
}

/// The hypervisor that it comes to.
#[derive(Default)]
struct There {
    runs: bool,
    dead: bool,
    kept: bool,
    has_package: bool,
    told_restored: bool,
    has_all: bool,
    pieces: u64,
    said: u8,
    queue: VecDeque<Vec<u8>>,
}

/// In chances out of 10,000 a step.
#[derive(Clone, Copy, Default)]
struct Weather {
    misbehave: u32,
    cut: u32,
    cut_all: u32,
    outage: u32,
    disk_full: u32,
    cancel: u32,
    hypervisor_dies: u32,
    crash: u32,
}

pub struct SwitchWorld {
    random: fastrand::Rng,
    talk: bool,
    weather: Weather,
    now: Time,
    step: u64,
    outage_until: Time,
    /// No outage begins before this step, or several would be one that nobody waits out.
    rests_until: u64,
    source: RelaySource,
    source_busy: Option<source::Action>,
    source_record: Option<Mark>,
    source_ending: Option<Ending>,
    source_crashed: bool,
    started: bool,
    destination: Option<RelayDestination>,
    destination_busy: Option<destination::Action>,
    destination_record: Option<Mark>,
    destination_ending: Option<Ending>,
    destination_crashed: bool,
    here: Here,
    there: There,
    in_hand: Option<Vec<u8>>,
    links: BTreeMap<StreamId, Link>,
    next_stream: u32,
    abandoned: bool,
}

fn number_of(payload: &[u8]) -> u64 {
    u64::from_le_bytes(payload[..8].try_into().unwrap())
}

fn setup() -> RelaySetup {
    let facts = MachineFacts { machine: "sim".into(), ram_bytes: 1 << 20, cpus: 1 };
    let (id, guest) = (MigrationId([9; 16]), "vm".into());
    RelaySetup { id, guest, facts, channels: 0, post_copy: true, recovers: None }
}

impl SwitchWorld {
    pub fn new(seed: u64, talk: bool) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut chance = |most: u32| if random.bool() { random.u32(..=most) } else { 0 };
        let weather = Weather {
            misbehave: chance(60),
            cut: chance(100),
            cut_all: chance(20),
            outage: chance(12),
            disk_full: chance(600),
            cancel: chance(6),
            hypervisor_dies: chance(8),
            crash: chance(8),
        };
        Self::with(random, weather, talk)
    }

    /// A world in which the network alone goes wrong, and after the switch for as long as it likes.
    pub fn bad_network(seed: u64, talk: bool) -> Self {
        let weather =
            Weather { misbehave: 40, cut: 80, cut_all: 8, outage: 6, ..Weather::default() };
        Self::with(fastrand::Rng::with_seed(seed), weather, talk)
    }

    fn with(mut random: fastrand::Rng, weather: Weather, talk: bool) -> Self {
        let second = Duration::from_secs(1);
        let options = MigrationOptions {
            post_copy: PostCopyRule::Manual,
            reconnect_timeout: 60 * second,
            stall_timeout: 60 * second,
            ..MigrationOptions::default()
        };
        let here = Here {
            runs: true,
            dead: false,
            ordered: false,
            most_before: random.u64(1..150),
            behind: random.u64(1..100),
            read: 0,
            package: None,
            sum: StreamSum::default(),
            packing: Vec::new(),
            ended: false,
            heard: 0,
        };
        Self {
            random,
            talk,
            weather,
            now: Time(1),
            step: 0,
            outage_until: Time(0),
            rests_until: 0,
            source: RelaySource::new(setup(), options, Time(1)),
            source_busy: None,
            source_record: None,
            source_ending: None,
            source_crashed: false,
            started: false,
            destination: None,
            destination_busy: None,
            destination_record: None,
            destination_ending: None,
            destination_crashed: false,
            here,
            there: There::default(),
            in_hand: None,
            links: BTreeMap::new(),
            next_stream: 0,
            abandoned: false,
        }
    }

    /// Runs to the end and checks that it is a good one.
    pub fn run(mut self) -> Outcome {
        while !self.is_over() {
            self.step += 1;
            assert!(self.step < STORM_STEPS + CALM_STEPS, "no end: {}", self.describe());
            if self.step <= STORM_STEPS {
                self.go_wrong();
            } else {
                self.operate();
            }
            self.advance();
            self.check();
        }
        self.judge()
    }

    fn is_over(&self) -> bool {
        let there = self.destination.as_ref().is_none_or(RelayDestination::is_over);
        (self.source_crashed || self.source.is_over()) && (self.destination_crashed || there)
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
        let ids: Vec<_> = self.links.keys().copied().collect();
        if let Some(id) = self.random.choice(ids.clone()) {
            if self.chance(weather.misbehave)
                && let Some(link) = self.links.get_mut(&id)
            {
                let back = self.random.bool();
                let pipe = if back { &mut link.to_source } else { &mut link.to_destination };
                pipe.misbehave(&mut self.random);
            }
            if self.chance(weather.cut) {
                self.cut(id);
            }
        }
        if self.chance(weather.cut_all) {
            ids.into_iter().for_each(|id| self.cut(id));
        }
        if self.now < self.outage_until {
            self.rests_until = self.step + REST_STEPS;
        }
        if self.chance(weather.outage) && self.step >= self.rests_until {
            // Before the switch nobody waits for ever.
            let most = if self.there.has_package { 5_000 } else { 20 };
            self.outage_until = self.now + Duration::from_secs(self.random.u64(1..most));
            self.say("no network for a while");
        }
        if self.chance(weather.cancel) {
            match &mut self.destination {
                Some(destination) if self.random.bool() => destination.cancel(),
                _ => self.source.cancel(self.now),
            }
        }
        if self.chance(weather.hypervisor_dies) {
            if self.random.bool() { self.die_here() } else { self.die_there() }
        }
        if self.chance(weather.crash) && !self.source_crashed && !self.destination_crashed {
            self.say("a node crashes");
            if self.random.bool() {
                self.source_crashed = true;
                self.here.runs |=
                    self.here.package.is_none() && !self.here.dead && !self.here.ended;
            } else {
                self.destination_crashed = true;
            }
            self.links.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| self.cut(id));
        }
    }

    fn die_here(&mut self) {
        if !self.here.ended && self.source_ending.is_none() && !self.source_crashed {
            self.say("the source's hypervisor dies");
            (self.here.dead, self.here.runs) = (true, false);
            let failure = dwcp::migration::Failure::new(Status::Callback, "gone");
            self.source.fail(failure, self.now);
            self.source.hypervisor_gone("gone");
        }
    }

    fn die_there(&mut self) {
        let Some(destination) = &mut self.destination else { return };
        if self.there.has_all || self.there.dead || self.destination_crashed {
            return;
        }
        let had_run = self.there.runs;
        (self.there.dead, self.there.runs) = (true, false);
        let gone = "gone".to_string();
        if !self.there.has_package {
            destination.fail(dwcp::migration::Failure::new(Status::Callback, gone));
        } else if had_run {
            destination.released(Released::Lost(gone), self.now);
        } else {
            destination.released(Released::NeverRan(gone), self.now);
        }
        self.say("the destination's hypervisor dies");
    }

    /// What only an operator ends, one ends in the calm; and before that a switch is asked for.
    fn operate(&mut self) {
        // A last word can be lost with the connections that carried it.
        let alone = self.source_crashed
            || self.destination_crashed
            || self.source.is_over()
            || self.destination.as_ref().is_some_and(RelayDestination::is_over);
        if !alone || self.random.u8(..200) > 0 {
            return;
        }
        let there = self.destination.as_mut().filter(|_| !self.destination_crashed);
        let gave_up = match there {
            Some(destination) => destination.abandon_post_copy().is_ok(),
            None => !self.source_crashed && self.source.abandon_post_copy().is_ok(),
        };
        self.abandoned |= gave_up;
    }

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
            9 | 10 => self.replay(),
            11 => self.hypervise(),
            12 => self.pass_time(),
            _ => {
                let ids: Vec<_> = self.links.keys().copied().collect();
                let id = self.random.choice(ids).filter(|_| self.now >= self.outage_until);
                id.into_iter().for_each(|id| self.serve(id));
            }
        }
    }

    fn pass_time(&mut self) {
        let idle = self.step > STORM_STEPS || self.now < self.outage_until;
        let most_us = if idle { 2_000_000 } else { 5_000 };
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
        if !wanted || open >= STREAMS {
            return;
        }
        let id = StreamId(self.next_stream);
        self.next_stream += 1;
        if self.destination_crashed || self.now < self.outage_until {
            return self.source.connect_failed("refused");
        }
        let report = self.destination.as_ref().and_then(RelayDestination::report);
        if let Some(report) = report {
            let ours = report.owner == Owner::Destination;
            let ended = if ours { Ended::DestinationOwns } else { Ended::SourceOwns };
            let status =
                if report.status == Status::Ok { Status::PeerAborted } else { report.status };
            return self.source.refused(status.code(), "over", ended, self.now);
        }
        let now = self.now;
        let destination = self.destination.get_or_insert_with(|| {
            let patience = Duration::from_secs(60);
            let patience = Patience { reconnect_timeout: patience, stall_timeout: patience };
            RelayDestination::new(setup(), patience, now)
        });
        if !destination.may_join(id) {
            let busy = Status::Busy.code();
            return self.source.refused(busy, "no further stream", Ended::No, now);
        }
        destination.stream_up(id, "source", now);
        self.source.agree(features(), now);
        self.source.stream_up(id, "destination", now);
        let (to_destination, to_source) = (Pipe::new(false), Pipe::new(false));
        let (source_open, destination_open) = (true, true);
        self.links.insert(id, Link { to_destination, to_source, source_open, destination_open });
    }

    fn drive_source(&mut self) {
        if self.source_crashed {
            return;
        }
        while let Some(event) = self.source.next_event() {
            self.say(&format!("source {event:?}"));
        }
        self.started |= self.source.should_start(self.now);
        if self.started && self.random.u8(..60) == 0 {
            // It may be too late.
            let _ = self.source.start_post_copy();
        }
        self.here.ordered |= self.started && self.source.should_switch();
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
            source::Action::Return(bytes) => {
                for byte in bytes {
                    assert_eq!(byte, self.here.heard, "{}", self.describe());
                    self.here.heard = self.here.heard.wrapping_add(1);
                }
            }
            source::Action::Finish(ending) => {
                assert_eq!(self.source_ending.replace(ending), None);
                self.here.runs |= ending == Ending::Keep && !self.here.dead;
                self.source.finished(Ok(()), self.now);
            }
        }
    }

    /// The hypervisor writes, and is read; and packers pack.
    fn write_stream(&mut self) {
        if self.source_crashed || !self.started || self.here.dead || self.source_ending.is_some() {
            return;
        }
        let packing = self.here.packing.len();
        if packing > 0 && (self.random.bool() || packing >= MOST_IN_PACKERS) {
            let (number, head) = self.here.packing.remove(self.random.usize(..packing));
            let bytes = head.len() as u64;
            let payload = SegmentPayload { head, ..SegmentPayload::default() };
            return self.source.push((0, number), bytes, payload, PageCounts::default());
        }
        if !self.source.wants_segments() || !self.source.has_room(0, packing) {
            return;
        }
        let here = &mut self.here;
        let is_package = here.ordered && here.package.is_none() && here.read < here.most_before;
        let last = here.package.map_or(here.most_before, |package| package + 1 + here.behind);
        if here.read >= last {
            // After a switch it is done when the other says so.
            if here.package.is_none() || self.there.has_all {
                here.ended = true;
                self.source.stream_ended(here.sum, self.now);
            }
            return;
        }
        let number = here.read;
        let mut payload = vec![self.random.u8(..); self.random.usize(20..300)];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        payload[9] = 0;
        here.read += 1;
        here.sum.add(0, payload.len() as u64, page_hash(&payload));
        here.packing.push((number, payload));
        if is_package || here.package.is_none() && here.read == here.most_before {
            here.runs = false;
            self.source.guest_stopped(self.now);
        }
        if is_package {
            here.package = Some(number);
            self.source.stream_switched(here.sum, 5, self.now);
        }
    }

    fn drive_destination(&mut self) {
        let Some(destination) = self.destination.as_mut().filter(|_| !self.destination_crashed)
        else {
            return;
        };
        while let Some(event) = destination.next_event() {
            if self.talk {
                println!("destination {event:?}");
            }
        }
        match self.destination_busy.take() {
            Some(action) => self.perform_destination(action),
            None => self.destination_busy = destination.next_action(),
        }
        self.flush_all();
    }

    fn perform_destination(&mut self, action: destination::Action) {
        self.say(&format!("destination does {action:?}"));
        let full = self.chance(self.weather.disk_full);
        let all_there = self.there.pieces == self.here.most_before;
        let Some(destination) = &mut self.destination else { return };
        match action {
            destination::Action::Persist(mark) => {
                if !full {
                    self.destination_record = Some(mark);
                }
                let result = if full { Err("disk full".into()) } else { Ok(()) };
                destination.persisted(mark, result);
            }
            destination::Action::Recover => unreachable!("this migration switches itself"),
            destination::Action::ReleaseEnd if self.there.dead && destination.is_switching() => {
                destination.handed_over(Err("gone".into()), self.now);
            }
            destination::Action::ReleaseEnd if self.there.dead => {
                destination.released(Released::NeverRan("gone".into()), self.now);
            }
            destination::Action::ReleaseEnd if destination.is_switching() => {
                assert!(self.there.kept && Some(self.there.pieces) == self.here.package);
                assert_eq!(self.destination_record, Some(Mark::OwnedIncomplete));
                self.there.has_package = true;
                self.there.pieces += 1;
                destination.handed_over(Ok(()), self.now);
            }
            destination::Action::ReleaseEnd => {
                assert!(all_there && self.here.package.is_none());
                (self.there.runs, self.there.has_all) = (true, true);
                destination.released(Released::Running, self.now);
            }
            destination::Action::Finish(ending) => {
                assert_eq!(self.destination_ending.replace(ending), None);
                if ending == Ending::Lost {
                    self.there.runs = false;
                }
                destination.finished(Ok(()), self.now);
            }
        }
    }

    /// The hypervisor at the destination goes on, with what it has.
    fn hypervise(&mut self) {
        let over = self.destination_ending.is_some() || self.destination_crashed || self.there.dead;
        let going = |destination: &&mut RelayDestination| !over && destination.wants_segments();
        let Some(destination) = self.destination.as_mut().filter(going) else { return };
        if self.random.bool() && destination.may_send_back() {
            destination.send_back(vec![self.there.said]);
            self.there.said = self.there.said.wrapping_add(1);
        }
        if !self.there.has_package {
            return self.flush_all();
        }
        let last = self.here.package.map(|package| package + 1 + self.here.behind);
        if !self.there.runs {
            self.there.runs = true;
        } else if !self.there.told_restored && self.random.bool() {
            self.there.told_restored = true;
            destination.devices_restored(self.now);
        } else if Some(self.there.pieces) == last && !self.there.has_all {
            self.there.has_all = true;
            destination.released(Released::Running, self.now);
        }
        self.flush_all();
    }

    fn replay(&mut self) {
        if self.destination_crashed {
            return;
        }
        let Some(destination) = &mut self.destination else { return };
        match self.in_hand.take() {
            Some(payload) => {
                let (bytes, sum) = (payload.len() as u64, page_hash(&payload));
                let number = destination.unpacked(0, bytes, sum).expect("it is due");
                assert_eq!(number_of(&payload), number, "out of order");
                if Some(number) == self.here.package {
                    destination.package_ended(self.now);
                }
                self.there.queue.push_back(payload);
            }
            None if destination.wants_segments() => {
                self.in_hand = destination.next_segment().map(|payload| payload.head);
            }
            None => {}
        }
        let wants = destination.wants_segments();
        if let Some(payload) = self.there.queue.pop_front().filter(|_| wants) {
            let number = number_of(&payload);
            let behind = self.here.package.is_some_and(|package| number > package);
            assert!(!behind || self.there.has_package, "memory came before the package");
            assert_eq!(number, self.there.pieces, "out of order");
            match Some(number) == self.here.package {
                true => self.there.kept = true,
                false => self.there.pieces += 1,
            }
            destination.replayed(number, self.now);
        }
        self.flush_all();
    }

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
            return self.close_source(id);
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
            Work::Close => self.close_source(id),
        }
    }

    fn close_source(&mut self, id: StreamId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.source_open = false;
            link.to_destination.closed = true;
            link.to_source.cut(0);
            self.source.stream_down(id, "closed", self.now);
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
            return self.flush_all();
        }
        link.destination_open = false;
        link.to_destination.cut(0);
        link.to_source.closed = true;
        destination.stream_down(id, "broken", self.now);
    }

    fn flush_all(&mut self) {
        let Some(destination) = self.destination.as_mut().filter(|_| !self.destination_crashed)
        else {
            return;
        };
        for (id, link) in self.links.iter_mut().filter(|(_, link)| link.destination_open) {
            while let Some(frame) = destination.next_frame(*id, self.now) {
                link.to_source.send_frame(&frame);
            }
        }
    }

    fn check(&self) {
        assert!(!(self.here.runs && self.there.runs), "it runs twice: {}", self.describe());
        let owners = (self.source.owner(), self.destination.as_ref().map(RelayDestination::owner));
        let both = owners == (Owner::Source, Some(Owner::Destination));
        assert!(!both || self.source_crashed, "both own the guest: {}", self.describe());
        // Who may run it has written so down before.
        let written = matches!(
            self.destination_record,
            Some(Mark::Owned | Mark::OwnedIncomplete | Mark::Lost)
        );
        assert!(!self.there.runs || written, "{}", self.describe());
    }

    fn judge(self) -> Outcome {
        let there = self.destination.as_ref().and_then(RelayDestination::report);
        let there = there.filter(|_| !self.destination_crashed);
        if let Some(there) = &there {
            assert_ne!(there.status, Status::DigestMismatch, "{}", self.describe());
            let lost = there.status == Status::PostCopyLost;
            assert_eq!(lost, self.destination_ending == Some(Ending::Lost), "{}", self.describe());
            assert!(there.status != Status::Ok || self.there.has_all, "{}", self.describe());
            assert!(!lost || !self.there.has_all, "{}", self.describe());
        }
        if self.source_crashed {
            assert!(
                self.source_record.is_none_or(|mark| mark.owner() != Owner::Destination)
                    || !self.here.runs
            );
            return Outcome::SourceCrashed;
        }
        let here = self.source.report().expect("over");
        assert_ne!(here.status, Status::DigestMismatch, "{}", self.describe());
        let outcome = match (here.status, here.owner) {
            (_, Owner::Source) => {
                assert!(self.here.runs != self.here.dead, "runs nowhere: {}", self.describe());
                assert_eq!(self.source_ending, Some(Ending::Keep));
                Outcome::Stayed
            }
            (Status::PostCopyLost, _) => {
                assert!(!self.here.runs && self.source_ending == Some(Ending::Lost));
                let record = self.source_record.map(Mark::owner);
                assert_ne!(record, Some(Owner::Source), "{}", self.describe());
                Outcome::Lost
            }
            (_, Owner::InDoubt) => {
                assert!(!self.here.runs && self.source_ending == Some(Ending::Undecided));
                Outcome::InDoubt
            }
            (_, Owner::Destination) => {
                assert!(!self.here.runs && self.there.has_all, "{}", self.describe());
                assert_eq!(self.source_ending, Some(Ending::Discard));
                if self.here.package.is_some() { Outcome::Switched } else { Outcome::Moved }
            }
        };
        if self.destination_crashed { Outcome::DestinationCrashed } else { outcome }
    }

    fn describe(&self) -> String {
        let there = self.destination.as_ref();
        format!(
            "step {} at {} us; {} of {:?} read, {} replayed; source {:?} {:?} record {:?} ending {:?} crashed \
             {} dead {} runs {}; destination {:?} {:?} record {:?} ending {:?} crashed {} dead {} runs {}; \
             {} links, abandoned {}",
            self.step,
            self.now.0,
            self.here.read,
            self.here.package,
            self.there.pieces,
            self.source.progress(self.now).phase,
            self.source.report().map(|r| (r.status, r.owner, r.reason)),
            self.source_record,
            self.source_ending,
            self.source_crashed,
            self.here.dead,
            self.here.runs,
            there.map(|there| there.progress(self.now).phase),
            there.and_then(|there| there.report()).map(|r| (r.status, r.owner, r.reason)),
            self.destination_record,
            self.destination_ending,
            self.destination_crashed,
            self.there.dead,
            self.there.runs,
            self.links.len(),
            self.abandoned,
        )
    }
}

fn features() -> Features {
    Features {
        rdma: false,
        recovers: None,
        flags: u32::MAX,
        codecs: 7,
        chunk_bytes: 1 << 18,
        baseline_pages: 0,
        held_pages: false,
        multifd_channels: 0,
        post_copy: true,
    }
}
