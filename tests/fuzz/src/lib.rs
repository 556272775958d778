//! The fuzz targets as plain functions over bytes, their seeds, and the glue to libFuzzer.
//!
//! `scripts/fuzz.sh` runs them under libFuzzer; `tests/fuzz_targets.rs` of the library runs the same
//! functions over seeds and mutations of seeds in every `cargo test`.

pub mod seeds;
pub mod targets;

pub use libfuzzer_sys;

/// Writes the seeds of a target into the folder named by `DWCP_FUZZ_SEEDS`, if that is set.
pub fn write_seeds(name: &str) {
    let Some(folder) = std::env::var_os("DWCP_FUZZ_SEEDS") else { return };
    for (index, seed) in seeds::of(name).iter().enumerate() {
        let path = std::path::Path::new(&folder).join(format!("seed-{index:02}"));
        std::fs::write(&path, seed).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

/// The entry points of the target with this name.
#[macro_export]
macro_rules! target {
    ($name:ident) => {
        use $crate::libfuzzer_sys;
        libfuzzer_sys::fuzz_target!(
            init: $crate::write_seeds(stringify!($name)),
            |data: &[u8]| $crate::targets::$name(data)
        );
    };
}
