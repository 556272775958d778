//! Between C structs and the engine's values: options in, progress and reports out.

use super::codes::*;
use super::guard::Failure;
use super::migration::{dwcp_migration_options, dwcp_progress, dwcp_report};
use super::queue::{owner_code, phase_code};
use super::strings;
use super::structs::{self, SizedStruct};
use crate::migration::{
    CodecChoice, CodecPolicy, MigrationOptions, PostCopyRule, Progress, Report,
};
use std::time::Duration;

/// The C number of a side.
pub fn side_code(side: &str) -> u32 {
    if side == "source" { DWCP_SIDE_SOURCE } else { DWCP_SIDE_DESTINATION }
}

/// Progress as C sees it.
pub fn progress_out(progress: &Progress) -> dwcp_progress {
    dwcp_progress {
        struct_size: size_of::<dwcp_progress>(),
        phase: phase_code(progress.phase),
        pass: progress.pass,
        streams: progress.streams,
        reconnects: progress.reconnects,
        throttle_percent: progress.throttle_percent.into(),
        padding: 0,
        ram_bytes: progress.ram_bytes,
        pages: progress.pages,
        remaining_pages: progress.remaining_pages,
        wire_bytes: progress.wire_bytes,
        bandwidth_bytes_per_s: progress.bandwidth_bytes_per_s,
        dirty_rate_bytes_per_s: progress.dirty_rate_bytes_per_s,
        predicted_downtime_us: progress.predicted_downtime_us,
        elapsed_us: progress.elapsed_us,
        rdma_bytes: progress.rdma_bytes,
        reserved: [0; 7],
    }
}

/// A report as C sees it.
pub fn report_out(report: &Report) -> dwcp_report {
    let microseconds = |milliseconds: f64| (milliseconds * 1000.0).round() as u64;
    let post_copy = report.post_copy.unwrap_or_default();
    dwcp_report {
        struct_size: size_of::<dwcp_report>(),
        status: report.status.code(),
        owner: owner_code(report.owner),
        side: side_code(report.side),
        passes: report.passes,
        reconnects: report.reconnects,
        padding: 0,
        total_us: microseconds(report.total_ms),
        downtime_us: microseconds(report.downtime_ms),
        ram_bytes: report.ram_bytes,
        wire_bytes: report.wire_bytes,
        zero_pages: report.zero_pages,
        duplicate_pages: report.duplicate_pages,
        delta_pages: report.delta_pages,
        full_pages: report.full_pages,
        digest: strings::fixed(&report.digest),
        missing_pages: post_copy.missing_pages,
        lost_pages: post_copy.lost_pages,
        faults: post_copy.faults,
        fault_p50_us: post_copy.fault_p50_us,
        fault_p99_us: post_copy.fault_p99_us,
        fault_max_us: post_copy.fault_max_us,
        rdma_bytes: report.rdma_bytes,
        reserved: [0; 1],
    }
}

macro_rules! sized_struct {
    ($($name:ident, $($padding:ident,)? $reserved:literal;)+) => {$(
        // SAFETY: integers and byte arrays of whole words; the layout golden file shows no gap.
        unsafe impl SizedStruct for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST_SIZE: usize = size_of::<Self>();

            fn reserved_is_zero(&self) -> bool {
                $(self.$padding == 0 &&)? self.reserved == [0; $reserved]
            }
        }
    )+};
}

sized_struct! {
    dwcp_migration_options, 7;
    dwcp_progress, padding, 7;
    dwcp_report, padding, 1;
}

/// The options; NULL means all defaults.
///
/// # Safety
/// As for [`structs::read`].
pub unsafe fn options_in(
    options: *const dwcp_migration_options,
) -> Result<MigrationOptions, Failure> {
    let defaults = MigrationOptions::default();
    if options.is_null() {
        return Ok(defaults);
    }
    // SAFETY: the caller vouches for options.
    let options = unsafe { structs::read(options)? };
    if options.flags & !DWCP_MIGRATION_NO_THROTTLE != 0 {
        let text = format!("flags {:#x} holds unknown DWCP_MIGRATION_ bits", options.flags);
        return Err(Failure::invalid(text));
    }
    let streams = match u16::try_from(options.streams) {
        Ok(0) => defaults.streams,
        Ok(streams) => streams,
        Err(_) => return Err(Failure::invalid(format!("streams is {}", options.streams))),
    };
    let or = |value: u64, default| match value {
        0 => default,
        milliseconds => Duration::from_millis(milliseconds),
    };
    let limit = options.bandwidth_limit_bytes_per_s;
    Ok(MigrationOptions {
        streams,
        codec: codec_in(&options, defaults.codec)?,
        max_downtime: match options.max_downtime_us {
            0 => defaults.max_downtime,
            microseconds => Duration::from_micros(microseconds),
        },
        deadline: (options.deadline_ms != 0).then(|| Duration::from_millis(options.deadline_ms)),
        bandwidth_limit_bytes_per_s: (limit != 0).then_some(limit),
        throttle: options.flags & DWCP_MIGRATION_NO_THROTTLE == 0,
        multifd_channels: u8::try_from(options.multifd_channels).map_err(|_| {
            Failure::invalid(format!("multifd_channels is {}", options.multifd_channels))
        })?,
        post_copy: rule_in(options.post_copy)?,
        reconnect_timeout: or(options.reconnect_timeout_ms, defaults.reconnect_timeout),
        stall_timeout: or(options.stall_timeout_ms, defaults.stall_timeout),
    })
}

fn rule_in(rule: u32) -> Result<PostCopyRule, Failure> {
    match rule {
        DWCP_POST_COPY_NEVER => Ok(PostCopyRule::Never),
        DWCP_POST_COPY_MANUAL => Ok(PostCopyRule::Manual),
        DWCP_POST_COPY_AUTO => Ok(PostCopyRule::Auto),
        other => Err(Failure::invalid(format!("post_copy {other} is no DWCP_POST_COPY_ value"))),
    }
}

fn codec_in(
    options: &dwcp_migration_options,
    default: CodecPolicy,
) -> Result<CodecPolicy, Failure> {
    match (options.codec, options.codec_level) {
        (DWCP_CODEC_ZSTD, 0) => Ok(CodecChoice::Zstd(1).into()),
        (DWCP_CODEC_ZSTD, level) => Ok(CodecChoice::Zstd(level).into()),
        (DWCP_CODEC_DEFAULT, 0) => Ok(default),
        (DWCP_CODEC_NONE, 0) => Ok(CodecChoice::None.into()),
        (DWCP_CODEC_LZ4, 0) => Ok(CodecChoice::Lz4.into()),
        (DWCP_CODEC_DEFAULT..=DWCP_CODEC_LZ4, level) => Err(Failure::invalid(format!(
            "codec_level is {level}; only DWCP_CODEC_ZSTD has levels"
        ))),
        (codec, _) => Err(Failure::invalid(format!("codec {codec} is no DWCP_CODEC_ value"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zero() -> dwcp_migration_options {
        // SAFETY: the struct holds only integers.
        let zero: dwcp_migration_options = unsafe { std::mem::zeroed() };
        dwcp_migration_options { struct_size: size_of::<dwcp_migration_options>(), ..zero }
    }

    fn read(options: &dwcp_migration_options) -> Result<MigrationOptions, String> {
        // SAFETY: a whole struct of ours.
        unsafe { options_in(options) }.map_err(|failure| failure.text)
    }

    #[test]
    fn zero_means_default() {
        assert_eq!(read(&zero()), Ok(MigrationOptions::default()));
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { options_in(std::ptr::null()) }.unwrap(), MigrationOptions::default());
    }

    #[test]
    fn set_values_arrive() {
        let options = dwcp_migration_options {
            codec: DWCP_CODEC_ZSTD,
            codec_level: -3,
            flags: DWCP_MIGRATION_NO_THROTTLE,
            max_downtime_us: 5,
            deadline_ms: 6,
            bandwidth_limit_bytes_per_s: 70_000,
            multifd_channels: 16,
            post_copy: DWCP_POST_COPY_AUTO,
            ..zero()
        };
        let options = read(&options).unwrap();
        assert_eq!(options.codec, CodecChoice::Zstd(-3).into());
        assert!(!options.throttle);
        assert_eq!(options.max_downtime, Duration::from_micros(5));
        assert_eq!(options.deadline, Some(Duration::from_millis(6)));
        assert_eq!(options.bandwidth_limit_bytes_per_s, Some(70_000));
        assert_eq!(options.multifd_channels, 16);
        assert_eq!(options.post_copy, PostCopyRule::Auto);
    }

    #[test]
    fn unknown_values_are_named() {
        let cases = [
            (dwcp_migration_options { codec: 77, ..zero() }, "77"),
            (dwcp_migration_options { codec_level: 5, ..zero() }, "codec_level is 5"),
            (dwcp_migration_options { flags: 6, ..zero() }, "0x6"),
            (dwcp_migration_options { streams: 70_000, ..zero() }, "70000"),
            (dwcp_migration_options { multifd_channels: 256, ..zero() }, "256"),
            (dwcp_migration_options { post_copy: 3, ..zero() }, "post_copy 3"),
            (dwcp_migration_options { reserved: [1; 7], ..zero() }, "reserved"),
        ];
        for (options, text) in cases {
            let error = read(&options).unwrap_err();
            assert!(error.contains(text), "{error}");
        }
    }
}
