//! Everything but the library: a guest copied within the process, live, and proved.

use crate::console::Console;
use crate::exit;
use crate::guest::Guest;
use crate::host::open_guest;
use crate::options::{Damage, Options};
use crate::program::PAGE_BYTES;
use crate::verify;
use std::time::Duration;

/// The exit code.
pub fn run(options: &Options) -> i32 {
    let mut console = Console::new(options);
    let code = test(options, &mut console).unwrap_or_else(|error| {
        console.say(format!("self-test failed: {error}"));
        exit::SETUP
    });
    if options.json {
        println!("{}", serde_json::json!({ "self_test": code == exit::FINE }));
    }
    code
}

fn test(options: &Options, console: &mut Console) -> Result<i32, String> {
    let from = open_guest(options, console)?;
    let to = from.twin(options)?;
    console.guest(&from, options);
    from.boot(options.content, options)?;
    from.wait_until_filled()?;
    copy_guest(&from, &to, console)?;
    if !damage_is_found(&from, options, console)? || !stays_paused(&from, console)? {
        return Ok(exit::PROOF);
    }
    to.memory().damage(options.corrupt);
    let arrival = verify::arrival(&to, options.verify);
    to.resume()?;
    let first = arrival.result();
    console.proof("at arrival", &first);
    std::thread::sleep(Duration::from_secs_f64(options.run_seconds));
    let saved = to.loaded();
    let runs = to.gets_on(saved);
    let later = verify::running(&to)?;
    console.proof("after running on", &later);
    let how = if runs { "runs" } else { "DOES NOT RUN" };
    let since = later.counter.saturating_sub(saved.writes);
    console.say(format!("the copy {how}: {since} writes since it was stopped"));
    Ok(if first.holds && later.holds && runs { exit::FINE } else { exit::PROOF })
}

/// Pre-copy with a dirty log if there is one, else a copy of the stopped guest.
fn copy_guest(from: &Guest, to: &Guest, console: &mut Console) -> Result<(), String> {
    let pages = from.memory().length_bytes / PAGE_BYTES;
    let mut log = vec![0; pages.div_ceil(64)];
    match &from.log {
        Some(kvm) => kvm.start().map_err(|error| error.to_string())?,
        None => from.pause()?,
    }
    (0..pages).try_for_each(|page| copy_page(from, to, page))?;
    for pass in 1..=3 {
        let Some(kvm) = &from.log else { break };
        std::thread::sleep(Duration::from_millis(100));
        if pass == 3 {
            from.pause()?;
        }
        log.fill(0);
        kvm.fetch(0, &mut log).map_err(|error| error.to_string())?;
        let dirty: Vec<_> =
            (0..pages).filter(|page| log[page / 64] >> (page % 64) & 1 == 1).collect();
        let paused = if pass == 3 { ", guest paused" } else { "" };
        console.say(format!("pass {pass}: {} pages in KVM's dirty log{paused}", dirty.len()));
        dirty.into_iter().try_for_each(|page| copy_page(from, to, page))?;
    }
    to.load(&from.save()?)
}

fn copy_page(from: &Guest, to: &Guest, page: usize) -> Result<(), String> {
    let (mut bytes, offset) = ([0; PAGE_BYTES], (page * PAGE_BYTES) as u64);
    from.memory.read(0, offset, &mut bytes).map_err(|error| error.to_string())?;
    to.memory.write(0, offset, &bytes).map_err(|error| error.to_string())
}

/// A migration may pause the guest while it is looked at, and relies on it.
fn stays_paused(guest: &Guest, console: &mut Console) -> Result<bool, String> {
    let before = guest.counters();
    verify::running(guest)?;
    std::thread::sleep(Duration::from_millis(100));
    let stays = guest.counters() == before;
    let how = if stays { "stays so after" } else { "RUNS AFTER" };
    console.say(format!("the paused original {how} its proof"));
    Ok(stays)
}

/// Each kind of damage must be found, in a copy of the paused guest.
fn damage_is_found(from: &Guest, options: &Options, console: &mut Console) -> Result<bool, String> {
    let kinds = [
        (Damage::Byte, "a flipped bit"),
        (Damage::Stale, "a lost update"),
        (Damage::Counter, "a counter gone back"),
        (Damage::Code, "a damaged program"),
    ];
    let copy = from.twin(options)?;
    let mut all = true;
    for (damage, name) in kinds {
        let pages = from.memory().length_bytes / PAGE_BYTES;
        (0..pages).try_for_each(|page| copy_page(from, &copy, page))?;
        copy.memory().damage(damage);
        let proof = copy.memory().prove();
        let found = if proof.holds { "NOT FOUND" } else { "found" };
        console.say(format!("{name} is {found}: {}", proof.text));
        all &= !proof.holds;
    }
    Ok(all)
}
