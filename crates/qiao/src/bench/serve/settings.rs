//! What is to be measured.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use qiao_core::{DType, Error};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::super::slo::Slo;
use super::mix::Mix;
use crate::{Result, ServeOptions};

/// The most clients, or requests at once.
const MOST_CLIENTS: usize = 1024;
/// The most requests of a point.
const MOST_REQUESTS: usize = 10_000_000;
/// The most requests in a second.
const MOST_RATE: f64 = 1e6;
/// The longest a point may send requests.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "load", rename_all = "lowercase")]
pub enum Arriving {
    /// A closed loop: so many clients, each of which sends its next request when its last one has ended.
    Closed {
        /// The clients.
        clients: usize,
    },
    /// An open loop: a Poisson process, whatever becomes of the requests.
    Open {
        /// Requests per second, in the mean.
        rate: f64,
    },
    /// Rounds of so many requests that are sent at the same moment; the next round begins when all have ended. Prompts and
    /// generation are timed apart, as llama.cpp's batched bench does.
    Together {
        /// Requests of a round.
        size: usize,
    },
}

impl Arriving {
    /// Requests that are under way at once, as far as that is settled beforehand.
    pub(crate) fn at_once(self) -> Option<usize> {
        match self {
            Arriving::Closed { clients: n } | Arriving::Together { size: n } => Some(n),
            Arriving::Open { .. } => None,
        }
    }
}

impl fmt::Display for Arriving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Arriving::Closed { clients } => write!(f, "{clients} clients"),
            Arriving::Open { rate } => write!(f, "{rate} requests/s"),
            Arriving::Together { size } => write!(f, "{size} together"),
        }
    }
}

/// When a point has sent its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// After so many; in rounds, after whole ones.
    Requests(usize),
    /// After this time; what is under way then still ends.
    Time(Duration),
}

impl Serialize for Until {
    /// `{"requests": 32}` or `{"duration_s": 30.0}`.
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(1))?;
        match self {
            Until::Requests(count) => map.serialize_entry("requests", count)?,
            Until::Time(time) => map.serialize_entry("duration_s", &time.as_secs_f64())?,
        }
        map.end()
    }
}

/// A measurement of serving.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The points, in order.
    pub arriving: Vec<Arriving>,
    /// What the requests are.
    pub mix: Mix,
    /// How long a point lasts.
    pub until: Until,
    /// Rounds before each point that do not count, with as many requests at once as the point has, or 8 where that is open.
    pub warm_up: usize,
    /// What prompts, lengths and arrivals follow from.
    pub seed: u64,
    /// Limits to judge requests by.
    pub slos: Vec<Slo>,
}

impl Default for Settings {
    /// Closed loops of 1, 2, 4 and 8 clients, 32 requests each after one round of warm-up.
    fn default() -> Settings {
        Settings {
            arriving: [1, 2, 4, 8].map(|clients| Arriving::Closed { clients }).into(),
            mix: Mix::default(),
            until: Until::Requests(32),
            warm_up: 1,
            seed: 0,
            slos: Vec::new(),
        }
    }
}

impl Settings {
    /// # Errors
    /// Names the first value that makes no sense.
    pub(crate) fn check(&self) -> Result<()> {
        self.mix.check()?;
        let refuse = |what: &str, found: String, mend: String| Err(Error::invalid(what, found, mend).into());
        if self.arriving.is_empty() {
            return refuse("points", "none".into(), "give numbers of clients, or rates".into());
        }
        for arriving in &self.arriving {
            match *arriving {
                Arriving::Open { rate } if !(rate > 0.0 && rate <= MOST_RATE) => {
                    return refuse("rate", rate.to_string(), format!("give a number above 0, at most {MOST_RATE}"));
                }
                Arriving::Closed { clients: n } | Arriving::Together { size: n }
                    if !(1..=MOST_CLIENTS).contains(&n) =>
                {
                    return refuse("concurrency", n.to_string(), format!("give a number from 1 to {MOST_CLIENTS}"));
                }
                _ => {}
            }
        }
        match self.until {
            Until::Requests(n) if !(1..=MOST_REQUESTS).contains(&n) => {
                refuse("requests", n.to_string(), format!("give a number from 1 to {MOST_REQUESTS}"))
            }
            Until::Time(time) if time.is_zero() || time > LONGEST => {
                let found = format!("{} s", time.as_secs_f64());
                refuse("duration", found, "give a time above 0, at most 30 days".into())
            }
            _ => Ok(()),
        }
    }

    /// The most sequences that are settled to be under way at once.
    pub(crate) fn at_once(&self) -> usize {
        let most = self.arriving.iter().filter_map(|arriving| arriving.at_once()).max().unwrap_or(0);
        most.saturating_mul(self.mix.samples)
    }
}

/// A measurement of a checkpoint, from opening the device on.
#[derive(Clone)]
pub struct Options {
    /// A checkpoint directory or a GGUF file; `None` = the embedded demo model.
    pub model: Option<PathBuf>,
    /// The device, as [`registry`](crate::registry) names it; several with commas between share the layers.
    pub device: String,
    /// More devices, named in the same way: each has the whole model and a share of the requests.
    pub more_devices: Vec<String>,
    /// How fast each device is, [`Options::device`] first, in any unit; empty = all the same.
    pub speeds: Vec<f64>,
    /// How many layers each of several devices has; `None` = as many as each has memory free for.
    pub split: Option<Vec<usize>>,
    /// The compute dtype; `None` = that of the weights.
    pub dtype: Option<DType>,
    /// Whether operators that the device refuses run on the CPU.
    pub host_fallback: bool,
    /// Threads; `None` = as the device has them.
    pub threads: Option<usize>,
    /// The server. Where the sequences are not said, there is room for all that are under way at once.
    pub serve: ServeOptions,
    /// What is measured.
    pub settings: Settings,
}

impl Default for Options {
    /// The demo model on the CPU.
    fn default() -> Options {
        Options {
            model: None,
            device: "cpu".into(),
            more_devices: Vec::new(),
            speeds: Vec::new(),
            split: None,
            dtype: None,
            host_fallback: false,
            threads: None,
            serve: ServeOptions::new(),
            settings: Settings::default(),
        }
    }
}

/// Limits by which a request is judged: as [`Slo::parse`] has them, or `ttft=500ms,tpot=50ms` with either of both.
///
/// # Errors
/// Limits that are neither.
pub fn limits(text: &str) -> Result<Slo> {
    if !text.contains('=') {
        return Slo::parse(text);
    }
    let mut slo =
        Slo { name: text.into(), ttft_s: f64::INFINITY, tpot_s: f64::INFINITY, source: "given by the caller".into() };
    for part in text.split(',') {
        let refuse = || {
            let mend = "write ttft=500ms,tpot=50ms, with times above 0 in ms or s";
            crate::Error::from(Error::invalid("service level", format!("'{part}' in '{text}'"), mend))
        };
        let (key, value) = part.split_once('=').ok_or_else(refuse)?;
        let number = |text: &str, unit: f64| Some(text.trim().parse::<f64>().ok()? * unit);
        let value = value.trim();
        let seconds = match (value.strip_suffix("ms"), value.strip_suffix('s')) {
            (Some(ms), _) => number(ms, 1e-3),
            (None, Some(s)) => number(s, 1.0),
            (None, None) => None,
        };
        let seconds = seconds.filter(|s| *s > 0.0 && s.is_finite()).ok_or_else(refuse)?;
        match key.trim() {
            "ttft" => slo.ttft_s = seconds,
            "tpot" => slo.tpot_s = seconds,
            _ => return Err(refuse()),
        }
    }
    Ok(slo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named_one_by_one_or_as_elsewhere() {
        let both = limits("ttft=500ms,tpot=0.05s").unwrap();
        assert_eq!((both.ttft_s, both.tpot_s), (0.5, 0.05));
        let one = limits("tpot=20ms").unwrap();
        assert_eq!((one.ttft_s, one.tpot_s), (f64::INFINITY, 0.02));
        assert_eq!(limits("500/30").unwrap().tpot_s, 0.03);
        assert_eq!(limits("llama2-70b-server").unwrap().ttft_s, 2.0);
        for text in ["ttft=500", "ttft=0ms", "e2e=1s", "ttft=1ms,", "ttft=infs", "x"] {
            assert!(limits(text).unwrap_err().to_string().contains("service level"), "{text}");
        }
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let base = Settings::default;
        base().check().unwrap();
        let closed = |clients| vec![Arriving::Closed { clients }];
        for (words, settings) in [
            ("points: none", Settings { arriving: vec![], ..base() }),
            ("concurrency: 0", Settings { arriving: closed(0), ..base() }),
            ("concurrency: 5000", Settings { arriving: closed(5000), ..base() }),
            ("rate: 0", Settings { arriving: vec![Arriving::Open { rate: 0.0 }], ..base() }),
            ("rate: NaN", Settings { arriving: vec![Arriving::Open { rate: f64::NAN }], ..base() }),
            ("requests: 0", Settings { until: Until::Requests(0), ..base() }),
            ("duration: 0 s", Settings { until: Until::Time(Duration::ZERO), ..base() }),
            ("samples: 0", Settings { mix: Mix { samples: 0, ..Mix::default() }, ..base() }),
            ("share of requests", Settings { mix: Mix { shared: 1.5, ..Mix::default() }, ..base() }),
            ("priorities: no value", Settings { mix: Mix { priorities: vec![], ..Mix::default() }, ..base() }),
        ] {
            let message = settings.check().unwrap_err().to_string();
            assert!(message.starts_with(words), "{words}: {message}");
        }
    }
}
