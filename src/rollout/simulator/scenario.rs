//! What is simulated: the cluster, its load, the schedules, the limits and the faults.

use super::fault::{Effect, Fault, Reach};
use crate::base::limits::{MAX_SIMULATED_FAULTS, MAX_SIMULATED_LINKS};
use crate::rollout::guard::{Limits, LimitsError};
use crate::rollout::{Flag, NotBuilt, Schedule, by_flag};
use serde::{Deserialize, Serialize};

/// A rollout to simulate. Missing fields make a healthy cluster of a moderate size that follows the
/// guide's six weeks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, in some words.
    pub name: String,
    /// Equal seeds give equal rollouts.
    pub seed: u64,
    /// How long, in days.
    pub days: f64,
    /// One step of time, in seconds.
    pub step_s: u64,
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Pairs of nodes that talk to each other.
    pub links: u32,
    /// Requests of the whole cluster, on average.
    pub requests_per_min: f64,
    /// Requests that fail, in percent.
    pub error_rate: f64,
    /// Detections of a mode that fail, in percent.
    pub detection_failure_rate: f64,
    /// Mode switches of a link.
    pub mode_switches_per_hour: f64,
    /// How far load and latency swing within a day: 0.3 is 30 % up and down.
    pub daily_swing: f64,
    /// How far the latency and throughput of a link wander by themselves: 0.05 is about 5 %.
    pub weather: f64,
    /// How long such weather lasts, in minutes.
    pub weather_min: f64,
    /// Latency of requests.
    pub latency: LatencyModel,
    /// Throughput of links.
    pub throughput: ThroughputModel,
    /// When a rollout is taken back.
    pub limits: Limits,
    /// How each flag is rolled out; where nothing is said, as the guide has it.
    #[serde(with = "by_flag")]
    pub schedules: Vec<(Flag, Schedule)>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// Latencies are log-normal around each link's median, with a heavy tail.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LatencyModel {
    /// Of the median link, in milliseconds.
    pub median_ms: f64,
    /// Deviation of the links' medians, as a logarithm.
    pub link_spread: f64,
    /// Deviation on one link, as a logarithm.
    pub spread: f64,
    /// Requests that take far longer, in percent.
    pub tail_percent: f64,
    /// Up to so many times longer.
    pub tail_factor: f64,
}

/// Throughputs are log-normal around each link's median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ThroughputModel {
    /// Of the median link, in megabytes per second.
    pub median_mb_per_s: f64,
    /// Deviation of the links' medians, as a logarithm.
    pub link_spread: f64,
    /// Deviation on one link, as a logarithm.
    pub spread: f64,
    /// Time between two measurements of a link, in seconds.
    pub interval_s: u64,
    /// Measurements that find a sender with little to send, in percent.
    pub application_limited_percent: f64,
}

/// A scenario that cannot be played.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ScenarioError {
    /// A number out of its range.
    #[error("{name} is {value}, not a number from {least} to {most}")]
    Number {
        /// Its name.
        name: &'static str,
        /// What it is.
        value: f64,
        /// The least that is taken.
        least: f64,
        /// The most.
        most: f64,
    },
    /// More links than nodes can have.
    #[error("{nodes} nodes cannot have {links} links")]
    Links {
        /// Nodes.
        nodes: u32,
        /// Links.
        links: u32,
    },
    /// A flag that cannot be on.
    #[error(transparent)]
    NotBuilt(#[from] NotBuilt),
    /// Limits.
    #[error("limits: {0}")]
    Limits(#[from] LimitsError),
    /// Over the limit.
    #[error("{0} faults are more than {MAX_SIMULATED_FAULTS}")]
    TooManyFaults(usize),
    /// A fault that never begins, or for nobody.
    #[error("fault {number} needs {lacks}")]
    Fault {
        /// Which, from 1.
        number: usize,
        /// What it needs.
        lacks: &'static str,
    },
}

impl Scenario {
    /// Refuses what cannot be played.
    ///
    /// # Errors
    /// [`ScenarioError`] names the first mistake.
    pub fn check(&self) -> Result<(), ScenarioError> {
        let within = |name, value: f64, least: f64, most: f64| match (least..=most).contains(&value)
        {
            true => Ok(()),
            false => Err(ScenarioError::Number { name, value, least, most }),
        };
        within("days", self.days, 0.001, 400.0)?;
        within("step_s", self.step_s as f64, 1.0, 600.0)?;
        within("nodes", f64::from(self.nodes), 2.0, 10_000.0)?;
        within("links", f64::from(self.links), 1.0, MAX_SIMULATED_LINKS as f64)?;
        within("requests_per_min", self.requests_per_min, 0.0, 100_000.0)?;
        within("error_rate", self.error_rate, 0.0, 100.0)?;
        within("detection_failure_rate", self.detection_failure_rate, 0.0, 100.0)?;
        within("mode_switches_per_hour", self.mode_switches_per_hour, 0.0, 100_000.0)?;
        within("daily_swing", self.daily_swing, 0.0, 0.9)?;
        within("weather", self.weather, 0.0, 2.0)?;
        within("weather_min", self.weather_min, 0.1, 100_000.0)?;
        let LatencyModel { median_ms, link_spread, spread, tail_percent, tail_factor } =
            self.latency;
        within("latency.median_ms", median_ms, 0.001, 1e6)?;
        within("latency.link_spread", link_spread, 0.0, 5.0)?;
        within("latency.spread", spread, 0.0, 5.0)?;
        within("latency.tail_percent", tail_percent, 0.0, 100.0)?;
        within("latency.tail_factor", tail_factor, 1.0, 1e6)?;
        let throughput = self.throughput;
        within("throughput.median_mb_per_s", throughput.median_mb_per_s, 0.001, 1e6)?;
        within("throughput.link_spread", throughput.link_spread, 0.0, 5.0)?;
        within("throughput.spread", throughput.spread, 0.0, 5.0)?;
        within("throughput.interval_s", throughput.interval_s as f64, 1.0, 86_400.0)?;
        let limited = throughput.application_limited_percent;
        within("throughput.application_limited_percent", limited, 0.0, 100.0)?;
        self.limits.check()?;
        let pairs = u64::from(self.nodes) * u64::from(self.nodes - 1) / 2;
        if u64::from(self.links) > pairs {
            return Err(ScenarioError::Links { nodes: self.nodes, links: self.links });
        }
        self.schedules.iter().try_for_each(|(flag, _)| flag.demand_built())?;
        self.check_faults()
    }

    /// Each flag's schedule: what is said, or the guide's.
    pub fn schedule(&self, flag: Flag) -> Schedule {
        let said = self.schedules.iter().find(|(other, _)| *other == flag);
        said.map_or_else(|| Schedule::guide(flag), |(_, schedule)| schedule.clone())
    }

    fn check_faults(&self) -> Result<(), ScenarioError> {
        if self.faults.len() > MAX_SIMULATED_FAULTS {
            return Err(ScenarioError::TooManyFaults(self.faults.len()));
        }
        let check = |(index, fault): (usize, &Fault)| {
            let lacks = lacks(fault);
            lacks.map_or(Ok(()), |lacks| Err(ScenarioError::Fault { number: index + 1, lacks }))
        };
        self.faults.iter().enumerate().try_for_each(check)
    }
}

/// What a fault needs and does not have.
fn lacks(fault: &Fault) -> Option<&'static str> {
    let is_time = |time: f64| time.is_finite() && time >= 0.0;
    let times = [fault.at_day, fault.lasts_hours];
    if !times.into_iter().flatten().all(is_time) {
        return Some("times that are not negative");
    }
    if fault.at_day.is_some() == fault.at_percent.is_some() {
        return Some("either at_day or at_percent");
    }
    if fault.at_percent.is_some() && fault.flag.is_none() {
        return Some("the flag that reaches at_percent");
    }
    let is_clock = matches!(fault.effect, Effect::ClockJump { .. });
    if fault.reach == Reach::Treated && fault.flag.is_none() && !is_clock {
        return Some("a flag, or reach: all");
    }
    let share = |value: f64| (0.0..=100.0).contains(&value);
    let is_possible = match fault.effect {
        Effect::Errors { percent } | Effect::DetectionFailures { percent } => share(percent),
        Effect::Latency { increase_percent } => (-99.0..=1e6).contains(&increase_percent),
        Effect::Throughput { ratio } => (1e-6..=1e6).contains(&ratio),
        Effect::ModeSwitches { per_min } => (0.0..=1e5).contains(&per_min),
        _ => true,
    };
    (!is_possible).then_some("an effect that can be: its number is out of range")
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            name: "healthy".to_owned(),
            seed: 1,
            days: 42.0,
            step_s: 60,
            nodes: 12,
            links: 60,
            requests_per_min: 12.0,
            error_rate: 0.5,
            detection_failure_rate: 1.0,
            mode_switches_per_hour: 0.5,
            daily_swing: 0.3,
            weather: 0.05,
            weather_min: 30.0,
            latency: LatencyModel::default(),
            throughput: ThroughputModel::default(),
            limits: Limits::default(),
            schedules: Vec::new(),
            faults: Vec::new(),
        }
    }
}

impl Default for LatencyModel {
    fn default() -> Self {
        Self {
            median_ms: 40.0,
            link_spread: 0.8,
            spread: 0.5,
            tail_percent: 2.0,
            tail_factor: 20.0,
        }
    }
}

impl Default for ThroughputModel {
    fn default() -> Self {
        Self {
            median_mb_per_s: 50.0,
            link_spread: 0.5,
            spread: 0.15,
            interval_s: 300,
            application_limited_percent: 30.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Scenario, String> {
        let scenario: Scenario = serde_json::from_str(json).map_err(|error| error.to_string())?;
        scenario.check().map_err(|error| error.to_string())?;
        Ok(scenario)
    }

    #[test]
    fn nothing_said_is_the_healthy_six_weeks() {
        let scenario = read("{}").unwrap();
        assert_eq!(scenario, Scenario::default());
        assert_eq!(scenario.schedule(Flag::HybridMode), Schedule::guide(Flag::HybridMode));
        let json = serde_json::to_string(&scenario).unwrap();
        assert_eq!(read(&json).unwrap(), scenario);
    }

    #[test]
    fn mistakes_are_named() {
        for (json, message) in [
            ("{\"dys\":1}", "unknown field `dys`"),
            ("{\"days\":-1}", "days is -1, not a number from 0.001 to 400"),
            ("{\"nodes\":3,\"links\":4}", "3 nodes cannot have 4 links"),
            ("{\"limits\":{\"max_error_rate\":0}}", "limits: max_error_rate is 0"),
            ("{\"schedules\":{\"crdt_sync\":[{\"after_s\":0,\"percent\":1}]}}", "not built yet"),
            ("{\"schedules\":{\"hybrid\":[]}}", "did you mean hybrid_mode"),
            ("{\"faults\":[{\"at_day\":1,\"effect\":\"missing_dta\"}]}", "missing_dta"),
            ("{\"faults\":[{\"at_day\":1,\"effect\":{\"errors\":{\"percnt\":1}}}]}", "percnt"),
            ("{\"faults\":[{\"effect\":\"missing_data\"}]}", "fault 1 needs either at_day or"),
            ("{\"faults\":[{\"at_day\":1,\"effect\":\"missing_data\"}]}", "a flag, or reach: all"),
            (
                "{\"faults\":[{\"at_percent\":50,\"reach\":\"all\",\"effect\":\"missing_data\"}]}",
                "the flag that reaches",
            ),
            (
                "{\"faults\":[{\"at_day\":1,\"reach\":\"all\",\"effect\":{\"errors\":{\"percent\":101}}}]}",
                "out of range",
            ),
        ] {
            let error = read(json).unwrap_err();
            assert!(error.contains(message), "{json}: {error}");
        }
    }
}
