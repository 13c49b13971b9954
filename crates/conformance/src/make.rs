//! Operands of a case, made from its seed.

use qiao_core::{DType, Result, TensorDesc};
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values};

use crate::point::{Param, Point, word};

/// An operand: its description and its bytes.
pub type Data = (TensorDesc, Vec<u8>);

/// The parameter that says what data operands hold.
pub const FILL: Param = word("fill", &["normal", "wide", "cancelling", "subnormal", "special", "zero"]);

/// The parameter that says how operands lie in memory: contiguous; rows with gaps between them; elements with gaps
/// between them; axes in reverse order; one element repeated along every axis.
pub const LAYOUT: Param = word("layout", &["plain", "gapped", "strided", "transposed", "repeated"]);

/// A maker of operands from one seed.
#[derive(Debug)]
pub struct Make {
    /// Random numbers, for what the methods below do not make.
    pub rng: Rng,
    /// The dtype that the case's path names.
    pub dtype: DType,
    fill: Fill,
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
        Make { rng: Rng::new(seed), dtype, fill, layout: point.word_if("layout").unwrap_or("plain") }
    }

    /// A tensor of the case's dtype, fill and layout.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn tensor(&mut self, shape: &[usize]) -> Result<Data> {
        self.tensor_of(self.dtype, shape)
    }

    /// A tensor of the case's fill and layout.
    ///
    /// # Errors
    /// A shape that no tensor has.
    pub fn tensor_of(&mut self, dtype: DType, shape: &[usize]) -> Result<Data> {
        let desc = TensorDesc::strided(dtype, shape, &self.strides(shape))?;
        let held = desc.bytes()? / dtype.block_bytes();
        let data = values(&mut self.rng, self.fill, dtype, held);
        Ok((desc, to_bytes(dtype, &data)))
    }

    fn strides(&self, shape: &[usize]) -> Vec<usize> {
        let mut strides = vec![1; shape.len()];
        match self.layout {
            "transposed" => {
                for axis in 1..shape.len() {
                    strides[axis] = strides[axis - 1] * shape[axis - 1].max(1);
                }
            }
            "repeated" => strides.fill(0),
            layout => {
                let (inner, gap) = match layout {
                    "gapped" => (1, 5),
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

    /// A contiguous tensor of random bytes that are finite numbers: codes, or blocks with modest scales.
    ///
    /// # Errors
    /// A shape that no tensor of the dtype has.
    pub fn codes(&mut self, dtype: DType, shape: &[usize]) -> Result<Data> {
        let desc = TensorDesc::new(dtype, shape)?;
        let blocks = desc.bytes()? / dtype.block_bytes();
        let bytes = if dtype.is_block() {
            block_bytes(&mut self.rng, dtype, blocks)
        } else {
            (0..blocks * dtype.block_bytes()).map(|_| self.rng.bits() as u8).collect()
        };
        Ok((desc, bytes))
    }
}

/// The operand marked as constant.
pub fn constant((desc, bytes): Data) -> Data {
    (desc.as_constant(), bytes)
}
