//! Links that are made up, and what is measured on them.

use super::fault::Effect;
use super::random::Random;
use super::scenario::Scenario;
use crate::rollout::{Flag, FlagSet, Membership, Snapshot, Unit};
use std::f64::consts::TAU;

/// All links, and how load and weather stand.
pub struct Cluster<'a> {
    scenario: &'a Scenario,
    pub random: Random,
    pub links: Vec<Link>,
    /// Of the daily swing, from -1 to 1.
    swing: f64,
}

/// Two nodes that talk to each other.
pub struct Link {
    /// The unit's key for each flag; a path has an address in it.
    keys: [String; Flag::ALL.len()],
    /// The unit's hash for each flag.
    pub units: [u64; Flag::ALL.len()],
    /// Which flags it has.
    pub has: [bool; Flag::ALL.len()],
    latency_us: f64,
    bytes_per_s: f64,
    /// As a logarithm: less throughput, more latency.
    weather: f64,
}

impl<'a> Cluster<'a> {
    /// The cluster of a scenario, with no flag on.
    pub fn new(scenario: &'a Scenario, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut pairs: Vec<(u32, u32)> = Vec::new();
        while pairs.len() < scenario.links as usize {
            let node = |random: &mut Random| random.index(scenario.nodes as usize) as u32;
            let (one, other) = (node(&mut random), node(&mut random));
            let pair = (one.min(other), one.max(other));
            if one != other && !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
        let links = pairs.iter().map(|pair| Link::new(*pair, scenario, &mut random)).collect();
        Self { scenario, random, links, swing: 0.0 }
    }

    /// Decides anew which links have which flags: an exact share of each, as all are known.
    pub fn decide(&mut self, set: &FlagSet) {
        let mut snapshot = Snapshot::new(set);
        for flag in Flag::ALL {
            let keys = self.links.iter().map(|link| link.keys[flag.index()].as_str());
            // A scenario has at most as many links as may be ranked.
            if let Ok(members) = Membership::new(keys) {
                snapshot = snapshot.with_members(flag, &members);
            }
        }
        for link in &mut self.links {
            for flag in Flag::ALL {
                let unit = Unit::named(&link.keys[flag.index()]);
                link.has[flag.index()] = snapshot.decide(flag, &unit, true, 0).is_on;
            }
        }
    }

    /// Lets the day and the weather go on by `seconds`.
    pub fn pass(&mut self, at_s: f64, seconds: f64) {
        self.swing = self.scenario.daily_swing * (TAU * at_s / DAY_S).sin();
        let kept = (-seconds / (self.scenario.weather_min * 60.0)).exp();
        let fresh = self.scenario.weather * (1.0 - kept * kept).sqrt();
        for link in &mut self.links {
            link.weather = link.weather * kept + fresh * self.random.normal();
        }
    }

    /// Requests in so many seconds.
    pub fn requests(&mut self, seconds: f64) -> u32 {
        let mean = self.scenario.requests_per_min * seconds / 60.0;
        self.random.count(mean * (1.0 + self.swing))
    }

    /// Whether a request fails.
    pub fn request_fails(&mut self, effects: &[Effect]) -> bool {
        let worse = effects.iter().filter_map(|effect| match effect {
            Effect::Errors { percent } => Some(*percent),
            _ => None,
        });
        let percent = worse.fold(self.scenario.error_rate, f64::max);
        self.random.happens(percent / 100.0)
    }

    /// Whether a detection of a mode fails.
    pub fn detection_fails(&mut self, effects: &[Effect]) -> bool {
        let worse = effects.iter().filter_map(|effect| match effect {
            Effect::DetectionFailures { percent } => Some(*percent),
            _ => None,
        });
        let percent = worse.fold(self.scenario.detection_failure_rate, f64::max);
        self.random.happens(percent / 100.0)
    }

    /// How long a request on a link takes, in microseconds, and as a ratio to the link's median.
    pub fn latency_us(&mut self, link: usize, effects: &[Effect]) -> (f64, f64) {
        let model = self.scenario.latency;
        let factor = effects.iter().map(|effect| match effect {
            Effect::Latency { increase_percent } => 1.0 + increase_percent / 100.0,
            _ => 1.0,
        });
        let spread = model.spread * self.random.normal() + self.links[link].weather;
        let mut ratio = (spread + self.swing).exp() * factor.product::<f64>();
        if self.random.happens(model.tail_percent / 100.0) {
            ratio *= model.tail_factor.powf(self.random.unit());
        }
        (self.links[link].latency_us * ratio, ratio)
    }

    /// What a link delivers, in bytes per second, as a ratio to its median, and whether the sender
    /// had little to send.
    pub fn throughput(&mut self, link: usize, effects: &[Effect]) -> (f64, f64, bool) {
        let model = self.scenario.throughput;
        if self.random.happens(model.application_limited_percent / 100.0) {
            let ratio = 0.5 * self.random.unit();
            return (self.links[link].bytes_per_s * ratio, ratio, true);
        }
        let factor = effects.iter().map(|effect| match effect {
            Effect::Throughput { ratio } => *ratio,
            _ => 1.0,
        });
        let spread = model.spread * self.random.normal() - self.links[link].weather;
        let ratio = (spread - self.swing).exp() * factor.product::<f64>();
        (self.links[link].bytes_per_s * ratio, ratio, false)
    }

    /// Mode switches of a link in so many seconds.
    pub fn switches(&mut self, seconds: f64, effects: &[Effect]) -> u32 {
        let more = effects.iter().filter_map(|effect| match effect {
            Effect::ModeSwitches { per_min } => Some(*per_min),
            _ => None,
        });
        let per_min = more.fold(self.scenario.mode_switches_per_hour / 60.0, f64::max);
        self.random.count(per_min * seconds / 60.0)
    }
}

impl Link {
    fn new((one, other): (u32, u32), scenario: &Scenario, random: &mut Random) -> Self {
        let key = |flag: Flag| match flag {
            Flag::InternetOptimization => format!("node-{one}|node-{other}:9471"),
            _ => format!("node-{one}|node-{other}"),
        };
        let keys = Flag::ALL.map(key);
        let units = Flag::ALL.map(|flag| Unit::named(&keys[flag.index()]).hash());
        let (latency, throughput) = (scenario.latency, scenario.throughput);
        let mut level = |spread: f64| (spread * random.normal()).exp();
        Self {
            keys,
            units,
            has: Default::default(),
            latency_us: latency.median_ms * 1e3 * level(latency.link_spread),
            bytes_per_s: throughput.median_mb_per_s * 1e6 * level(throughput.link_spread),
            weather: 0.0,
        }
    }
}

const DAY_S: f64 = 86_400.0;
