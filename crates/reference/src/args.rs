//! What a truth is given: a node and the bytes of its operands.

use qiao_core::{NodeView, Result, TensorDesc};

use crate::value::{Value, load_exact, load_row};

/// A node with the bytes of its operands, in the order of the node's inputs. The graph has checked shapes and dtypes.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    node: NodeView<'a>,
    bytes: &'a [Option<&'a [u8]>],
}

impl<'a> Args<'a> {
    /// The operands of a node.
    pub fn new(node: NodeView<'a>, bytes: &'a [Option<&'a [u8]>]) -> Self {
        Args { node, bytes }
    }

    /// The node.
    pub fn node(&self) -> NodeView<'a> {
        self.node
    }

    /// How many operands the node names.
    pub fn len(&self) -> usize {
        self.node.node.inputs.len()
    }

    /// Whether the node names no operand.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether an operand was given.
    pub fn has(&self, index: usize) -> bool {
        self.node.input(index).is_some()
    }

    /// The description of a required operand.
    pub fn desc(&self, index: usize) -> &'a TensorDesc {
        self.node.required(index)
    }

    /// The description of a result.
    pub fn out(&self, index: usize) -> &'a TensorDesc {
        self.node.output(index)
    }

    /// The bytes of a required operand; none where the caller gave none.
    pub fn bytes(&self, index: usize) -> &'a [u8] {
        self.bytes.get(index).copied().flatten().unwrap_or_default()
    }

    /// A required operand.
    ///
    /// # Errors
    /// Its bytes are too few.
    pub fn value(&self, index: usize) -> Result<Value> {
        Value::load(self.desc(index), self.bytes(index))
    }

    /// An optional operand.
    ///
    /// # Errors
    /// As [`Args::value`].
    pub fn opt(&self, index: usize) -> Result<Option<Value>> {
        if self.has(index) { self.value(index).map(Some) } else { Ok(None) }
    }

    /// A required operand as bytes in row-major order, with its shape counted in blocks.
    ///
    /// # Errors
    /// As [`Args::value`].
    pub fn exact(&self, index: usize) -> Result<(Vec<usize>, Vec<u8>)> {
        load_exact(self.desc(index), self.bytes(index))
    }

    /// The innermost row of a required operand at this outer index.
    ///
    /// # Errors
    /// A block format whose decoder refuses it.
    ///
    /// # Panics
    /// The index is outside the tensor, or its bytes are too few.
    pub fn row(&self, index: usize, at: &[usize]) -> Result<Vec<f64>> {
        let desc = self.desc(index);
        let mut out = vec![0.0; desc.shape.last_dim()];
        let stride = desc.strides.last().copied().unwrap_or(1);
        load_row(desc.dtype, self.bytes(index), offset(desc, at), stride, &mut out, &mut Vec::new())?;
        Ok(out)
    }
}

/// The offset in storage, in elements, of the element at this index; missing inner indices are 0.
pub fn offset(desc: &TensorDesc, at: &[usize]) -> usize {
    at.iter().zip(desc.strides.iter()).map(|(i, s)| i * s).sum()
}
