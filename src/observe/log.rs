//! Log lines, derived from events, and the ring of the latest ones.

use super::event::{Component, Event, EventKind, Level};
use super::report::PostCopyFigures;
use crate::base::MigrationId;
use serde::Serialize;
use std::collections::VecDeque;
use std::time::{Duration, UNIX_EPOCH};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogRecord {
    /// Number of the line, from 1.
    pub sequence: u64,
    /// Wall-clock time, microseconds since 1970.
    pub time_us: u64,
    /// How much it matters.
    pub level: Level,
    /// Who speaks.
    pub component: Component,
    /// The guest it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The migration it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationId>,
    /// What happened.
    pub message: String,
}

impl LogRecord {
    /// As one line of text, control characters escaped.
    pub fn line(&self) -> String {
        let time =
            humantime::format_rfc3339_micros(UNIX_EPOCH + Duration::from_micros(self.time_us));
        let mut line = format!("{time} {:5} {}", self.level.name(), self.component.name());
        if let Some(guest) = &self.guest {
            line.push_str(&format!(" guest={}", printable(guest)));
        }
        if let Some(migration) = &self.migration {
            line.push_str(&format!(" migration={migration}"));
        }
        line + ": " + &printable(&self.message)
    }
}

/// The latest log lines.
#[derive(Debug, Default)]
pub struct LogRing {
    records: VecDeque<LogRecord>,
    last_sequence: u64,
}

impl LogRing {
    /// Adds the line of an event.
    pub fn push_event(&mut self, event: &Event) -> &LogRecord {
        self.push(LogRecord {
            sequence: 0,
            time_us: event.time_us,
            level: event.kind.level(),
            component: event.kind.component(),
            guest: event.guest.clone(),
            migration: event.migration,
            message: describe(&event.kind),
        })
    }

    /// Adds a line that no event stands behind.
    pub fn push_text(&mut self, time_us: u64, level: Level, message: String) -> &LogRecord {
        self.push(LogRecord {
            sequence: 0,
            time_us,
            level,
            component: Component::Node,
            guest: None,
            migration: None,
            message,
        })
    }

    /// Lines numbered above `after`, oldest first.
    pub fn after(&self, after: u64) -> impl Iterator<Item = &LogRecord> {
        self.records.iter().filter(move |record| record.sequence > after)
    }

    /// The number of the newest line.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    fn push(&mut self, mut record: LogRecord) -> &LogRecord {
        self.last_sequence += 1;
        record.sequence = self.last_sequence;
        if self.records.len() == MAX_RECORDS {
            self.records.pop_front();
        }
        let index = self.records.len();
        self.records.push_back(record);
        &self.records[index]
    }
}

impl Component {
    /// Every component that speaks.
    pub const ALL: [Component; 6] = [
        Component::Amst,
        Component::Hde,
        Component::ModeDetector,
        Component::Migration,
        Component::Rollout,
        Component::Node,
    ];

    /// The name as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Component::Amst => "amst",
            Component::Hde => "hde",
            Component::ModeDetector => "mode-detector",
            Component::Migration => "migration",
            Component::Rollout => "rollout",
            Component::Node => "node",
        }
    }
}

impl Level {
    /// Every level, least first.
    pub const ALL: [Level; 4] = [Level::Debug, Level::Info, Level::Warn, Level::Error];

    /// The name as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// The names of all kinds of events, as in JSON.
pub const EVENT_KINDS: [&str; 23] = [
    "node_started",
    "node_stopped",
    "guest_changed",
    "phase",
    "pass_completed",
    "throttled",
    "post_copy_begun",
    "post_copy_completed",
    "stream_up",
    "stream_down",
    "stream_retired",
    "streams_tuned",
    "rdma_up",
    "rdma_unavailable",
    "chunk_damaged",
    "peer_refused",
    "v1_connection",
    "mode_transition",
    "flags_changed",
    "flag_rolled_back",
    "flag_held",
    "notice",
    "migration_ended",
];

/// The name of an event's kind, as in JSON.
pub fn kind_name(kind: &EventKind) -> &'static str {
    match kind {
        EventKind::NodeStarted { .. } => "node_started",
        EventKind::NodeStopped {} => "node_stopped",
        EventKind::GuestChanged { .. } => "guest_changed",
        EventKind::Phase { .. } => "phase",
        EventKind::PassCompleted { .. } => "pass_completed",
        EventKind::Throttled { .. } => "throttled",
        EventKind::PostCopyBegun { .. } => "post_copy_begun",
        EventKind::PostCopyCompleted { .. } => "post_copy_completed",
        EventKind::StreamUp { .. } => "stream_up",
        EventKind::StreamDown { .. } => "stream_down",
        EventKind::StreamRetired { .. } => "stream_retired",
        EventKind::StreamsTuned { .. } => "streams_tuned",
        EventKind::RdmaUp { .. } => "rdma_up",
        EventKind::RdmaUnavailable { .. } => "rdma_unavailable",
        EventKind::ChunkDamaged { .. } => "chunk_damaged",
        EventKind::PeerRefused { .. } => "peer_refused",
        EventKind::V1Connection { .. } => "v1_connection",
        EventKind::ModeTransition { .. } => "mode_transition",
        EventKind::FlagsChanged { .. } => "flags_changed",
        EventKind::FlagRolledBack { .. } => "flag_rolled_back",
        EventKind::FlagHeld { .. } => "flag_held",
        EventKind::Notice { .. } => "notice",
        EventKind::MigrationEnded { .. } => "migration_ended",
    }
}

/// What happened, as a sentence.
pub fn describe(kind: &EventKind) -> String {
    let milliseconds = |us: &u64| *us as f64 / 1e3;
    match kind {
        EventKind::NodeStarted { listen } if listen.is_empty() => "started".to_owned(),
        EventKind::NodeStarted { listen } => format!("started, listening on {listen}"),
        EventKind::NodeStopped {} => "stopped".to_owned(),
        EventKind::GuestChanged { role } if role == "removed" => "guest removed".to_owned(),
        EventKind::GuestChanged { role } => format!("guest registered as {role}"),
        EventKind::Phase { phase, previous_us } => {
            format!("phase {phase}; the one before took {:.3} ms", milliseconds(previous_us))
        }
        EventKind::PassCompleted { pass } => format!(
            "pass {}: {} pages, {} of them zero, {} bytes in {:.3} ms; dirtied at {} bytes/s",
            pass.pass,
            pass.pages,
            pass.zero_pages,
            pass.wire_bytes,
            milliseconds(&pass.duration_us),
            pass.dirty_rate_bytes_per_s
        ),
        EventKind::Throttled { percent } => format!("guest held back for {percent} % of its time"),
        EventKind::PostCopyBegun { missing_pages, why } => {
            format!("post-copy, because {why}: {missing_pages} pages are missing")
        }
        EventKind::PostCopyCompleted { figures, .. } => post_copy_completed(figures),
        EventKind::StreamUp { stream, peer } => format!("stream {stream} to {peer} is up"),
        EventKind::StreamDown { stream, reason } => format!("stream {stream} broke: {reason}"),
        EventKind::StreamRetired { stream } => format!("stream {stream} is not needed any more"),
        EventKind::RdmaUp { device, pair } => {
            format!("pages of a stream go by RDMA: queue pair {pair} of {device}")
        }
        EventKind::RdmaUnavailable { reason } => {
            format!("pages go by TCP: RDMA is unavailable, because {reason}")
        }
        EventKind::StreamsTuned { from, to, limit, why, rate_bytes_per_s, .. } => {
            let carried = match *rate_bytes_per_s {
                0 => String::new(),
                rate => format!("; {from} carried {:.1} Mbit/s", rate as f64 * 8e-6),
            };
            format!("{from} to {to} streams of at most {limit}: {}{carried}", why.describe())
        }
        EventKind::ChunkDamaged { chunk } => format!("chunk {chunk} came damaged; it is resent"),
        EventKind::PeerRefused { peer, reason } => format!("peer {peer} refused: {reason}"),
        EventKind::V1Connection { peer, dialect, state, detail } => {
            format!("v1 connection with {peer} ({dialect}) {}: {detail}", state.name())
        }
        EventKind::ModeTransition { peer, transition } => format!("peer {peer}: {transition}"),
        EventKind::FlagsChanged { seq, who, why, change } => {
            format!("feature flags, change {seq} by {who}: {change} ({why})")
        }
        EventKind::FlagRolledBack { flag, who, why, .. } => {
            format!("feature flag {flag} is rolled back by {who}: {why}")
        }
        EventKind::FlagHeld { flag, reason } => {
            format!("feature flag {flag} stays as it is: {reason}")
        }
        EventKind::Notice { text } => text.clone(),
        EventKind::MigrationEnded { status, owner, reason, total_us, downtime_us } => {
            let why = if reason.is_empty() { String::new() } else { format!(" ({reason})") };
            format!(
                "ended with {status}{why} after {:.3} ms, downtime {:.3} ms; the guest is with: {owner}",
                milliseconds(total_us),
                milliseconds(downtime_us)
            )
        }
    }
}

fn post_copy_completed(figures: &PostCopyFigures) -> String {
    let milliseconds = |us: u64| us as f64 / 1e3;
    format!(
        "no page is missing any more; the guest waited for {} of {}: half of them up to {:.3} ms, \
         99 % up to {:.3} ms, all up to {:.3} ms",
        figures.faults,
        figures.missing_pages,
        milliseconds(figures.fault_p50_us),
        milliseconds(figures.fault_p99_us),
        milliseconds(figures.fault_max_us)
    )
}

/// The text with control characters escaped, so that no peer can forge lines.
pub fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character.is_control() {
            true => clean.extend(character.escape_default()),
            false => clean.push(character),
        }
    }
    clean
}

const MAX_RECORDS: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::ConnectionState;
    use crate::transport::mode::{Mode, ModeDetector, ModePolicy};

    fn notice(text: &str) -> Event {
        Event {
            sequence: 9,
            time_us: 1_700_000_000_000_001,
            migration: Some(MigrationId([0xab; 16])),
            guest: Some("vm\n1".to_owned()),
            kind: EventKind::Notice { text: text.to_owned() },
        }
    }

    #[test]
    fn a_line_cannot_be_forged() {
        let mut ring = LogRing::default();
        let line = ring.push_event(&notice("a\n2023-11-14T22:13:20Z error: \u{1b}[31m")).line();
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.starts_with("2023-11-14T22:13:20.000001Z warn  amst guest=vm\\n1"), "{line}");
        assert!(!line.contains('\u{1b}'));
    }

    #[test]
    fn the_ring_is_bounded_and_numbered() {
        let mut ring = LogRing::default();
        for _ in 0..MAX_RECORDS + 10 {
            ring.push_text(0, Level::Info, "x".to_owned());
        }
        let numbers: Vec<_> = ring.after(0).map(|record| record.sequence).collect();
        assert_eq!((numbers.len(), numbers[0]), (MAX_RECORDS, 11));
        assert_eq!(ring.after(ring.last_sequence()).count(), 0);
    }

    #[test]
    fn names_agree_with_json() {
        for component in Component::ALL {
            assert_eq!(serde_json::to_value(component).unwrap(), component.name());
        }
        for state in ConnectionState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for level in Level::ALL {
            assert_eq!(serde_json::to_value(level).unwrap(), level.name());
        }
        let json = serde_json::to_value(notice("x")).unwrap();
        assert_eq!(json["event"], kind_name(&notice("x").kind));
        assert!(EVENT_KINDS.contains(&"notice"));
    }

    #[test]
    fn a_change_of_mode_tells_its_evidence() {
        let mut detector = ModeDetector::new(&ModePolicy::default(), true);
        let forced = detector.force(Some(Mode::Internet), &ModePolicy::default()).unwrap();
        let kind = EventKind::ModeTransition { peer: "b".into(), transition: Box::new(forced) };
        let event = Event { kind, ..notice("") };
        assert!(EVENT_KINDS.contains(&kind_name(&event.kind)));
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["event"], "mode_transition");
        assert_eq!((&json["peer"], &json["to"]), (&"b".into(), &"internet".into()));
        assert_eq!(json["thresholds"]["internet_rtt_us"], 50_000);
        let line = LogRing::default().push_event(&event).line();
        let message = "mode-detector guest=vm\\n1 migration=";
        assert!(line.contains(message), "{line}");
        assert!(line.ends_with(": peer b: hybrid to internet: forced"), "{line}");
    }
}
