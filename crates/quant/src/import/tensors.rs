//! A module's tensors: what is asked of them, and the errors of what they are not.

use std::borrow::Cow;

use qiao_core::{DType, Error, Result};

/// What a module's tensors are, by the suffix after the module's name and dot: `qweight`, `weight_packed`, `weight`, …
pub trait Tensors {
    /// Dtype and shape of a tensor, `None` where there is none.
    fn header(&self, suffix: &str) -> Option<(DType, Vec<usize>)>;
    /// The bytes of a tensor, `None` where there is none or they are not at hand.
    fn bytes(&self, suffix: &str) -> Option<Cow<'_, [u8]>>;
}

/// The dtypes in which scales and biases are stored.
pub(super) const FLOATS: [DType; 3] = [DType::F16, DType::BF16, DType::F32];
/// The dtypes in which words of packed codes are stored.
pub(super) const WORDS: [DType; 2] = [DType::I32, DType::U32];

/// One module under one scheme.
pub(super) struct Module<'a> {
    tensors: &'a dyn Tensors,
    /// The scheme's name, for errors.
    pub(super) scheme: &'static str,
}

fn names(dtypes: &[DType]) -> String {
    dtypes.iter().map(|d| d.name()).collect::<Vec<_>>().join(" or ")
}

impl<'a> Module<'a> {
    pub(super) fn new(tensors: &'a dyn Tensors, scheme: &'static str) -> Self {
        Module { tensors, scheme }
    }

    /// An error about this module.
    pub(super) fn refuse(&self, what: impl AsRef<str>, found: impl Into<String>, mend: impl Into<String>) -> Error {
        Error::invalid(format!("{} layer: {}", self.scheme, what.as_ref()), found, mend)
    }

    /// Whether there is such a tensor.
    pub(super) fn has(&self, suffix: &str) -> bool {
        self.tensors.header(suffix).is_some()
    }

    /// Dtype and shape of a tensor that must be there, in one of some dtypes; `layout` says what it should be like.
    pub(super) fn need(&self, suffix: &str, dtypes: &[DType], layout: &str) -> Result<(DType, Vec<usize>)> {
        let Some((dtype, shape)) = self.tensors.header(suffix) else {
            let mend = format!("the scheme needs {} {layout}", names(dtypes));
            return Err(self.refuse(format!("tensor '{suffix}'"), "it is missing", mend));
        };
        if !dtypes.contains(&dtype) {
            let mend = format!("it should be {} {layout}; other layouts are not read", names(dtypes));
            return Err(self.refuse(format!("tensor '{suffix}'"), format!("it is {dtype} {shape:?}"), mend));
        }
        // Every size that is derived from a shape is within 64 times its elements.
        if shape.iter().try_fold(64usize, |n, d| n.checked_mul(*d)).is_none() {
            return Err(self.shape(suffix, &shape, "so many elements can not be"));
        }
        Ok((dtype, shape))
    }

    /// As [`Module::need`], for a tensor of two sizes above 0.
    pub(super) fn matrix(&self, suffix: &str, dtypes: &[DType], layout: &str) -> Result<(DType, [usize; 2])> {
        let (dtype, shape) = self.need(suffix, dtypes, layout)?;
        match shape[..] {
            [rows, columns] if rows > 0 && columns > 0 => Ok((dtype, [rows, columns])),
            _ => Err(self.shape(suffix, &shape, format!("it should be {layout}, sizes above 0"))),
        }
    }

    /// The error of a tensor of another shape than it should have.
    pub(super) fn shape(&self, suffix: &str, found: &[usize], mend: impl Into<String>) -> Error {
        self.refuse(format!("tensor '{suffix}'"), format!("its shape is {found:?}"), mend)
    }

    /// The dtype of a tensor that need not be there, and has one of some dtypes and just this shape if it is.
    pub(super) fn optional(&self, suffix: &str, dtypes: &[DType], shape: &[usize]) -> Result<Option<DType>> {
        if !self.has(suffix) {
            return Ok(None);
        }
        let (dtype, found) = self.need(suffix, dtypes, &format!("{shape:?}"))?;
        if found != shape {
            return Err(self.shape(suffix, &found, format!("it should be {shape:?}")));
        }
        Ok(Some(dtype))
    }

    /// The dtype of the bias `[n]`, if there is one.
    pub(super) fn bias(&self, n: usize) -> Result<Option<DType>> {
        self.optional("bias", &FLOATS, &[n])
    }

    /// The bytes of a tensor of so many elements, counted.
    pub(super) fn bytes(&self, suffix: &str, dtype: DType, elements: usize) -> Result<Cow<'a, [u8]>> {
        let what = || format!("bytes of tensor '{suffix}'");
        let Some(bytes) = self.tensors.bytes(suffix) else {
            return Err(self.refuse(what(), "there are none", "give the tensor's bytes"));
        };
        match dtype.bytes_for(elements) {
            Some(n) if n == bytes.len() => Ok(bytes),
            n => {
                let found = format!("{} bytes for {elements} elements of {dtype}", bytes.len());
                let whole = n.map_or("a whole number of".to_string(), |n| n.to_string());
                Err(self.refuse(what(), found, format!("it should be {whole} bytes: the file may be truncated")))
            }
        }
    }

    /// The numbers of a small tensor, if its bytes are at hand and of the length that its header says.
    pub(super) fn peek(&self, suffix: &str) -> Option<Vec<f64>> {
        let (dtype, shape) = self.tensors.header(suffix)?;
        let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d))?;
        let bytes = self.tensors.bytes(suffix)?;
        (dtype.bytes_for(elements) == Some(bytes.len())).then(|| numbers(dtype, &bytes)).flatten()
    }

    /// The numbers of a tensor of so many elements.
    pub(super) fn numbers(&self, suffix: &str, dtype: DType, elements: usize) -> Result<Vec<f64>> {
        let bytes = self.bytes(suffix, dtype, elements)?;
        numbers(dtype, &bytes).ok_or_else(|| {
            self.refuse(format!("tensor '{suffix}'"), format!("it is {dtype}"), "it should be plain numbers")
        })
    }
}

/// Little-endian numbers of a plain dtype, each exact in f64 (64-bit integers: up to 2^53).
pub(super) fn numbers(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    fn each<const B: usize>(bytes: &[u8], read: impl Fn([u8; B]) -> f64) -> Vec<f64> {
        bytes.as_chunks::<B>().0.iter().map(|b| read(*b)).collect()
    }
    Some(match dtype {
        DType::F64 => each(bytes, f64::from_le_bytes),
        DType::F32 => each(bytes, |b| f32::from_le_bytes(b) as f64),
        DType::F16 => each(bytes, |b| half::f16::from_le_bytes(b).to_f64()),
        DType::BF16 => each(bytes, |b| half::bf16::from_le_bytes(b).to_f64()),
        DType::I64 => each(bytes, |b| i64::from_le_bytes(b) as f64),
        DType::I32 => each(bytes, |b| i32::from_le_bytes(b) as f64),
        DType::I8 => each(bytes, |b: [u8; 1]| b[0] as i8 as f64),
        DType::U8 => each(bytes, |b: [u8; 1]| b[0] as f64),
        _ => return None,
    })
}
