//! The rope keys of `config.json`, in either style.

use crate::error::Result;
use crate::json::Object;

/// Most positions a configuration may promise.
pub(crate) const MAX_POSITIONS: usize = 1 << 31;

const TYPES: &str = "one of default, linear, dynamic, llama3, yarn, longrope";

/// How frequencies are stretched beyond the original context.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// NTK: the base grows with the sequence once it is longer than `max_position_embeddings`.
    Dynamic {
        /// How fast the base grows.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` count as low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` count as high frequencies.
        high_freq_factor: f64,
        /// Context of the original training, in tokens.
        original: usize,
    },
    /// YaRN: a ramp over the dimensions between `beta_fast` and `beta_slow` rotations, and an attention factor.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// Context of the original training, in tokens.
        original: usize,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
        /// Multiplies cos and sin.
        attention_factor: f64,
    },
    /// LongRoPE: a divisor per frequency, one set up to the original context, another beyond.
    LongRope {
        /// Context of the original training, in tokens.
        original: usize,
        /// Divisors for sequences up to `original`; one per frequency.
        short: Vec<f64>,
        /// Divisors for longer sequences; one per frequency.
        long: Vec<f64>,
        /// Multiplies cos and sin.
        attention_factor: f64,
    },
}

/// Rotary embedding as a configuration describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base θ: frequency i is `θ^(−2i/d)`.
    pub theta: f64,
    /// Share of each head that is rotated, from 0 to 1.
    pub partial_rotary_factor: f64,
    /// Stretching.
    pub scaling: RopeScaling,
}

impl RopeConfig {
    /// Plain rotary embedding of the whole head.
    pub fn plain(theta: f64) -> RopeConfig {
        RopeConfig { theta, partial_rotary_factor: 1.0, scaling: RopeScaling::None }
    }

    /// Width of the rotated part of a head: `int(head_dim · partial_rotary_factor)`.
    pub fn rotary_dim(&self, head_dim: usize) -> usize {
        (head_dim as f64 * self.partial_rotary_factor) as usize
    }

    /// Reads `rope_parameters`, or `rope_theta` and `rope_scaling`.
    pub(crate) fn from_config(config: &Object, head_dim: usize, max_positions: usize) -> Result<RopeConfig> {
        let parameters = parameters(config)?;
        let nested = parameters.as_ref();
        let theta = match nested.map_or(Ok(None), theta)? {
            Some(theta) => theta,
            None => theta_of(config)?,
        };
        let share = |object: &Object| {
            object.number("partial_rotary_factor", "a number above 0, at most 1", |share| share > 0.0 && share <= 1.0)
        };
        let partial_rotary_factor = match nested.map_or(Ok(None), share)? {
            Some(share_of_head) => share_of_head,
            None => share(config)?.unwrap_or(1.0),
        };
        let mut rope = RopeConfig { theta, partial_rotary_factor, scaling: RopeScaling::None };
        let rotary_dim = rope.rotary_dim(head_dim);
        if rotary_dim == 0 || !rotary_dim.is_multiple_of(2) {
            let expected = format!("such that an even, positive part of the head's {head_dim} dimensions is rotated");
            return Err(config.refuse("partial_rotary_factor", expected));
        }
        if let Some(parameters) = nested {
            let reader = ScalingReader { config, parameters, rotary_dim, max_positions, theta };
            rope.scaling = reader.read()?;
        }
        Ok(rope)
    }
}

fn theta(object: &Object) -> Result<Option<f64>> {
    object.number("rope_theta", "a number above 0 that f32 holds", |theta| theta > 0.0 && theta <= f64::from(f32::MAX))
}

fn theta_of(config: &Object) -> Result<f64> {
    Ok(theta(config)?.unwrap_or(10_000.0))
}

/// The object with the scaling keys: `rope_scaling` where it says something, else `rope_parameters`.
fn parameters(config: &Object) -> Result<Option<Object>> {
    let older = config.object("rope_scaling")?.filter(|object| object.keys().next().is_some());
    let Some(object) = (match older {
        Some(object) => Some(object),
        None => config.object("rope_parameters")?,
    }) else {
        return Ok(None);
    };
    let layer_types: Vec<String> =
        object.keys().filter(|key| key.ends_with("_attention")).map(str::to_string).collect();
    let Some(first) = layer_types.first() else {
        return Ok(Some(object));
    };
    let same = |key: &String| object.get(key) == object.get(first);
    if !layer_types.iter().all(same) {
        return Err(object.refuse(first, "the same for every layer type: one rope per model is supported"));
    }
    object.object(first)
}

struct ScalingReader<'a> {
    config: &'a Object,
    parameters: &'a Object,
    rotary_dim: usize,
    max_positions: usize,
    theta: f64,
}

impl ScalingReader<'_> {
    fn read(&self) -> Result<RopeScaling> {
        let key = if self.parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
        match self.parameters.text(key)?.unwrap_or("default") {
            "default" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.factor()? }),
            "dynamic" => self.dynamic(),
            "llama3" => self.llama3(),
            "yarn" => self.yarn(),
            "longrope" | "su" => self.longrope(),
            _ => Err(self.parameters.refuse(key, TYPES)),
        }
    }

    fn factor(&self) -> Result<f64> {
        self.given_factor()?.ok_or_else(|| self.parameters.refuse("factor", "a number above 0"))
    }

    fn given_factor(&self) -> Result<Option<f64>> {
        self.parameters.number("factor", "a number above 0, at most 1e6", |factor| factor > 0.0 && factor <= 1e6)
    }

    /// The original context: a key next to the rope object wins over one inside it; without either, nothing was stretched.
    fn original(&self) -> Result<usize> {
        const KEY: &str = "original_max_position_embeddings";
        if let Some(original) = self.config.size(KEY, 2, MAX_POSITIONS)? {
            return Ok(original);
        }
        Ok(self.parameters.size(KEY, 2, MAX_POSITIONS)?.unwrap_or(self.max_positions))
    }

    fn dynamic(&self) -> Result<RopeScaling> {
        if self.rotary_dim <= 2 {
            let expected = "another type: dynamic scaling needs more than 2 rotated dimensions";
            return Err(self.parameters.refuse("rope_type", expected));
        }
        Ok(RopeScaling::Dynamic { factor: self.factor()? })
    }

    fn llama3(&self) -> Result<RopeScaling> {
        let need = |key| self.parameters.positive(key)?.ok_or_else(|| self.parameters.refuse(key, "a number above 0"));
        let (low_freq_factor, high_freq_factor) = (need("low_freq_factor")?, need("high_freq_factor")?);
        if high_freq_factor <= low_freq_factor {
            let expected = format!("above low_freq_factor ({low_freq_factor})");
            return Err(self.parameters.refuse("high_freq_factor", expected));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.factor()?,
            low_freq_factor,
            high_freq_factor,
            original: self.original()?,
        })
    }

    fn yarn(&self) -> Result<RopeScaling> {
        if self.theta <= 1.0 {
            return Err(self.parameters.refuse("rope_theta", "above 1 for yarn"));
        }
        let original = self.original()?;
        let factor = match self.given_factor()? {
            Some(factor) => factor,
            None => self.max_positions as f64 / original as f64,
        };
        let mscale = |key| self.parameters.number(key, "a number from 0 to 1000", |m| (0.0..=1000.0).contains(&m));
        let scale = |mscale: f64| match factor <= 1.0 {
            true => 1.0,
            false => 0.1 * mscale * factor.ln() + 1.0,
        };
        // As in Python, a zero counts as not given.
        let numerator = mscale("mscale")?.filter(|m| *m != 0.0);
        let denominator = mscale("mscale_all_dim")?.filter(|m| *m != 0.0);
        let attention_factor = match (self.attention_factor()?, numerator, denominator) {
            (Some(given), _, _) => given,
            (None, Some(m), Some(all)) => scale(m) / scale(all),
            _ => scale(1.0),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original,
            beta_fast: self.parameters.positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: self.parameters.positive("beta_slow")?.unwrap_or(1.0),
            truncate: self.parameters.boolean("truncate")?.unwrap_or(true),
            attention_factor,
        })
    }

    fn attention_factor(&self) -> Result<Option<f64>> {
        self.parameters.number("attention_factor", "a number from 0 to 1000", |factor| (0.0..=1000.0).contains(&factor))
    }

    fn longrope(&self) -> Result<RopeScaling> {
        let original = self.original()?;
        let factor = match self.given_factor()? {
            Some(factor) => factor,
            None => self.max_positions as f64 / original as f64,
        };
        let attention_factor = match self.attention_factor()? {
            Some(given) => given,
            None if factor <= 1.0 => 1.0,
            None => (1.0 + factor.ln() / (original as f64).ln()).sqrt(),
        };
        Ok(RopeScaling::LongRope {
            original,
            short: self.divisors("short_factor")?,
            long: self.divisors("long_factor")?,
            attention_factor,
        })
    }

    fn divisors(&self, key: &str) -> Result<Vec<f64>> {
        let half = self.rotary_dim / 2;
        match self.parameters.positives(key)? {
            Some(list) if list.len() == half => Ok(list),
            _ => {
                let expected = format!("a list of {half} numbers above 0, one per frequency");
                Err(self.parameters.refuse(key, expected))
            }
        }
    }
}
