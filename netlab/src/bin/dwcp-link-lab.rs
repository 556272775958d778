//! `dwcp-link-lab`: an emulated link from a shell.
//!
//! With two commands, `-- COMMAND_A ::: COMMAND_B`, A runs on host a (10.77.0.1) and B, a little
//! later, on host b (10.77.0.2); when B ends, A is killed and the exit status is B's. Without
//! commands the link is held until end of input, and each line of input changes it.

use clap::Parser;
use dwcp_netlab::signals::{self, Signals};
use dwcp_netlab::{Direction, Lab, LinkConfig, units};
use std::io::BufRead;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

/// Two network namespaces with a link of a given rate, round-trip time and loss between them.
#[derive(Parser)]
#[command(name = "dwcp-link-lab", version)]
struct Arguments {
    /// Rate of each direction, such as 300mbit or 10gbit; none is unlimited.
    #[arg(long, default_value = "none", value_parser = units::parse_rate)]
    rate: std::option::Option<u64>,
    /// Round-trip time, such as 80ms.
    #[arg(long, default_value = "0ms", value_parser = units::parse_duration)]
    rtt: Duration,
    /// Probability that a packet is lost, 0 to 1.
    #[arg(long, default_value = "0", value_parser = units::parse_probability)]
    loss: f64,
    /// Queue before the bottleneck, such as 3mb [default: one bandwidth-delay product].
    #[arg(long, value_parser = units::parse_bytes)]
    queue: Option<u64>,
    /// Seed of the losses.
    #[arg(long, default_value_t = 77)]
    seed: u64,
    /// A veth pair instead of the emulator: as fast as the kernel.
    #[arg(long, conflicts_with_all = ["rate", "rtt", "loss", "queue", "seed"])]
    veth: bool,
    /// COMMAND_A ::: COMMAND_B
    #[arg(last = true)]
    commands: Vec<String>,
}

/// What the program waits for.
enum Event {
    Line(String),
    EndOfInput,
    Signal(i32),
    Ended(std::io::Result<ExitStatus>),
}

fn main() -> ExitCode {
    let (tell, events) = channel();
    forward_signals(tell.clone());
    match run(&Arguments::parse(), tell, &events) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dwcp-link-lab: {error}");
            ExitCode::from(2)
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn run(
    arguments: &Arguments,
    tell: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<ExitCode, Failure> {
    let lab = if arguments.veth {
        Lab::veth()?
    } else {
        let config = LinkConfig {
            rate_bits_per_s: arguments.rate,
            queue_bytes: arguments.queue,
            ..LinkConfig::default().rtt(arguments.rtt).loss(arguments.loss)
        };
        Lab::emulated_with_seed(config, arguments.seed)?
    };
    if arguments.commands.is_empty() {
        hold(&lab, arguments.veth, tell, events)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut sides = arguments.commands.split(|word| word == ":::");
    let (Some(a), Some(b), None) = (sides.next(), sides.next(), sides.next()) else {
        return Err("expected -- COMMAND_A ::: COMMAND_B".into());
    };
    let mut first = command(lab.a(), a)?;
    let mut second = command(lab.b(), b)?;
    let _first = lab.a().spawn(&mut first)?;
    std::thread::sleep(HEAD_START);
    let mut second = second.spawn()?;
    let pid = second.id();
    std::thread::spawn(move || tell.send(Event::Ended(second.wait())));
    for event in events {
        match event {
            Event::Ended(status) => return Ok(exit_code(status?)),
            Event::Signal(signal) => signals::send(pid, signal),
            Event::Line(_) | Event::EndOfInput => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn command(host: &dwcp_netlab::Host, words: &[String]) -> Result<Command, Failure> {
    let [program, arguments @ ..] = words else { return Err("a command is empty".into()) };
    let mut command = host.command(program);
    command.args(arguments);
    Ok(command)
}

/// Keeps the link until end of input, `quit` or a signal.
fn hold(
    lab: &Lab,
    veth: bool,
    tell: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(), Failure> {
    for host in [lab.a(), lab.b()] {
        println!("ip netns exec {} ...    # {} {}", host.name(), host.ipv4(), host.ipv6());
    }
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let _ = tell.send(Event::Line(line));
        }
        let _ = tell.send(Event::EndOfInput);
    });
    for event in events {
        match event {
            Event::Line(line) if line.trim() == "quit" => break,
            Event::Line(_) if veth => eprintln!("a veth link cannot be shaped"),
            Event::Line(line) => obey(lab, &line).unwrap_or_else(|error| eprintln!("{error}")),
            _ => break,
        }
    }
    Ok(())
}

/// Does what one line of input says.
fn obey(lab: &Lab, line: &str) -> Result<(), String> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["rate", value] => lab.set_rate(units::parse_rate(value)?),
        ["rtt", value] => lab.set_rtt(units::parse_duration(value)?),
        ["loss", value] => lab.set_loss(units::parse_probability(value)?),
        ["down"] => lab.set_link_up(false),
        ["up"] => lab.set_link_up(true),
        ["stats"] => {
            for direction in [Direction::AToB, Direction::BToA] {
                println!("{direction:?} {:?}", lab.stats(direction));
            }
            let overruns = [lab.a(), lab.b()].map(|host| host.overruns().ok());
            println!("packets that the emulator was too slow for, of a and b: {overruns:?}");
        }
        [] => {}
        _ => return Err(format!("{line:?} is none of: rate, rtt, loss, down, up, stats, quit")),
    }
    Ok(())
}

fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().map_or(1, |code| code as u8))
}

/// Passes interrupt and termination on as events, so that the namespaces are taken down on every way
/// out. No thread runs yet.
fn forward_signals(tell: Sender<Event>) {
    let signals = Signals::block();
    std::thread::spawn(move || {
        while let Some(signal) = signals.wait() {
            let _ = tell.send(Event::Signal(signal));
        }
    });
}

/// Time for a server on host a to start listening.
const HEAD_START: Duration = Duration::from_millis(300);
