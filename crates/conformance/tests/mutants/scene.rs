//! What a sabotaged kernel sees: one node with the bytes of its operands, and where they lie.

use qiao_core::host::host_range;
use qiao_core::{Binding, DType, Graph, Node, NodeView, Op, OpKind, Result, TensorDesc};
use qiao_reference::value::{Output, Walk};
use qiao_reference::{Value, round, truth};

/// An operand, described and as bytes.
pub(crate) type Operand = (TensorDesc, Vec<u8>);

/// One execution of a node.
pub(crate) struct Scene<'a> {
    /// The operator, with the attributes that are computed.
    pub(crate) op: Op,
    /// The operands, private copies.
    pub(crate) operands: Vec<Option<Operand>>,
    /// The descriptions of the results.
    pub(crate) outs: Vec<TensorDesc>,
    /// How often the plan was executed before.
    pub(crate) execution: usize,
    /// Where the inputs lie, by operand.
    pub(crate) sources: Vec<Option<Binding>>,
    /// Where the results lie.
    pub(crate) targets: &'a [Binding],
    /// The workspace.
    pub(crate) workspace: &'a Binding,
}

impl Scene<'_> {
    /// The operator without its attributes.
    pub(crate) fn kind(&self) -> OpKind {
        self.op.kind()
    }

    /// Whether an operand is given.
    pub(crate) fn has(&self, index: usize) -> bool {
        self.operands.get(index).is_some_and(Option::is_some)
    }

    /// The shape of a given operand.
    pub(crate) fn shape(&self, index: usize) -> Vec<usize> {
        self.desc(index).shape.to_vec()
    }

    /// The description of a given operand.
    pub(crate) fn desc(&self, index: usize) -> &TensorDesc {
        &self.operands[index].as_ref().expect("the operand is given").0
    }

    /// A given operand, row-major.
    pub(crate) fn value(&self, index: usize) -> Value {
        let (desc, bytes) = self.operands[index].as_ref().expect("the operand is given");
        Value::load(desc, bytes).expect("an operand has its bytes")
    }

    /// Puts other numbers, row-major, into an operand that is no block format; it becomes contiguous.
    pub(crate) fn set(&mut self, index: usize, data: &[f64]) {
        let old = self.desc(index);
        let desc = TensorDesc::new(old.dtype, &old.shape).expect("the shape was one before");
        self.set_as(index, desc, data);
    }

    /// Puts a contiguous tensor of numbers in an operand's place.
    pub(crate) fn set_as(&mut self, index: usize, desc: TensorDesc, data: &[f64]) {
        let bytes = match desc.dtype {
            DType::I4 | DType::U4 => nibbles(&desc, data),
            dtype => qiao_reference::data::to_bytes(dtype, data),
        };
        self.operands[index] = Some((desc, bytes));
    }

    /// Changes every number of an operand.
    pub(crate) fn map(&mut self, index: usize, f: impl Fn(usize, f64) -> f64) {
        if self.has(index) {
            let data: Vec<f64> = self.value(index).data.iter().enumerate().map(|(i, &x)| f(i, x)).collect();
            self.set(index, &data);
        }
    }

    /// Changes the numbers of an operand that has as many axes, from its shape and their indices.
    pub(crate) fn map_at(&mut self, index: usize, f: impl Fn(&Value, &[usize]) -> f64) {
        if !self.has(index) {
            return;
        }
        let value = self.value(index);
        let data: Vec<f64> = indices(&value.shape).map(|at| f(&value, &at)).collect();
        self.set(index, &data);
    }

    /// What the truth says of the scene as it stands.
    ///
    /// # Errors
    /// Operands that break the operator's meaning.
    pub(crate) fn truth(&self) -> Result<Vec<Output>> {
        let mut graph = Graph::new();
        let inputs = self.operands.iter().map(|o| o.as_ref().map(|(desc, _)| graph.bind("in", desc.clone()))).collect();
        let outputs = self.outs.iter().map(|desc| graph.bind("out", desc.clone())).collect();
        let node = Node { op: self.op, inputs, outputs };
        let bytes: Vec<Option<&[u8]>> = self.operands.iter().map(|o| o.as_ref().map(|(_, b)| &b[..])).collect();
        truth::eval(NodeView { graph: &graph, node: &node, index: 0 }, &bytes)
    }

    /// What the truth says of the scene as it stands, as numbers of one result.
    ///
    /// # Errors
    /// As [`Scene::truth`].
    pub(crate) fn numbers(&self, output: usize) -> Result<Vec<f64>> {
        let truth = self.truth()?;
        let before = vec![0; self.outs[output].bytes()?];
        Ok(match &truth[output] {
            Output::Values(data) => data.clone(),
            other => other.rounded(&self.outs[output], &before)?.data,
        })
    }
}

/// Numbers of four bits, two a byte, the first one low; every row begins with a byte of its own.
fn nibbles(desc: &TensorDesc, data: &[f64]) -> Vec<u8> {
    let pair = |p: &[f64]| p[0] as i8 as u8 & 15 | (p.get(1).map_or(0, |x| *x as i8 as u8)) << 4;
    data.chunks(desc.shape.last_dim().max(1)).flat_map(|row| row.chunks(2).map(pair).collect::<Vec<_>>()).collect()
}

/// The output that holds these numbers.
pub(crate) fn one(data: Vec<f64>) -> Result<Vec<Output>> {
    Ok(vec![Output::Values(data)])
}

/// Every index of a shape, in row-major order.
pub(crate) fn indices(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + use<> {
    let shape = shape.to_vec();
    let count = if shape.contains(&0) { 0 } else { shape.iter().product() };
    (0..count).map(move |mut at: usize| {
        let mut index = vec![0; shape.len()];
        for (i, &dim) in shape.iter().enumerate().rev() {
            index[i] = at % dim;
            at /= dim;
        }
        index
    })
}

/// The element at an index.
pub(crate) fn at(value: &Value, index: &[usize]) -> f64 {
    let flat = index.iter().zip(&value.shape).fold(0, |flat, (i, dim)| flat * dim + i);
    value.data[flat]
}

/// `x` as f16 holds it.
pub(crate) fn f16(x: f64) -> f64 {
    round::round(DType::F16, x)
}

/// `x` in a dtype that has no more of it than fits: rounded towards zero.
pub(crate) fn cut_off(dtype: DType, x: f64, out: &mut [u8]) {
    round::encode(dtype, x, out);
    let got = round::decode(dtype, out);
    if got.abs() > x.abs() {
        round::encode(dtype, got - got.signum() * round::ulp(dtype, got.abs().next_down()), out);
    }
}

/// Changes bytes of the buffer behind a binding, from `from` bytes after its start (before it where negative); what lies
/// outside of the buffer is left.
pub(crate) fn poke(binding: &Binding, from: isize, bytes: usize, f: impl Fn(u8) -> u8) {
    let (buffer, range) = host_range(binding).expect("operands are in host memory");
    let size = binding.buffer.bytes();
    let start = range.start.saturating_add_signed(from).min(size);
    let end = (start + bytes).min(size);
    buffer.write(start..end, |b| b.iter_mut().for_each(|b| *b = f(*b)));
}

/// The bytes behind a binding.
pub(crate) fn peek(binding: &Binding) -> Vec<u8> {
    let (buffer, range) = host_range(binding).expect("operands are in host memory");
    buffer.read(range, <[u8]>::to_vec)
}

/// The bytes of a buffer that follow a binding, as many as there are up to `most`.
pub(crate) fn peek_behind(binding: &Binding, most: usize) -> Vec<u8> {
    let (buffer, range) = host_range(binding).expect("operands are in host memory");
    let end = (range.end + most).min(binding.buffer.bytes());
    buffer.read(range.end..end, <[u8]>::to_vec)
}

/// The offsets, in elements, of a result's elements in its storage, row-major.
pub(crate) fn places(desc: &TensorDesc) -> Vec<usize> {
    Walk::new(&desc.shape, &desc.strides).collect()
}
