//! Runs one guest of the laboratory for a script: prints where its sockets and its console are, and
//! keeps it until standard input ends.
//!
//! usage: lab-guest MEMORY_MIB FILL_MIB RATE_MIB [incoming]

use dwcp_qemulab::{Image, Load, Vm, VmConfig};
use std::io::{Read, Write};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [memory_mib, mib, rate_mib] = numbers(&arguments)?;
    let image = Image::cached()?;
    let vm = Vm::start(&VmConfig {
        image: Some(&image),
        load: Load::Text { mib, rate_mib },
        memory_mib,
        incoming: arguments.get(3).is_some_and(|word| word == "incoming"),
        ..VmConfig::default()
    })?;
    let mut out = std::io::stdout();
    writeln!(out, "{} {}", vm.qmp_path().display(), vm.serial_path().display())?;
    out.flush()?;
    // The guest goes when the script does, however it ends.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

fn numbers(arguments: &[String]) -> Result<[u32; 3], Failure> {
    let [memory, fill, rate, ..] = arguments else {
        return Err("usage: lab-guest MEMORY_MIB FILL_MIB RATE_MIB [incoming]".into());
    };
    Ok([memory.parse()?, fill.parse()?, rate.parse()?])
}
