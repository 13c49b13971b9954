//! Inverse frequencies and cos/sin tables.

use std::f64::consts::PI;
use std::ops::Range;

use half::{bf16, f16};
use qiao_core::DType;

use super::config::{RopeConfig, RopeScaling};

/// Which frequencies are in force. They change with the sequence length for dynamic scaling, and for longrope scaling of two
/// sets of divisors, only.
///
/// Keys already rotated in a cache keep the frequencies they were written with; so does the reference. A runner that sees another
/// regime than at its last step uploads another table (or, to be exact where the reference is not, rotates the cache anew).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopeRegime {
    /// The frequencies of the original context, or of a scaling that does not look at the length.
    Base,
    /// Longrope beyond the original context.
    Long,
    /// Dynamic scaling for a sequence of this many tokens, more than `max_position_embeddings`.
    Dynamic(usize),
}

/// Cos and sin for a range of positions: f32, row-major `[positions, rotary_dim / 2]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Number of rows.
    pub positions: usize,
    /// Numbers in a row: half of the rotated dimensions.
    pub half: usize,
    /// cos(position · frequency) · attention factor.
    pub cos: Vec<f32>,
    /// sin(position · frequency) · attention factor.
    pub sin: Vec<f32>,
}

impl RopeTable {
    /// Rounds every entry to a dtype and back, as the reference does when it computes in that dtype. Only f16 and bf16 change
    /// anything.
    pub fn rounded_to(mut self, dtype: DType) -> RopeTable {
        let round: fn(f32) -> f32 = match dtype {
            DType::F16 => |x| f16::from_f32(x).to_f32(),
            DType::BF16 => |x| bf16::from_f32(x).to_f32(),
            _ => return self,
        };
        for value in self.cos.iter_mut().chain(&mut self.sin) {
            *value = round(*value);
        }
        self
    }
}

/// The tables of a model, built on demand.
#[derive(Clone, Debug)]
pub struct RopeTables {
    rule: Rule,
    dim: usize,
    attention_factor: f32,
}

#[derive(Clone, Debug)]
enum Rule {
    Fixed(Vec<f32>),
    LongRope { original: usize, short: Vec<f32>, long: Vec<f32> },
    Dynamic { theta: f64, factor: f64, max_positions: usize, base: Vec<f32> },
}

impl RopeTables {
    /// Prepares the frequencies of heads of width `head_dim`; `max_positions` is the configuration's `max_position_embeddings`.
    pub fn new(config: &RopeConfig, head_dim: usize, max_positions: usize) -> RopeTables {
        let dim = config.rotary_dim(head_dim);
        let plain = plain_frequencies(config.theta, dim);
        let mut attention = 1.0;
        let rule = match &config.scaling {
            RopeScaling::None => Rule::Fixed(plain),
            RopeScaling::Linear { factor } => Rule::Fixed(plain.iter().map(|f| f / *factor as f32).collect()),
            RopeScaling::Dynamic { factor } => {
                Rule::Dynamic { theta: config.theta, factor: *factor, max_positions, base: plain }
            }
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original } => {
                Rule::Fixed(llama3(&plain, *factor, *low_freq_factor, *high_freq_factor, *original))
            }
            RopeScaling::Yarn { attention_factor, .. } => {
                attention = *attention_factor;
                Rule::Fixed(yarn(config.theta, dim, &config.scaling))
            }
            RopeScaling::LongRope { original, short, long, attention_factor } => {
                attention = *attention_factor;
                let (short, long) = (divided(config.theta, dim, short), divided(config.theta, dim, long));
                match short == long {
                    true => Rule::Fixed(short),
                    false => Rule::LongRope { original: *original, short, long },
                }
            }
        };
        RopeTables { rule, dim, attention_factor: attention as f32 }
    }

    /// Rotated dimensions of a head.
    pub fn rotary_dim(&self) -> usize {
        self.dim
    }

    /// Whether [`RopeTables::for_length`] depends on the length at all.
    pub fn depends_on_length(&self) -> bool {
        !matches!(self.rule, Rule::Fixed(_))
    }

    /// The frequencies in force for a step that makes the sequence `length` tokens long.
    pub fn for_length(&self, length: usize) -> RopeRegime {
        match &self.rule {
            Rule::LongRope { original, .. } if length > *original => RopeRegime::Long,
            Rule::Dynamic { max_positions, .. } if length > *max_positions => RopeRegime::Dynamic(length),
            _ => RopeRegime::Base,
        }
    }

    /// The inverse frequencies of a regime, `rotary_dim / 2` of them. A regime that the scaling does not know is the base one.
    pub fn inverse_frequencies(&self, regime: RopeRegime) -> Vec<f32> {
        match (&self.rule, regime) {
            (Rule::LongRope { long, .. }, RopeRegime::Long) => long.clone(),
            (Rule::LongRope { short, .. }, _) => short.clone(),
            (Rule::Dynamic { theta, factor, max_positions, .. }, RopeRegime::Dynamic(length)) => {
                dynamic(*theta, self.dim, *factor, *max_positions, length)
            }
            (Rule::Dynamic { base, .. }, _) => base.clone(),
            (Rule::Fixed(frequencies), _) => frequencies.clone(),
        }
    }

    /// The table of a range of positions in a regime; row 0 is `positions.start`.
    pub fn table(&self, regime: RopeRegime, positions: Range<usize>) -> RopeTable {
        let frequencies = self.inverse_frequencies(regime);
        let (rows, half) = (positions.len(), frequencies.len());
        let mut cos = Vec::with_capacity(rows * half);
        let mut sin = Vec::with_capacity(rows * half);
        for position in positions {
            for frequency in &frequencies {
                let (s, c) = (position as f32 * frequency).sin_cos();
                cos.push(c * self.attention_factor);
                sin.push(s * self.attention_factor);
            }
        }
        RopeTable { positions: rows, half, cos, sin }
    }
}

/// `θ^(2i/d)` in f32.
fn powers(theta: f64, dim: usize) -> impl Iterator<Item = f32> {
    let theta = theta as f32;
    (0..dim / 2).map(move |i| theta.powf((2 * i) as f32 / dim as f32))
}

fn plain_frequencies(theta: f64, dim: usize) -> Vec<f32> {
    powers(theta, dim).map(|power| 1.0 / power).collect()
}

/// Longrope: a divisor per frequency.
fn divided(theta: f64, dim: usize, divisors: &[f64]) -> Vec<f32> {
    powers(theta, dim).zip(divisors).map(|(power, divisor)| 1.0 / (*divisor as f32 * power)).collect()
}

/// `θ' = θ·((factor·length/max) − (factor−1))^(d/(d−2))`, in f32 like the reference, whose length is a tensor.
fn dynamic(theta: f64, dim: usize, factor: f64, max_positions: usize, length: usize) -> Vec<f32> {
    let length = length.max(max_positions) as f32;
    let stretch = factor as f32 * length / max_positions as f32 - (factor - 1.0) as f32;
    let exponent = (dim as f64 / (dim as f64 - 2.0)) as f32;
    let theta = theta as f32 * stretch.powf(exponent);
    plain_frequencies(f64::from(theta), dim)
}

fn llama3(plain: &[f32], factor: f64, low: f64, high: f64, original: usize) -> Vec<f32> {
    let original = original as f64;
    let (longest, shortest) = ((original / low) as f32, (original / high) as f32);
    let factor = factor as f32;
    let scale = |&frequency: &f32| {
        let wavelength = 1.0 / frequency * (2.0 * PI) as f32;
        if wavelength > longest {
            frequency / factor
        } else if wavelength < shortest {
            frequency
        } else {
            let smooth = (1.0 / wavelength * original as f32 - low as f32) / (high - low) as f32;
            (1.0 - smooth) * frequency / factor + smooth * frequency
        }
    };
    plain.iter().map(scale).collect()
}

fn yarn(theta: f64, dim: usize, scaling: &RopeScaling) -> Vec<f32> {
    let RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } = scaling else {
        return plain_frequencies(theta, dim);
    };
    let dimension_of =
        |rotations: f64| dim as f64 * (*original as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln());
    let (mut low, mut high) = (dimension_of(*beta_fast), dimension_of(*beta_slow));
    if *truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    powers(theta, dim)
        .enumerate()
        .map(|(i, power)| {
            let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let keep = 1.0 - ramp;
            1.0 / (*factor as f32 * power) * (1.0 - keep) + 1.0 / power * keep
        })
        .collect()
}
