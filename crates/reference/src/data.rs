//! Input data from a printed seed: the values that every family of cases walks.

use qiao_core::DType;
use qiao_quant::scale_offsets;

use crate::round;

/// Steele, Lea and Flood's SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
    /// The second number of the last pair of normal ones.
    spare: Option<f64>,
}

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Rng { state: seed, spare: None }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ self.state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform among 0..n; 0 when n is 0.
    pub fn below(&mut self, n: usize) -> usize {
        ((self.bits() as u128 * n as u128) >> 64) as usize
    }

    /// Standard normal, by Box and Muller.
    pub fn normal(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (2.0 * std::f64::consts::PI * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// A permutation of 0..n.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut p: Vec<usize> = (0..n).collect();
        for i in (1..n).rev() {
            p.swap(i, self.below(i + 1));
        }
        p
    }
}

/// A kind of input data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fill {
    /// Standard normal.
    Normal,
    /// Mixed signs over 24 binades.
    WideRange,
    /// Large values followed by their negatives, a little off.
    Cancelling,
    /// Numbers below the smallest normal one, of both signs.
    Subnormal,
    /// Normal, with a NaN and both infinities planted among them.
    Special,
    /// Zeros.
    Zero,
}

impl Fill {
    /// Every kind.
    pub const ALL: &'static [Fill] =
        &[Fill::Normal, Fill::WideRange, Fill::Cancelling, Fill::Subnormal, Fill::Special, Fill::Zero];
}

/// `n` values of a kind, each one that `dtype` can hold.
pub fn values(rng: &mut Rng, fill: Fill, dtype: DType, n: usize) -> Vec<f64> {
    let mut data: Vec<f64> = Vec::with_capacity(n);
    for i in 0..n {
        let x = match fill {
            Fill::Normal | Fill::Special => rng.normal(),
            Fill::WideRange => {
                let sign = if rng.bits() & 1 == 0 { 1.0 } else { -1.0 };
                sign * (24.0 * rng.uniform() - 12.0).exp2()
            }
            Fill::Cancelling if i % 2 == 1 => -data[i - 1] * (1.0 + 2f64.powi(-10) * rng.normal()),
            Fill::Cancelling => 100.0 * rng.normal(),
            Fill::Subnormal => round::min_normal(dtype) * (2.0 * rng.uniform() - 1.0),
            Fill::Zero => 0.0,
        };
        data.push(round::round(dtype, x));
    }
    if fill == Fill::Special && n > 0 {
        for special in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            data[rng.below(n)] = round::round(dtype, special);
        }
    }
    data
}

/// Values as contiguous bytes of a dtype that is not packed.
pub fn to_bytes(dtype: DType, data: &[f64]) -> Vec<u8> {
    let size = dtype.block_bytes();
    let mut bytes = vec![0; data.len() * size];
    data.iter().zip(bytes.chunks_exact_mut(size)).for_each(|(&x, b)| round::encode(dtype, x, b));
    bytes
}

/// Random bytes of `blocks` blocks of a block format, with finite scales: every f16 in them is made smaller than 1.
pub fn block_bytes(rng: &mut Rng, dtype: DType, blocks: usize) -> Vec<u8> {
    // Sign, and an exponent of at most −1.
    blocks_with(rng, dtype, blocks, |high| high & 0xb9, (118, 12))
}

/// As [`block_bytes`], with scales over all that an f16 holds below 4, subnormal numbers among them: every weight is an f16.
pub fn wide_block_bytes(rng: &mut Rng, dtype: DType, blocks: usize) -> Vec<u8> {
    // Larger exponents lose their highest bit.
    let high = |high: u8| if high & 0x7c > 0x40 { high & 0xbf } else { high };
    blocks_with(rng, dtype, blocks, high, (100, 31))
}

/// Random blocks whose f16 scales have their high bytes made so, and exponents of MXFP4 from a first one on, so many of them.
fn blocks_with(
    rng: &mut Rng,
    dtype: DType,
    blocks: usize,
    high: impl Fn(u8) -> u8,
    (first, exponents): (u8, u8),
) -> Vec<u8> {
    let size = dtype.block_bytes();
    let mut bytes: Vec<u8> = (0..blocks * size).map(|_| rng.bits() as u8).collect();
    for block in bytes.chunks_exact_mut(size) {
        for &at in scale_offsets(dtype) {
            block[at + 1] = high(block[at + 1]);
        }
        if dtype == DType::Mxfp4 {
            block[0] = first + block[0] % exponents;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_data() {
        let make = || values(&mut Rng::new(7), Fill::Normal, DType::BF16, 100);
        assert_eq!(make(), make());
        // The published first output for the seed 1234567.
        assert_eq!(Rng::new(1234567).bits(), 6457827717110365317);
    }

    #[test]
    fn data_is_what_its_kind_says() {
        let mut rng = Rng::new(1);
        let normal = values(&mut rng, Fill::Normal, DType::F32, 10_000);
        let mean = normal.iter().sum::<f64>() / 1e4;
        let variance = normal.iter().map(|x| x * x).sum::<f64>() / 1e4;
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05);
        let small = values(&mut rng, Fill::Subnormal, DType::F16, 100);
        assert!(small.iter().all(|x| x.abs() <= 2f64.powi(-14)) && small.iter().any(|x| *x < 0.0));
        assert!(values(&mut rng, Fill::Special, DType::F16, 50).iter().any(|x| x.is_nan()));
        let pairs = values(&mut rng, Fill::Cancelling, DType::F32, 100);
        assert!(pairs.chunks(2).all(|p| (p[0] + p[1]).abs() < 0.01 * p[0].abs()));
        for fill in [Fill::WideRange, Fill::Zero] {
            assert!(values(&mut rng, fill, DType::F16, 100).iter().all(|x| x.is_finite()));
        }
    }

    #[test]
    fn permutations_hold_every_index_once() {
        let mut p = Rng::new(3).permutation(50);
        assert_ne!(p, (0..50).collect::<Vec<_>>());
        p.sort_unstable();
        assert_eq!(p, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn random_blocks_decode_to_finite_numbers() {
        let mut rng = Rng::new(5);
        for &dtype in DType::ALL.iter().filter(|d| d.is_block()) {
            for (make, most) in
                [(block_bytes as fn(&mut Rng, DType, usize) -> Vec<u8>, 1e6), (wide_block_bytes, 65504.0)]
            {
                let bytes = make(&mut rng, dtype, 20);
                let mut out = vec![0.0; 20 * dtype.block_elems()];
                qiao_quant::decode_row(dtype, &bytes, &mut out).unwrap();
                assert!(out.iter().all(|x| x.is_finite() && x.abs() < most), "{dtype}");
            }
        }
    }
}
