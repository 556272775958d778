//! The guest's first process: brings up an RDMA device, runs every scenario and says how it went,
//! a line for each. Started with a name, it is the other side of that scenario.

mod bench;
mod migrations;
mod proof;
mod scenarios;
mod setup;
mod side;

use std::io::Write;
use std::path::Path;

/// Whatever goes wrong in the guest.
type Failure = Box<dyn std::error::Error>;

fn main() {
    if let Some(name) = std::env::args().nth(1).filter(|_| std::process::id() != 1) {
        let ended = scenarios::other_side(&name);
        if let Err(error) = &ended {
            say(&format!("note {name}: the other side: {error}"));
        }
        std::process::exit(i32::from(ended.is_err()));
    }
    match setup::bring_up() {
        Ok(()) if Path::new(bench::MARK).exists() => {
            if let Err(error) = bench::run() {
                say(&format!("FAIL bench: {error}"));
            }
        }
        Ok(()) => scenarios::ALL.iter().for_each(|(name, run)| match run() {
            Ok(detail) => say(&format!("pass {name}: {detail}")),
            Err(error) => say(&format!("FAIL {name}: {error}")),
        }),
        Err(error) => say(&format!("FAIL setup: {error}")),
    }
    say("end of scenarios");
    loop {
        std::thread::park();
    }
}

/// A whole line at once: several processes write to the console.
fn say(line: &str) {
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
}
