//! What is to be measured.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use qiao_core::{DType, Error};
use qiao_layers::Peaks;
use serde::Serialize;

use super::slo::Slo;
use crate::Result;

/// The most points of a sweep.
const MOST_POINTS: usize = 1000;
/// The most sequences of a batch.
const MOST_BATCH: usize = 1024;
/// The most rounds of a point.
const MOST_ROUNDS: usize = 1_000_000;
/// The most tokens of one sequence that are asked for; positions are i32.
const MOST_TOKENS: usize = i32::MAX as usize;
/// The longest soak: thirty days.
const LONGEST_SOAK: Duration = Duration::from_secs(30 * 24 * 3600);

/// One kind of request, and how many of it at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that the sequence holds before the prompt, as an earlier part of a conversation; running them is not timed.
    /// The prompt runs at this depth, decode from depth + prompt on.
    pub depth: usize,
    /// Requests that are sent at the same moment. The engine runs one sequence a step, so they take turns: prompts one after
    /// the other, then one token of each in turn. Nothing is shared between them but the weights in memory.
    pub batch: usize,
    /// Tokens to generate for each.
    pub tokens: usize,
}

impl Point {
    /// Tokens that a sequence must be able to hold: the last one generated is not run.
    pub fn context(&self) -> usize {
        self.depth.saturating_add(self.prompt).saturating_add(self.tokens).saturating_sub(1)
    }

    /// Refuses a point that a model with this context can't hold.
    ///
    /// # Errors
    /// Names the sum and the context.
    pub(crate) fn fits(&self, context: usize) -> Result<()> {
        if self.context() <= context {
            return Ok(());
        }
        let found = format!("depth {} + prompt {} + {} tokens", self.depth, self.prompt, self.tokens);
        let mend = format!("the model's context is {context}: ask for less");
        Err(Error::invalid("context", found, mend).into())
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "prompt {}, depth {}, batch {}, {} tokens", self.prompt, self.depth, self.batch, self.tokens)
    }
}

/// The points of a measurement and how each is measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Sweep {
    /// Tokens of the prompt; every one of these with every depth and batch.
    pub prompts: Vec<usize>,
    /// Tokens in the cache before the prompt.
    pub depths: Vec<usize>,
    /// Requests at once.
    pub batches: Vec<usize>,
    /// Tokens to generate.
    pub tokens: usize,
    /// Rounds that count.
    pub repeat: usize,
    /// Rounds before, which do not: the first makes plans, and fills caches and memory.
    pub warm_up: usize,
    /// What the random prompts follow from.
    pub seed: u64,
}

impl Default for Sweep {
    /// One point: a prompt of 128, 32 tokens, five rounds after one.
    fn default() -> Sweep {
        Sweep { prompts: vec![128], depths: vec![0], batches: vec![1], tokens: 32, repeat: 5, warm_up: 1, seed: 0 }
    }
}

impl Sweep {
    /// The points, prompts innermost.
    ///
    /// # Errors
    /// An empty list, a count of zero, counts beyond all use.
    pub fn points(&self) -> Result<Vec<Point>> {
        between("prompt", &self.prompts, 1, MOST_TOKENS)?;
        between("depth", &self.depths, 0, MOST_TOKENS)?;
        between("batch", &self.batches, 1, MOST_BATCH)?;
        between("tokens", &[self.tokens], 1, MOST_TOKENS)?;
        between("repeat", &[self.repeat], 1, MOST_ROUNDS)?;
        between("warm-up", &[self.warm_up], 0, MOST_ROUNDS)?;
        let count = [&self.prompts, &self.depths, &self.batches].iter().map(|list| list.len()).product::<usize>();
        if count > MOST_POINTS {
            return Err(
                Error::invalid("sweep", format!("{count} points"), format!("ask for {MOST_POINTS} at most")).into()
            );
        }
        let mut points = Vec::new();
        for &batch in &self.batches {
            for &depth in &self.depths {
                for &prompt in &self.prompts {
                    let point = Point { prompt, depth, batch, tokens: self.tokens };
                    if !points.contains(&point) {
                        points.push(point);
                    }
                }
            }
        }
        Ok(points)
    }
}

fn between(what: &str, values: &[usize], least: usize, most: usize) -> Result<()> {
    let mend = format!("give numbers from {least} to {most}");
    if values.is_empty() {
        return Err(Error::invalid(what, "no value", mend).into());
    }
    match values.iter().find(|&value| !(least..=most).contains(value)) {
        Some(value) => Err(Error::invalid(what, value.to_string(), mend).into()),
        None => Ok(()),
    }
}

/// A measurement of a model.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What is measured.
    pub sweep: Sweep,
    /// Limits to judge requests by.
    pub slos: Vec<Slo>,
    /// What the device can do at most; `None` = what it declares.
    pub peaks: Option<Peaks>,
    /// Instead of a sweep, how long rounds of its one point run back to back, after one round of warm-up at least.
    pub soak: Option<Duration>,
}

impl Default for Settings {
    /// The sweep's default, judged by nothing, beside the device's declared peaks.
    fn default() -> Settings {
        Settings { sweep: Sweep::default(), slos: Vec::new(), peaks: None, soak: None }
    }
}

impl Settings {
    /// The points to measure.
    ///
    /// # Errors
    /// As [`Sweep::points`]; a soak of more than one point, of no time or of more than thirty days.
    pub fn points(&self) -> Result<Vec<Point>> {
        let points = self.sweep.points()?;
        let Some(soak) = self.soak else { return Ok(points) };
        if points.len() > 1 {
            let found = format!("{} points", points.len());
            return Err(Error::invalid("soak", found, "give one prompt length, one depth and one batch").into());
        }
        if soak.is_zero() || soak > LONGEST_SOAK {
            let found = format!("{} s", soak.as_secs_f64());
            return Err(Error::invalid("soak", found, "give a time above 0, at most 30 days").into());
        }
        Ok(points)
    }
}

/// A measurement of a checkpoint, from opening the device on.
#[derive(Clone, Debug)]
pub struct Options {
    /// A checkpoint directory; `None` = the embedded demo model.
    pub model: Option<PathBuf>,
    /// The device, as [`registry`](crate::registry) names it; several with commas between share the layers.
    pub device: String,
    /// How many layers each of several devices has; `None` = as many as each has memory free for.
    pub split: Option<Vec<usize>>,
    /// The compute dtype; `None` = that of the weights.
    pub dtype: Option<DType>,
    /// Whether operators that the device refuses run on the CPU. What they take is in all times, and told beside them.
    pub host_fallback: bool,
    /// Numbers of threads; the device is opened and the model loaded for each. Empty = as the device has them.
    pub threads: Vec<usize>,
    /// What is measured.
    pub settings: Settings,
}

impl Default for Options {
    /// The demo model on the CPU.
    fn default() -> Options {
        Options {
            model: None,
            device: "cpu".into(),
            split: None,
            dtype: None,
            host_fallback: false,
            threads: Vec::new(),
            settings: Settings::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_is_every_prompt_at_every_depth_and_batch_once() {
        let sweep = Sweep { prompts: vec![8, 16, 8], depths: vec![0, 32], batches: vec![1, 2], ..Sweep::default() };
        let points = sweep.points().unwrap();
        assert_eq!(points.len(), 8);
        assert_eq!(points[1], Point { prompt: 16, depth: 0, batch: 1, tokens: 32 });
        assert_eq!(points[7], Point { prompt: 16, depth: 32, batch: 2, tokens: 32 });
        assert_eq!(points[7].context(), 79);
    }

    #[test]
    fn counts_that_make_no_sense_are_named() {
        let base = Sweep::default;
        for (words, sweep) in [
            ("prompt: 0", Sweep { prompts: vec![8, 0], ..base() }),
            ("prompt: no value", Sweep { prompts: vec![], ..base() }),
            ("depth: 9", Sweep { depths: vec![usize::MAX / 2 + 1], ..base() }),
            ("batch: 0", Sweep { batches: vec![0], ..base() }),
            ("batch: 99999", Sweep { batches: vec![99_999], ..base() }),
            ("tokens: 0", Sweep { tokens: 0, ..base() }),
            ("repeat: 0", Sweep { repeat: 0, ..base() }),
            ("sweep: 1600 points", Sweep { prompts: (1..41).collect(), depths: (0..40).collect(), ..base() }),
        ] {
            let message = sweep.points().unwrap_err().to_string();
            assert!(message.starts_with(words), "{words}: {message}");
        }
    }

    #[test]
    fn a_soak_has_one_point_and_some_time() {
        let soak = |seconds, prompts: &[usize]| {
            let sweep = Sweep { prompts: prompts.into(), ..Sweep::default() };
            Settings { sweep, soak: Some(Duration::from_secs(seconds)), ..Settings::default() }.points()
        };
        assert_eq!(soak(60, &[8, 8]).unwrap().len(), 1);
        for (seconds, prompts, words) in [(60, &[8, 16][..], "2 points"), (0, &[8], "0 s"), (1 << 40, &[8], "30 days")]
        {
            assert!(soak(seconds, prompts).unwrap_err().to_string().contains(words), "{words}");
        }
    }

    #[test]
    fn a_context_that_overflows_is_refused_with_its_parts() {
        let point = Point { prompt: 500, depth: 10, batch: 1, tokens: 3 };
        point.fits(512).unwrap();
        let message = point.fits(511).unwrap_err().to_string();
        assert_eq!(message, "context: depth 10 + prompt 500 + 3 tokens; the model's context is 511: ask for less");
        assert!(Point { depth: usize::MAX, ..point }.fits(4096).is_err());
    }
}
