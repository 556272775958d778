//! Between the C structs of [`super::modes`] and the engine's values.

use super::codes::*;
use super::guard::Failure;
use super::modes::*;
use super::strings::fixed;
use super::structs::{self, SizedStruct};
use crate::base::limits::MAX_STREAMS;
use crate::runtime::modes::{PeerMode, ProbeSeries, TransportOptions, TransportTest};
use crate::transport::Mode;
use crate::transport::mode::{Congestion, ModeEffects, ModePolicy, Reachability, Thresholds};
use std::time::Duration;

/// Streams of a test for which no number is given.
const DEFAULT_TEST_STREAMS: u16 = 4;
/// Duration of a test for which none is given.
const DEFAULT_TEST: Duration = Duration::from_secs(5);

/// A mode, or none for `DWCP_MODE_AUTO`.
pub fn mode_in(code: u32) -> Result<Option<Mode>, Failure> {
    match code {
        DWCP_MODE_AUTO => Ok(None),
        DWCP_MODE_DATACENTER => Ok(Some(Mode::Datacenter)),
        DWCP_MODE_HYBRID => Ok(Some(Mode::Hybrid)),
        DWCP_MODE_INTERNET => Ok(Some(Mode::Internet)),
        DWCP_MODE_V1_COMPAT => Ok(Some(Mode::V1Compat)),
        _ => Err(Failure::invalid(format!("mode {code} is no DWCP_MODE_ value"))),
    }
}

/// What is known of a peer as C sees it.
pub fn peer_out(peer: &PeerMode) -> dwcp_peer {
    let figures = &peer.figures;
    let flags = [
        (DWCP_PEER_IN_USE, peer.is_in_use),
        (DWCP_PEER_RATE_IS_FLOOR, figures.rate_is_floor),
        (DWCP_PEER_HEARD, peer.silent_us.is_some()),
        (DWCP_PEER_HAS_RTT, figures.rtt_us.is_some()),
        (DWCP_PEER_HAS_JITTER, figures.jitter_us.is_some()),
        (DWCP_PEER_HAS_LOSS, figures.loss_ppm.is_some()),
        (DWCP_PEER_HAS_RATE, figures.rate_bytes_per_s.is_some()),
    ];
    dwcp_peer {
        struct_size: size_of::<dwcp_peer>(),
        mode: mode_out(Some(peer.mode)),
        forced: mode_out(peer.forced),
        measured: mode_out(peer.measured),
        flags: flags.iter().filter(|(_, is_so)| *is_so).map(|(flag, _)| flag).sum(),
        rtt_us: figures.rtt_us.unwrap_or(0),
        min_rtt_us: figures.min_rtt_us.unwrap_or(0),
        jitter_us: figures.jitter_us.unwrap_or(0),
        loss_ppm: figures.loss_ppm.unwrap_or(0),
        rate_bytes_per_s: figures.rate_bytes_per_s.unwrap_or(0),
        silent_us: peer.silent_us.unwrap_or(0),
        switches: peer.switches,
        switches_last_minute: peer.switches_last_minute,
        rdma: match figures.rdma {
            Reachability::Unknown => DWCP_RDMA_UNKNOWN,
            Reachability::Reachable => DWCP_RDMA_REACHABLE,
            Reachability::Unreachable => DWCP_RDMA_UNREACHABLE,
        },
        peer: fixed(&peer.peer),
        failure: fixed(peer.failure.as_deref().unwrap_or("")),
        reserved: [0; 8],
    }
}

/// A series of probes as C sees it.
pub fn series_out(series: &ProbeSeries) -> dwcp_probe_series {
    let mut answers_us = [0; 64];
    for (to, from) in answers_us.iter_mut().zip(&series.answers_us) {
        *to = *from;
    }
    dwcp_probe_series {
        struct_size: size_of::<dwcp_probe_series>(),
        answers: series.answers_us.len() as u32,
        min_rtt_us: series.min_rtt_us.unwrap_or(0),
        rtt_variation_us: series.rtt_variation_us,
        padding: 0,
        connect_us: series.connect_us,
        answers_us,
        reserved: [0; 8],
    }
}

/// The options; NULL means all defaults.
///
/// # Safety
/// As for [`structs::read`].
pub unsafe fn transport_in(
    options: *const dwcp_transport_options,
) -> Result<TransportOptions, Failure> {
    if options.is_null() {
        return Ok(TransportOptions::default());
    }
    // SAFETY: the caller vouches for options.
    let options = unsafe { structs::read(options)? };
    let known = DWCP_TRANSPORT_NO_DATACENTER | DWCP_TRANSPORT_NO_INTERNET;
    if options.flags & !known != 0 {
        let text = format!("flags {:#x} holds unknown DWCP_TRANSPORT_ bits", options.flags);
        return Err(Failure::invalid(text));
    }
    let (effects, thresholds) = (ModeEffects::default(), Thresholds::default());
    let or = |value: u32, default| if value == 0 { default } else { value };
    let streams = |name, value, default| match value {
        0 => Ok(default),
        value => streams_in(name, value),
    };
    let policy = ModePolicy {
        forced: mode_in(options.mode)?,
        allow_datacenter: options.flags & DWCP_TRANSPORT_NO_DATACENTER == 0,
        allow_internet: options.flags & DWCP_TRANSPORT_NO_INTERNET == 0,
        thresholds: Thresholds {
            datacenter_rtt_us: or(options.datacenter_rtt_us, thresholds.datacenter_rtt_us),
            internet_rtt_us: or(options.internet_rtt_us, thresholds.internet_rtt_us),
            internet_jitter_us: or(options.internet_jitter_us, thresholds.internet_jitter_us),
            fast_rate_bytes_per_s: match options.fast_rate_bytes_per_s {
                0 => thresholds.fast_rate_bytes_per_s,
                rate => rate,
            },
            datacenter_loss_ppm: or(options.datacenter_loss_ppm, thresholds.datacenter_loss_ppm),
        },
        ..ModePolicy::default()
    };
    let effects = ModeEffects {
        datacenter_streams: streams(
            "datacenter_streams",
            options.datacenter_streams,
            effects.datacenter_streams,
        )?,
        internet_streams: streams(
            "internet_streams",
            options.internet_streams,
            effects.internet_streams,
        )?,
        congestion: congestion_in(options.congestion)?,
    };
    Ok(TransportOptions { policy, effects })
}

/// The options as C sees them.
pub fn transport_out(options: &TransportOptions) -> dwcp_transport_options {
    let TransportOptions { policy, effects } = options;
    let thresholds = &policy.thresholds;
    let no_datacenter = if policy.allow_datacenter { 0 } else { DWCP_TRANSPORT_NO_DATACENTER };
    let no_internet = if policy.allow_internet { 0 } else { DWCP_TRANSPORT_NO_INTERNET };
    dwcp_transport_options {
        struct_size: size_of::<dwcp_transport_options>(),
        mode: mode_out(policy.forced),
        flags: no_datacenter | no_internet,
        congestion: congestion_out(effects.congestion),
        datacenter_streams: effects.datacenter_streams.into(),
        internet_streams: effects.internet_streams.into(),
        datacenter_rtt_us: thresholds.datacenter_rtt_us,
        internet_rtt_us: thresholds.internet_rtt_us,
        internet_jitter_us: thresholds.internet_jitter_us,
        datacenter_loss_ppm: thresholds.datacenter_loss_ppm,
        padding: 0,
        fast_rate_bytes_per_s: thresholds.fast_rate_bytes_per_s,
        reserved: [0; 8],
    }
}

/// What a test is to be; NULL means all defaults.
///
/// # Safety
/// As for [`structs::read`].
pub unsafe fn test_in(
    options: *const dwcp_transport_test_options,
) -> Result<((Mode, u16), Duration), Failure> {
    if options.is_null() {
        return Ok(((Mode::Hybrid, DEFAULT_TEST_STREAMS), DEFAULT_TEST));
    }
    // SAFETY: the caller vouches for options.
    let options = unsafe { structs::read(options)? };
    let mode = mode_in(options.mode)?.unwrap_or(Mode::Hybrid);
    let streams = match options.streams {
        0 => DEFAULT_TEST_STREAMS,
        streams => streams_in("streams", streams)?,
    };
    let duration = match options.duration_ms {
        0 => DEFAULT_TEST,
        milliseconds => Duration::from_millis(milliseconds.into()),
    };
    Ok(((mode, streams), duration))
}

/// What a test told, as C sees it.
pub fn test_out(test: &TransportTest) -> dwcp_transport_test {
    dwcp_transport_test {
        struct_size: size_of::<dwcp_transport_test>(),
        mode: mode_out(Some(test.mode)),
        measured: mode_out(test.measured),
        in_force: mode_out(Some(test.in_force)),
        streams: test.streams as u32,
        duration_us: test.duration_us,
        bytes: test.bytes,
        rate_bytes_per_s: test.rate_bytes_per_s,
        retransmitted_bytes: test.retransmitted_bytes,
        retransmitted_segments: test.retransmitted_segments,
        min_rtt_us: test.min_rtt_us,
        rtt_us: test.rtt_us,
        loss_ppm: test.loss_ppm,
        padding: 0,
        congestion: fixed(&test.congestion),
        peer: fixed(&test.peer),
        reserved: [0; 8],
    }
}

fn mode_out(mode: Option<Mode>) -> u32 {
    match mode {
        None => DWCP_MODE_AUTO,
        Some(Mode::Datacenter) => DWCP_MODE_DATACENTER,
        Some(Mode::Hybrid) => DWCP_MODE_HYBRID,
        Some(Mode::Internet) => DWCP_MODE_INTERNET,
        Some(Mode::V1Compat) => DWCP_MODE_V1_COMPAT,
    }
}

fn congestion_in(code: u32) -> Result<Congestion, Failure> {
    match code {
        DWCP_CONGESTION_DEFAULT | DWCP_CONGESTION_BBR => Ok(Congestion::Bbr),
        DWCP_CONGESTION_CUBIC => Ok(Congestion::Cubic),
        DWCP_CONGESTION_RENO => Ok(Congestion::Reno),
        DWCP_CONGESTION_SYSTEM => Ok(Congestion::System),
        _ => Err(Failure::invalid(format!("congestion {code} is no DWCP_CONGESTION_ value"))),
    }
}

fn congestion_out(congestion: Congestion) -> u32 {
    match congestion {
        Congestion::Bbr => DWCP_CONGESTION_BBR,
        Congestion::Cubic => DWCP_CONGESTION_CUBIC,
        Congestion::Reno => DWCP_CONGESTION_RENO,
        Congestion::System => DWCP_CONGESTION_SYSTEM,
    }
}

fn streams_in(name: &str, streams: u32) -> Result<u16, Failure> {
    let known = u16::try_from(streams).ok().filter(|streams| *streams <= MAX_STREAMS);
    known.ok_or_else(|| {
        Failure::invalid(format!("{name} is {streams}; it must be 1 to {MAX_STREAMS}"))
    })
}

macro_rules! sized_struct {
    ($($name:ident, $($padding:ident)?;)+) => {$(
        // SAFETY: integers and byte arrays of whole words; the layout golden file shows no gap.
        unsafe impl SizedStruct for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST_SIZE: usize = size_of::<Self>();

            fn reserved_is_zero(&self) -> bool {
                $(self.$padding == 0 &&)? self.reserved.iter().all(|word| *word == 0)
            }
        }
    )+};
}

sized_struct! {
    dwcp_peer, ;
    dwcp_transport_options, padding;
    dwcp_probe_series, padding;
    dwcp_transport_test_options, padding;
    dwcp_transport_test, padding;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &dwcp_transport_options) -> Result<TransportOptions, String> {
        // SAFETY: a whole struct of ours.
        unsafe { transport_in(options) }.map_err(|failure| failure.text)
    }

    #[test]
    fn zero_means_default_and_what_goes_out_comes_in_again() {
        // SAFETY: the structs hold only integers.
        let zero: dwcp_transport_options = unsafe { std::mem::zeroed() };
        let zero = dwcp_transport_options { struct_size: size_of_val(&zero), ..zero };
        assert_eq!(read(&zero), Ok(TransportOptions::default()));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { transport_in(std::ptr::null()) }, Ok(TransportOptions::default()));
        let thresholds = Thresholds {
            datacenter_rtt_us: 1,
            internet_rtt_us: 2,
            internet_jitter_us: 3,
            fast_rate_bytes_per_s: 4,
            datacenter_loss_ppm: 5,
        };
        for (mode, congestion) in Mode::ALL.into_iter().zip([
            Congestion::Bbr,
            Congestion::Cubic,
            Congestion::Reno,
            Congestion::System,
        ]) {
            let policy = ModePolicy {
                forced: Some(mode),
                allow_datacenter: mode == Mode::Internet,
                allow_internet: mode == Mode::Datacenter,
                thresholds,
                ..ModePolicy::default()
            };
            let effects = ModeEffects { datacenter_streams: 6, internet_streams: 7, congestion };
            let options = TransportOptions { policy, effects };
            assert_eq!(read(&transport_out(&options)), Ok(options));
        }
        for (options, text) in [
            (dwcp_transport_options { mode: 5, ..zero }, "mode 5"),
            (dwcp_transport_options { congestion: 5, ..zero }, "congestion 5"),
            (dwcp_transport_options { flags: 4, ..zero }, "0x4"),
            (dwcp_transport_options { datacenter_streams: 65, ..zero }, "datacenter_streams is 65"),
            (dwcp_transport_options { internet_streams: 1 << 16, ..zero }, "65536"),
            (dwcp_transport_options { padding: 1, ..zero }, "reserved"),
        ] {
            let error = read(&options).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }

    #[test]
    fn figures_that_are_not_known_are_told_from_zeros() {
        let mut peer = PeerMode {
            peer: "h:1".into(),
            mode: Mode::Hybrid,
            forced: None,
            measured: None,
            is_in_use: false,
            figures: Default::default(),
            silent_us: None,
            switches: 3,
            switches_last_minute: 2,
            failure: Some("refused".repeat(100)),
        };
        let none = peer_out(&peer);
        assert_eq!((none.flags, none.measured, none.forced), (0, 0, 0));
        assert_eq!(none.failure[255], 0, "cut, and ended");
        peer.figures.loss_ppm = Some(0);
        peer.silent_us = Some(0);
        peer.is_in_use = true;
        let flags = DWCP_PEER_HAS_LOSS | DWCP_PEER_HEARD | DWCP_PEER_IN_USE;
        assert_eq!(peer_out(&peer).flags, flags);
    }
}
