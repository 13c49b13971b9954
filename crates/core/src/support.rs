//! A device's answer to "can you run this?", with a reason.

use std::fmt;

use crate::dtype::DType;

/// A device's answer for one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Support {
    /// The device has a kernel.
    Native,
    /// The device has a kernel if this constant operand is first packed into this private layout.
    Relayout {
        /// The operand's position among the inputs.
        operand: usize,
        /// The layout's id, never 0.
        layout: u64,
    },
    /// The device has no kernel.
    No(Reason),
}

/// A device's whole answer for one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSupport {
    /// Whether the node runs.
    pub answer: Support,
    /// The kernel that would run it, as `what.how`; empty if not known or none.
    pub kernel: String,
    /// The dtype to which the kernel rounds activations first, where it does: the tolerance follows from it.
    pub act_dtype: Option<DType>,
}

impl NodeSupport {
    /// A refusal.
    pub fn no(reason: Reason) -> Self {
        NodeSupport { answer: Support::No(reason), kernel: String::new(), act_dtype: None }
    }

    /// A kernel of this name.
    pub fn native(kernel: impl Into<String>) -> Self {
        NodeSupport { answer: Support::Native, kernel: kernel.into(), act_dtype: None }
    }
}

/// Why a node is refused: which operand, which property of it, what was found and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The operand, inputs first and outputs after them; `None` when the node as a whole is refused.
    pub operand: Option<usize>,
    /// What about it.
    pub property: Property,
    /// How the limit is to be read.
    pub rule: Rule,
    /// What was found.
    pub value: Limit,
    /// What is allowed.
    pub limit: Limit,
}

/// The property that a reason is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Property {
    /// The device has no kernel for the operator at all.
    Operator,
    /// The meaning that this revision of the operator has.
    Revision,
    /// The attribute of this name.
    Attribute(&'static str),
    /// The element type.
    Dtype,
    /// The number of dims.
    Rank,
    /// The size along this axis.
    Dim(usize),
    /// The strides.
    Strides,
    /// The start address.
    Alignment,
    /// The quantisation scheme.
    Quantisation,
    /// The private layout.
    Layout,
    /// The memory.
    Memory,
    /// Whether an optional operand is given.
    Presence,
}

/// How a limit is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The property is not supported at all.
    None,
    /// The value must be a multiple of the limit.
    MultipleOf,
    /// The value must not be above the limit.
    AtMost,
    /// The value must not be below the limit.
    AtLeast,
    /// The value must be the limit.
    Equal,
    /// The value must be among those that the limit names.
    OneOf,
}

/// A value found or allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Nothing to say.
    None,
    /// A number.
    Int(i64),
    /// A dtype.
    Dtype(DType),
    /// Words, such as a list of what is allowed.
    Text(String),
}

impl From<usize> for Limit {
    fn from(v: usize) -> Self {
        Limit::Int(i64::try_from(v).unwrap_or(i64::MAX))
    }
}

impl From<DType> for Limit {
    fn from(v: DType) -> Self {
        Limit::Dtype(v)
    }
}

impl From<&str> for Limit {
    fn from(v: &str) -> Self {
        Limit::Text(v.into())
    }
}

impl Reason {
    /// The device has no kernel for this operator.
    pub fn operator() -> Self {
        Reason { operand: None, property: Property::Operator, rule: Rule::None, value: Limit::None, limit: Limit::None }
    }

    /// A property of an operand.
    pub fn operand(
        operand: usize,
        property: Property,
        rule: Rule,
        value: impl Into<Limit>,
        limit: impl Into<Limit>,
    ) -> Self {
        Reason { operand: Some(operand), property, rule, value: value.into(), limit: limit.into() }
    }

    /// An operand's dtype is not one of these.
    pub fn dtype(operand: usize, found: DType, allowed: &[DType]) -> Self {
        let names: Vec<_> = allowed.iter().map(|d| d.name()).collect();
        Reason::operand(operand, Property::Dtype, Rule::OneOf, found, names.join(", ").as_str())
    }

    /// An attribute's value.
    pub fn attribute(name: &'static str, rule: Rule, value: impl Into<Limit>, limit: impl Into<Limit>) -> Self {
        Reason { operand: None, property: Property::Attribute(name), rule, value: value.into(), limit: limit.into() }
    }

    /// An operand's strides.
    pub fn strides(operand: usize, limit: &str) -> Self {
        Reason::operand(operand, Property::Strides, Rule::Equal, Limit::None, limit)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::None => Ok(()),
            Limit::Int(v) => write!(f, "{v}"),
            Limit::Dtype(d) => write!(f, "{d}"),
            Limit::Text(t) => f.write_str(t),
        }
    }
}

impl fmt::Display for Property {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Property::Operator => f.write_str("no kernel for this operator"),
            Property::Revision => f.write_str("revision"),
            Property::Attribute(name) => write!(f, "attribute {name}"),
            Property::Dtype => f.write_str("dtype"),
            Property::Rank => f.write_str("rank"),
            Property::Dim(axis) => write!(f, "dim {axis}"),
            Property::Strides => f.write_str("strides"),
            Property::Alignment => f.write_str("start"),
            Property::Quantisation => f.write_str("quantisation"),
            Property::Layout => f.write_str("layout"),
            Property::Memory => f.write_str("memory"),
            Property::Presence => f.write_str("presence"),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(operand) = self.operand {
            write!(f, "operand {operand}: ")?;
        }
        write!(f, "{}", self.property)?;
        if self.value != Limit::None {
            write!(f, " = {}", self.value)?;
        }
        match self.rule {
            Rule::None if self.property == Property::Operator => Ok(()),
            Rule::None => f.write_str(" is not supported"),
            Rule::MultipleOf => write!(f, " is not a multiple of {}", self.limit),
            Rule::AtMost => write!(f, " is above {}", self.limit),
            Rule::AtLeast => write!(f, " is below {}", self.limit),
            Rule::Equal => write!(f, " must be {}", self.limit),
            Rule::OneOf => write!(f, " is not one of {}", self.limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_as_a_sentence() {
        let r = Reason::operand(1, Property::Dim(1), Rule::MultipleOf, 100usize, 64usize);
        assert_eq!(r.to_string(), "operand 1: dim 1 = 100 is not a multiple of 64");
        assert_eq!(Reason::operator().to_string(), "no kernel for this operator");
        let r = Reason::dtype(0, DType::F64, &[DType::F32, DType::BF16]);
        assert_eq!(r.to_string(), "operand 0: dtype = f64 is not one of f32, bf16");
    }
}
