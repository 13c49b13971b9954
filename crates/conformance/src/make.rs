//! Operands of a case, made from its seed.

use qiao_core::{DType, Result, TensorDesc};
use qiao_reference::Trial;
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values, wide_block_bytes};
use qiao_reference::round::{decode, round};
use qiao_reference::value::Walk;

use crate::point::{Param, Point, word};

/// An operand: its description and its bytes.
pub type Data = (TensorDesc, Vec<u8>);

/// The parameter that says what data operands hold; with `tail`, the last of each row outweighs all others of it.
pub const FILL: Param =
    word("fill", &["normal", "wide", "cancelling", "subnormal", "special", "zero", "positive", "negative", "tail"]);

/// The parameter that says how operands lie in memory: contiguous; rows with gaps between them; elements with gaps
/// between them; axes in reverse order; one element repeated along every axis.
pub const LAYOUT: Param = word("layout", &["plain", "gapped", "strided", "transposed", "repeated"]);

/// The parameter that says how many axes operands have; the last two are `rows` and `cols`.
pub const RANK: Param = word("rank", &["2", "0", "1", "3", "4", "5", "6", "7", "8"]);

/// The parameter that says which dtype the first output has: the operator's own choice, or another one.
pub const OUT: Param = word("out", &["same", "f32", "f16", "bf16"]);

/// The parameter that says how the first output lies in memory, as [`LAYOUT`] does for operands.
pub const OUT_LAYOUT: Param = word("out_layout", &["plain", "gapped", "strided", "transposed"]);

/// The shape `[.., rows, cols]` of a point with [`RANK`].
pub fn shape(point: &Point) -> Vec<usize> {
    const OUTER: [usize; 6] = [2, 3, 1, 2, 1, 2];
    let inner = [point.size("rows"), point.size("cols")];
    let rank: usize = point.word("rank").parse().expect("the words of rank are numbers");
    match rank {
        0 | 1 => inner[2 - rank - (rank == 0) as usize..][..rank].to_vec(),
        _ => OUTER[..rank - 2].iter().copied().chain(inner).collect(),
    }
}

/// The activation dtype that a word names; of every other word, `same`.
pub fn dtype_or(name: &str, same: DType) -> DType {
    match name {
        "f32" => DType::F32,
        "f16" => DType::F16,
        "bf16" => DType::BF16,
        _ => same,
    }
}

/// The trial with its first output, of this shape, in the dtype and with the strides that the point asks for.
pub fn placed(trial: Trial, point: &Point, shape: &[usize]) -> Trial {
    let trial = match point.word_if("out") {
        None | Some("same") => trial,
        Some(name) => trial.output_dtype(dtype_or(name, DType::F32)),
    };
    match point.word_if("out_layout") {
        None | Some("plain") => trial,
        Some(layout) => trial.output_strides(&strides(layout, shape, 1)),
    }
}

/// The strides of a layout; axes of a dtype whose elements share bytes step by whole blocks of `block` elements.
pub fn strides(layout: &str, shape: &[usize], block: usize) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    match layout {
        "transposed" => {
            for axis in 1..shape.len() {
                strides[axis] = strides[axis - 1] * shape[axis - 1].max(1);
            }
        }
        "repeated" if block == 1 => strides.fill(0),
        "repeated" => strides[..shape.len().saturating_sub(1)].fill(0),
        layout => {
            let (inner, gap) = match layout {
                "gapped" => (1, 5 * block),
                "strided" => (2, 3),
                _ => (1, 0),
            };
            let mut step = inner;
            for axis in (0..shape.len()).rev() {
                strides[axis] = step;
                step = step * shape[axis].max(1) + gap;
            }
        }
    }
    strides
}

/// A maker of operands from one seed.
#[derive(Debug)]
pub struct Make {
    /// Random numbers, for what the methods below do not make.
    pub rng: Rng,
    /// The dtype that the case's path names.
    pub dtype: DType,
    fill: Fill,
    /// Whether the last of each row outweighs all others.
    tail: bool,
    /// 1 or −1 where all numbers have that sign, else 0.
    sign: f64,
    layout: &'static str,
}

impl Make {
    /// The maker of a case: fill and layout are those of its point, where it has them.
    pub fn new(seed: u64, dtype: DType, point: &Point) -> Make {
        let fill = match point.word_if("fill") {
            Some("wide") => Fill::WideRange,
            Some("cancelling") => Fill::Cancelling,
            Some("subnormal") => Fill::Subnormal,
            Some("special") => Fill::Special,
            Some("zero") => Fill::Zero,
            _ => Fill::Normal,
        };
        let sign = match point.word_if("fill") {
            Some("positive") => 1.0,
            Some("negative") => -1.0,
            _ => 0.0,
        };
        let tail = point.word_if("fill") == Some("tail");
        Make { rng: Rng::new(seed), dtype, fill, tail, sign, layout: point.word_if("layout").unwrap_or("plain") }
    }

    /// A tensor of the case's dtype, fill and layout.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn tensor(&mut self, shape: &[usize]) -> Result<Data> {
        self.tensor_of(self.dtype, shape)
    }

    /// A tensor of the case's fill and layout. Gaps between elements hold NaN, where the dtype has it.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn tensor_of(&mut self, dtype: DType, shape: &[usize]) -> Result<Data> {
        self.tensor_in(self.layout, dtype, shape)
    }

    /// A tensor of the case's fill in a layout of its own.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn tensor_in(&mut self, layout: &str, dtype: DType, shape: &[usize]) -> Result<Data> {
        let desc = TensorDesc::strided(dtype, shape, &strides(layout, shape, 1))?;
        let mut data = self.numbers(dtype, desc.bytes()? / dtype.block_bytes());
        if self.tail {
            let n = shape.last().copied().unwrap_or(1).max(1);
            let most = round(dtype, 8.0 * (n as f64).sqrt());
            Walk::new(&desc.shape, &desc.strides).skip(n - 1).step_by(n).for_each(|at| data[at] = most);
        }
        Ok(self.laid(desc, data))
    }

    /// A tensor of given values, row-major, in the case's layout; where elements are repeated, the first values.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn laid_out(&self, dtype: DType, shape: &[usize], data: &[f64]) -> Result<Data> {
        let desc = TensorDesc::strided(dtype, shape, &strides(self.layout, shape, 1))?;
        let mut held = vec![0.0; desc.bytes()? / dtype.block_bytes()];
        let places: Vec<usize> = Walk::new(&desc.shape, &desc.strides).collect();
        places.iter().zip(data).rev().for_each(|(&at, &x)| held[at] = x);
        Ok(self.laid(desc, held))
    }

    /// Numbers of the case's fill.
    pub fn numbers(&mut self, dtype: DType, n: usize) -> Vec<f64> {
        let mut data = values(&mut self.rng, self.fill, dtype, n);
        if self.sign != 0.0 {
            data.iter_mut().for_each(|x| *x = x.abs() * self.sign);
        }
        data
    }

    fn laid(&self, desc: TensorDesc, mut held: Vec<f64>) -> Data {
        if held.len() > desc.elements() {
            let mut gap = vec![true; held.len()];
            Walk::new(&desc.shape, &desc.strides).for_each(|at| gap[at] = false);
            held.iter_mut().zip(gap).filter(|(_, gap)| *gap).for_each(|(x, _)| *x = f64::NAN);
        }
        let bytes = to_bytes(desc.dtype, &held);
        (desc, bytes)
    }

    /// A tensor of random bits in the case's layout, in any dtype: codes, or blocks with modest scales. Integers of 64
    /// bits stay within the 53 that a comparison sees.
    ///
    /// # Errors
    /// A shape that no tensor of the dtype has.
    pub fn bits(&mut self, dtype: DType, shape: &[usize]) -> Result<Data> {
        let desc = TensorDesc::strided(dtype, shape, &strides(self.layout, shape, dtype.block_elems()))?;
        let blocks = desc.bytes()? / dtype.block_bytes();
        if dtype.is_block() {
            return Ok((desc, block_bytes(&mut self.rng, dtype, blocks)));
        }
        let mut bytes = Vec::with_capacity(blocks * dtype.block_bytes());
        for _ in 0..blocks {
            let bits = match dtype {
                DType::Bool => self.rng.bits() & 1,
                DType::I64 => ((self.rng.bits() as i64) >> 11) as u64,
                DType::U64 => self.rng.bits() >> 11,
                _ => self.rng.bits(),
            };
            bytes.extend_from_slice(&bits.to_le_bytes()[..dtype.block_bytes()]);
        }
        Ok((desc, bytes))
    }

    /// A contiguous tensor of standard normal numbers, whatever the case's fill and layout.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn normal(&mut self, dtype: DType, shape: &[usize]) -> Result<Data> {
        let desc = TensorDesc::new(dtype, shape)?;
        let data = values(&mut self.rng, Fill::Normal, dtype, desc.elements());
        Ok((desc, to_bytes(dtype, &data)))
    }

    /// A contiguous tensor of integers below `below`.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn ints(&mut self, dtype: DType, shape: &[usize], below: usize) -> Result<Data> {
        let desc = TensorDesc::new(dtype, shape)?;
        let data: Vec<f64> = (0..desc.elements()).map(|_| self.rng.below(below) as f64).collect();
        Ok((desc, to_bytes(dtype, &data)))
    }

    /// A contiguous tensor of given values.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn list(&self, dtype: DType, shape: &[usize], data: &[f64]) -> Result<Data> {
        Ok((TensorDesc::new(dtype, shape)?, to_bytes(dtype, data)))
    }

    /// A contiguous tensor of random bytes that are finite numbers: codes, or blocks with modest scales; with `wide`, blocks
    /// with scales of any size.
    ///
    /// # Errors
    /// A shape that no tensor of the dtype has.
    pub fn codes(&mut self, dtype: DType, shape: &[usize], wide: bool) -> Result<Data> {
        let desc = TensorDesc::new(dtype, shape)?;
        let blocks = desc.bytes()? / dtype.block_bytes();
        let rng = &mut self.rng;
        let bytes = match (dtype.is_block(), dtype.is_float() && !dtype.is_packed()) {
            (true, _) if wide => wide_block_bytes(rng, dtype, blocks),
            (true, _) => block_bytes(rng, dtype, blocks),
            (_, true) => (0..blocks).map(|_| finite_byte(rng, dtype)).collect(),
            _ => (0..blocks * dtype.block_bytes()).map(|_| rng.bits() as u8).collect(),
        };
        Ok((desc, bytes))
    }
}

/// Any code of 8 bits that is a finite number.
fn finite_byte(rng: &mut Rng, dtype: DType) -> u8 {
    loop {
        let byte = rng.bits() as u8;
        if decode(dtype, &[byte]).is_finite() {
            return byte;
        }
    }
}

/// The operand marked as constant.
pub fn constant((desc, bytes): Data) -> Data {
    (desc.as_constant(), bytes)
}
