//! What encoding needs: memory for what it remembers, and a processor that packs fast enough.

use super::{Check, Component, Settings};
use crate::config::units::rounded_bytes;
use crate::encoding::CodecChoice;
use crate::migration::EncodingOptions;
use crate::runtime::compression::round_trip::{Verdict as Packed, one_codec, text};
use crate::runtime::proc_files::memory;

pub fn check(settings: &Settings) -> Vec<Check> {
    let options = settings.config.encoding_options();
    vec![budget(&options, &settings.guest_bytes, memory("MemAvailable")), codec(&measure(settings))]
}

/// What migrations of all guests at once may take, against what is free.
fn budget(options: &EncodingOptions, guests: &[u64], free: Option<u64>) -> Check {
    let check = |found: String| Check::ok(Component::Hde, "memory", found);
    let share = (options.max_memory_percent / 100.0).clamp(0.0, 1.0);
    let needed: u64 = guests.iter().map(|bytes| (*bytes as f64 * share) as u64).sum();
    let Some(free) = free else {
        return check("/proc/meminfo cannot be read".to_owned())
            .warning("mount /proc in the node's container");
    };
    let percent = options.max_memory_percent;
    if guests.is_empty() {
        return check(format!(
            "{} available; a migration takes {percent} % of its guest's memory, so guests of {} \
             together",
            rounded_bytes(free),
            rounded_bytes((free as f64 / share.max(f64::EPSILON)) as u64),
        ));
    }
    let found = format!(
        "{} available; migrating all {} guests at once takes up to {}, {percent} % of their memory",
        rounded_bytes(free),
        guests.len(),
        rounded_bytes(needed),
    );
    let advice = "migrate fewer at a time, or lower hde.max_memory_percent";
    match needed {
        _ if needed > free => check(found).failed(advice),
        _ if needed > free / 2 => check(found).warning(advice),
        _ => check(found),
    }
}

/// zstd over the memory of a guest that runs here, or else over made text.
fn measure(settings: &Settings) -> Packed {
    let choice = CodecChoice::Zstd(1);
    match &settings.sample {
        Some((guest, sample)) => one_codec(choice, &format!("guest {guest}"), sample),
        None => one_codec(choice, "generated text", &text()),
    }
}

fn codec(packed: &Packed) -> Check {
    let check = |found: String| Check::ok(Component::Hde, "cost of zstd", found);
    if let Some(failure) = &packed.failure {
        return check(format!("{} of {}: {failure}", packed.what, packed.memory))
            .failed("memory does not come back as it was: check this host's memory and processor");
    }
    let (Some(encode), Some(decode)) = (packed.encode_mb_per_s, packed.decode_mb_per_s) else {
        return check(format!("{} had nothing to pack of {}", packed.what, packed.memory));
    };
    let found = format!(
        "one processor packs {} {:.1} : 1 at {encode:.0} MB/s and unpacks at {decode:.0} MB/s",
        packed.memory,
        packed.raw_bytes as f64 / packed.packed_bytes.max(1) as f64,
    );
    if encode.min(decode) >= GIGABIT_MB_PER_S {
        return check(found);
    }
    check(found).warning(
        "it fills less than 1 Gbit/s before packing: give the node more processors, or let \
         migration.codec be auto, which then takes lz4",
    )
}

const GIGABIT_MB_PER_S: f64 = 125.0;

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn memory_for_all_guests_at_once_is_what_counts() {
        let options = EncodingOptions::default();
        let judge = |guests: &[u64], free| budget(&options, guests, Some(free)).verdict;
        let gib = 1 << 30;
        assert_eq!(judge(&[4 * gib, 4 * gib], gib), Verdict::Failed);
        assert_eq!(judge(&[4 * gib, 4 * gib], 3 * gib), Verdict::Warning);
        assert_eq!(judge(&[4 * gib, 4 * gib], 4 * gib), Verdict::Ok);
        assert_eq!(judge(&[], gib), Verdict::Ok);
        assert!(budget(&options, &[], Some(gib)).found.contains("guests of 4.00 GiB"));
    }

    #[test]
    fn a_slow_or_faulty_processor_is_told_of() {
        let packed = |encode, failure: Option<&str>| Packed {
            what: "codec zstd:1".to_owned(),
            memory: "guest vm".to_owned(),
            raw_bytes: 4000,
            packed_bytes: 1000,
            encode_mb_per_s: Some(encode),
            decode_mb_per_s: Some(900.0),
            failure: failure.map(str::to_owned),
        };
        let good = codec(&packed(400.0, None));
        assert_eq!(good.verdict, Verdict::Ok);
        assert!(good.found.contains("guest vm 4.0 : 1 at 400 MB/s"), "{}", good.found);
        assert_eq!(codec(&packed(40.0, None)).verdict, Verdict::Warning);
        assert_eq!(codec(&packed(400.0, Some("byte 7 is 1"))).verdict, Verdict::Failed);
    }

    #[test]
    fn what_is_measured_is_real() {
        let packed = measure(&Settings::default());
        assert_eq!(packed.failure, None);
        assert!(packed.raw_bytes > packed.packed_bytes && packed.packed_bytes > 0, "{packed:?}");
    }
}
