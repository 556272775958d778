//! Two hosts and their link, as one value.

use crate::LabError;
use crate::emulator::{Direction, Emulator, LinkStats};
use crate::namespace::{self, DEVICE, Host, SECOND_DEVICE};
use crate::shaper::LinkConfig;
use crate::tun::Tun;
use std::sync::atomic::{AtomicU32, Ordering};

/// Two hosts and their link; all of it is gone when this is dropped.
#[derive(Debug)]
pub struct Lab {
    // First, so that the devices are closed before their namespaces go.
    emulator: Option<Emulator>,
    second: Option<Emulator>,
    a: Host,
    b: Host,
}

impl Lab {
    /// Two hosts on a veth pair: as fast as the kernel.
    ///
    /// # Errors
    /// Not root, or `ip` is missing.
    pub fn veth() -> Result<Self, LabError> {
        let lab = Self::hosts()?;
        let (a, b) = (lab.a.name(), lab.b.name());
        namespace::ip(&[
            "link", "add", DEVICE, "netns", a, "type", "veth", "peer", "name", DEVICE, "netns", b,
        ])?;
        lab.a.configure()?;
        lab.b.configure()?;
        Ok(lab)
    }

    /// Two hosts on an emulated link, with a fixed seed.
    ///
    /// # Errors
    /// Not root, or `ip` or `/dev/net/tun` is missing.
    pub fn emulated(config: LinkConfig) -> Result<Self, LabError> {
        Self::emulated_with_seed(config, DEFAULT_SEED)
    }

    /// Two hosts on an emulated link whose losses are drawn from `seed`.
    ///
    /// # Errors
    /// As [`Self::emulated`].
    pub fn emulated_with_seed(config: LinkConfig, seed: u64) -> Result<Self, LabError> {
        if config.loss > 0.0 {
            eprintln!("link loss {} with seed {seed}", config.loss);
        }
        let mut lab = Self::hosts()?;
        let a = lab.a.enter(|| Tun::open(DEVICE))?;
        let b = lab.b.enter(|| Tun::open(DEVICE))?;
        lab.a.configure()?;
        lab.b.configure()?;
        lab.emulator = Some(Emulator::start(a, b, &config, seed)?);
        Ok(lab)
    }

    /// Adds another emulated link, on which the hosts are 10.78.0.1 and 10.78.0.2. What host A sends
    /// from its address there takes that link, wherever it goes.
    ///
    /// # Errors
    /// As [`Self::emulated`].
    pub fn add_link(&mut self, config: LinkConfig) -> Result<(), LabError> {
        let a = self.a.enter(|| Tun::open(SECOND_DEVICE))?;
        let b = self.b.enter(|| Tun::open(SECOND_DEVICE))?;
        self.a.configure_second()?;
        self.b.configure_second()?;
        self.second = Some(Emulator::start(a, b, &config, DEFAULT_SEED + 1)?);
        Ok(())
    }

    /// The emulator of the link that was added.
    ///
    /// # Panics
    /// None was.
    pub fn second_emulator(&self) -> &Emulator {
        match &self.second {
            Some(emulator) => emulator,
            None => panic!("there is no second link; use Lab::add_link"),
        }
    }

    fn hosts() -> Result<Self, LabError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        namespace::sweep();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let a = Host::new(namespace::name_of(number, 'a'), 1)?;
        let b = Host::new(namespace::name_of(number, 'b'), 2)?;
        Ok(Self { emulator: None, second: None, a, b })
    }

    /// The first host, 10.77.0.1 and fd77::1.
    pub fn a(&self) -> &Host {
        &self.a
    }

    /// The second host, 10.77.0.2 and fd77::2.
    pub fn b(&self) -> &Host {
        &self.b
    }

    /// The link's emulator.
    ///
    /// # Panics
    /// On a veth laboratory, which has none.
    pub fn emulator(&self) -> &Emulator {
        match &self.emulator {
            Some(emulator) => emulator,
            None => panic!("a veth link cannot be shaped; use Lab::emulated"),
        }
    }

    /// Sets the rate of both directions; none: unlimited.
    pub fn set_rate(&self, bits_per_s: Option<u64>) {
        self.change(|config| config.rate_bits_per_s = bits_per_s);
    }

    /// Sets the round-trip time, half of it each way.
    pub fn set_rtt(&self, rtt: std::time::Duration) {
        self.change(|config| config.delay = rtt / 2);
    }

    /// Sets the loss probability of both directions.
    pub fn set_loss(&self, probability: f64) {
        self.change(|config| config.loss = probability);
    }

    /// Takes the link down, or up again. Packets offered while it is down are dropped silently,
    /// as by a cut cable somewhere on the path: the hosts see no error.
    pub fn set_link_up(&self, up: bool) {
        self.change(|config| config.up = up);
    }

    /// Sets the probability with which a packet of either direction comes with a bit changed that TCP
    /// does not notice.
    pub fn set_damage(&self, probability: f64) {
        self.change(|config| config.damage = probability);
    }

    /// Breaks up to so many connections that send something in this direction.
    pub fn reset_connections(&self, direction: Direction, connections: u64) {
        self.emulator().reset(direction, connections);
    }

    /// What a direction did so far.
    pub fn stats(&self, direction: Direction) -> LinkStats {
        self.emulator().stats(direction)
    }

    fn change(&self, change: impl Fn(&mut LinkConfig)) {
        for direction in [Direction::AToB, Direction::BToA] {
            let mut config = self.emulator().config(direction);
            change(&mut config);
            self.emulator().set_config(direction, config);
        }
    }
}

const DEFAULT_SEED: u64 = 77;
