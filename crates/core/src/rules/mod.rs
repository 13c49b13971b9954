//! Shape rules: what an operator makes of its operands, or why it can't. One function per rule named in the op list.

mod attention;
mod layout;
mod matmul;
mod rows;

pub(crate) use attention::*;
pub(crate) use layout::*;
pub(crate) use matmul::*;
pub(crate) use rows::*;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::for_each_op;
use crate::op::{Op, OpKind};
use crate::shape::{Dims, TensorDesc};

/// Which dtypes an output may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutDtype {
    /// This one only.
    Fixed(DType),
    /// This one unless the caller asks for another plain float.
    Float(DType),
    /// This one unless the caller asks for any other dtype that is not a block format.
    Any(DType),
}

impl OutDtype {
    pub(crate) fn default(self) -> DType {
        match self {
            OutDtype::Fixed(d) | OutDtype::Float(d) | OutDtype::Any(d) => d,
        }
    }

    pub(crate) fn allows(self, asked: DType) -> bool {
        match self {
            OutDtype::Fixed(d) => asked == d,
            OutDtype::Float(_) => asked.is_float() && !asked.is_packed(),
            OutDtype::Any(_) => !asked.is_packed(),
        }
    }
}

/// One output of an operator: its shape (`None` where the caller gives it) and its dtype.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OutSpec {
    pub(crate) shape: Option<Dims>,
    pub(crate) dtype: OutDtype,
}

impl OutSpec {
    pub(crate) fn new(shape: &[usize], dtype: OutDtype) -> Result<Self> {
        Ok(OutSpec { shape: Some(Dims::new(shape)?), dtype })
    }

    pub(crate) fn like(x: &TensorDesc) -> Self {
        OutSpec { shape: Some(x.shape), dtype: OutDtype::Fixed(x.dtype) }
    }
}

/// A shape rule: the operands' descriptions to the outputs' specifications.
pub(crate) type Rule = fn(&Op, &Operands<'_>) -> Result<Vec<OutSpec>>;

/// The operands of a node while its rule looks at them.
pub(crate) struct Operands<'a> {
    pub(crate) kind: OpKind,
    pub(crate) descs: &'a [Option<&'a TensorDesc>],
}

impl<'a> Operands<'a> {
    /// A required operand. Its presence was checked when the node was built.
    pub(crate) fn get(&self, index: usize) -> Result<&'a TensorDesc> {
        self.opt(index).ok_or_else(|| {
            Error::invalid(
                self.name(index),
                "it was left out",
                format!("{} needs every operand that is not optional", self.kind),
            )
        })
    }

    /// An optional operand.
    pub(crate) fn opt(&self, index: usize) -> Option<&'a TensorDesc> {
        self.descs.get(index).copied().flatten()
    }

    /// "matmul operand 1 (b)".
    pub(crate) fn name(&self, index: usize) -> String {
        let inputs = self.kind.inputs();
        let name = inputs.get(index).or(inputs.last()).map_or("?", |o| o.name);
        format!("{} operand {index} ({name})", self.kind)
    }

    pub(crate) fn bad(&self, index: usize, mend: impl Into<String>) -> Error {
        let found = self.opt(index).map_or("it was left out".into(), |d| d.to_string());
        Error::invalid(self.name(index), found, mend)
    }

    pub(crate) fn check(&self, index: usize, ok: bool, mend: impl FnOnce() -> String) -> Result<()> {
        if ok { Ok(()) } else { Err(self.bad(index, mend())) }
    }

    /// The operand must have this shape.
    pub(crate) fn shape(&self, index: usize, want: &[usize]) -> Result<&'a TensorDesc> {
        let x = self.get(index)?;
        self.check(index, *x.shape == *want, || format!("give it shape {want:?}"))?;
        Ok(x)
    }

    /// The operand, where given, must have this shape.
    pub(crate) fn opt_shape(&self, index: usize, want: &[usize]) -> Result<()> {
        if self.opt(index).is_some() { self.shape(index, want).map(|_| ()) } else { Ok(()) }
    }

    /// The operand must have this rank.
    pub(crate) fn rank(&self, index: usize, want: usize) -> Result<&'a TensorDesc> {
        let x = self.get(index)?;
        self.check(index, x.rank() == want, || format!("give it rank {want}"))?;
        Ok(x)
    }

    /// The operand, where given, must be a plain float.
    pub(crate) fn float(&self, index: usize) -> Result<()> {
        match self.opt(index) {
            Some(x) if !x.dtype.is_float() || x.dtype.is_packed() => {
                Err(self.bad(index, "give it a floating point dtype"))
            }
            _ => Ok(()),
        }
    }

    /// The operand, where given, must be i32 or i64.
    pub(crate) fn index(&self, index: usize) -> Result<()> {
        match self.opt(index) {
            Some(x) if !x.dtype.is_index() => Err(self.bad(index, "give it dtype i32 or i64")),
            _ => Ok(()),
        }
    }

    /// The operand, where given, must be f32.
    pub(crate) fn f32(&self, index: usize) -> Result<()> {
        match self.opt(index) {
            Some(x) if x.dtype != DType::F32 => Err(self.bad(index, "give it dtype f32")),
            _ => Ok(()),
        }
    }
}

/// An attribute that no device could honour.
pub(crate) fn bad_attr(kind: OpKind, attr: &str, found: impl std::fmt::Display, mend: impl Into<String>) -> Error {
    Error::invalid(format!("{kind} attribute {attr}"), format!("{found}"), mend)
}

/// An attribute that must be a finite number of at least 0.
pub(crate) fn non_negative(kind: OpKind, attr: &str, value: f32) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(bad_attr(kind, attr, value, "give it a finite value of at least 0"))
    }
}

macro_rules! rule_table {
    ($($(#[doc = $doc:literal])* $variant:ident($attrs:ident) = $code:literal, $name:literal, $tier:ident,
       [$($input:literal),*] => [$($output:literal),*], $rule:ident, $cost:ident, $decompose:ident;)*) => {
        /// The shape rule of an operator.
        pub(crate) fn rule(kind: OpKind) -> Rule {
            match kind { $(OpKind::$variant => $rule,)* }
        }
    };
}

for_each_op!(rule_table);
