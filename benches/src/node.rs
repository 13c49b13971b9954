//! One operator on a device, ready to run: operands uploaded, constants packed.

use std::sync::Arc;
use std::time::Duration;

use qiao_core::{Binding, Cost, DType, Device, Graph, Op, Plan, Result, Stream, TensorDesc, TensorId};
use qiao_layers::{Lowered, Policy, lower};

/// An operand: its description and its bytes.
pub type Data = (TensorDesc, Vec<u8>);

/// An operator and what it is given.
#[derive(Clone, Debug)]
pub struct Work {
    /// The operator.
    pub op: Op,
    /// Its operands; `None` where one is left out.
    pub operands: Vec<Option<Data>>,
    /// The dtype of the first result, where it is not the operator's own choice.
    pub out: Option<DType>,
    /// The result, where its shape does not follow from operands.
    pub output: Option<TensorDesc>,
    /// Whether its arithmetic and not its memory is what bounds it.
    pub product: bool,
}

/// A graph on a device with everything bound.
pub struct Node {
    lowered: Lowered,
    stream: Box<dyn Stream>,
    bindings: Vec<Binding>,
    workspace: Binding,
    cost: Cost,
}

/// Bytes of a device's first memory.
///
/// # Errors
/// The device's own.
pub fn room(device: &dyn Device, bytes: usize) -> Result<Binding> {
    let size = bytes.saturating_add(device.info().tensor_tail_pad).max(1);
    Ok(Binding { bytes, ..Binding::whole(device.alloc(0, size)?) })
}

/// A tensor of a shape that tensors can have.
///
/// # Panics
/// When it has none; shapes here are written down in the code.
pub fn desc(dtype: DType, shape: &[usize]) -> TensorDesc {
    TensorDesc::new(dtype, shape).expect("the shape is one of a tensor")
}

/// Small numbers of a dtype that are all different from zero, or codes where it holds no numbers, as bytes.
pub fn numbers(dtype: DType, shape: &[usize]) -> Data {
    let desc = desc(dtype, shape);
    let bytes = desc.bytes().expect("the shape is one of a tensor");
    let value = |i: usize| ((i * 37 % 101) as f32 - 50.5) / 64.0;
    let elements = bytes / dtype.block_bytes();
    // A prime number of them over and over: making millions of numbers takes longer than measuring with them.
    let repeat = |pattern: Vec<u8>| pattern.iter().copied().cycle().take(bytes).collect();
    let some = elements.min(10_007);
    let data = match dtype {
        DType::F32 => repeat((0..some).flat_map(|i| value(i).to_le_bytes()).collect()),
        DType::F16 => repeat((0..some).flat_map(|i| half::f16::from_f32(value(i)).to_le_bytes()).collect()),
        DType::BF16 => repeat((0..some).flat_map(|i| half::bf16::from_f32(value(i)).to_le_bytes()).collect()),
        DType::I32 => vec![0; bytes],
        _ => repeat((0..some).map(|i| (i * 37 % 113) as u8).collect()),
    };
    (desc, data)
}

/// Integers as i32.
pub fn ints(shape: &[usize], data: impl Iterator<Item = usize>) -> Data {
    (desc(DType::I32, shape), data.flat_map(|x| (x as i32).to_le_bytes()).collect())
}

/// The same as a constant.
pub fn constant((desc, bytes): Data) -> Data {
    (desc.as_constant(), bytes)
}

impl Work {
    /// An operator whose operands are all there and whose memory bounds it.
    pub fn new(op: Op, operands: Vec<Data>) -> Work {
        Work { op, operands: operands.into_iter().map(Some).collect(), out: None, output: None, product: false }
    }

    /// The graph: operands first, then the outputs that are not written in place of one.
    ///
    /// # Errors
    /// Operands that the operator refuses.
    pub fn graph(&self) -> Result<Graph> {
        let mut graph = Graph::new();
        let mut inputs: Vec<Option<TensorId>> = Vec::new();
        for (at, given) in self.operands.iter().enumerate() {
            inputs.push(given.as_ref().map(|(desc, _)| graph.bind(format!("x{at}"), desc.clone())));
        }
        if let Some(output) = &self.output {
            let y = graph.bind("y", output.clone());
            graph.add_into(self.op, &inputs, &[y])?;
            return Ok(graph);
        }
        let mut sketch = graph.clone();
        let sketched = match self.out {
            Some(dtype) => sketch.add_as(self.op, &inputs, dtype)?,
            None => sketch.add(self.op, &inputs)?,
        };
        let mut outputs = Vec::new();
        for id in sketched {
            let own = !inputs.contains(&Some(id));
            outputs.push(if own { graph.bind("y", sketch.desc(id).clone()) } else { id });
        }
        graph.add_into(self.op, &inputs, &outputs)?;
        Ok(graph)
    }

    /// The operator on a device.
    ///
    /// # Errors
    /// The device does not run it; the device's own.
    pub fn on(&self, device: &Arc<dyn Device>) -> Result<Node> {
        Node::new(device, self.graph()?, self.operands.iter().flatten().map(|(_, bytes)| &bytes[..]))
    }
}

impl Node {
    /// Lowers a graph and fills its first bound tensors with these bytes, in order; those behind them are zeros.
    ///
    /// # Errors
    /// The device does not run it; the device's own.
    pub fn new<'a>(device: &Arc<dyn Device>, graph: Graph, data: impl Iterator<Item = &'a [u8]>) -> Result<Node> {
        let cost = graph.cost();
        let lowered = lower(device, graph, &Policy::DeviceOnly)?;
        let mut stream = device.stream()?;
        let mut data = data;
        let mut bindings = Vec::new();
        for (position, &id) in lowered.graph.bound().iter().enumerate() {
            let pack = lowered.packs.iter().find(|p| p.bound == position);
            let source = pack.map_or_else(|| lowered.graph.desc(id).clone(), |p| p.tensor.clone());
            let bytes = source.bytes()?;
            let mut binding = room(&**device, bytes)?;
            match data.next() {
                Some(given) => stream.upload(&binding, given)?,
                None => stream.fill(&binding, 0)?,
            }
            if let Some(pack) = pack {
                let packed = room(&**device, pack.bytes)?;
                device.prepack(&mut *stream, &pack.tensor, &binding, pack.layout, &packed)?;
                binding = packed;
            }
            bindings.push(binding);
        }
        stream.sync(Duration::MAX)?;
        let workspace = room(&**device, lowered.info().workspace_bytes)?;
        Ok(Node { lowered, stream, bindings, workspace, cost })
    }

    /// What it costs by the op list's model.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Runs it once, to its end.
    ///
    /// # Panics
    /// When the device fails.
    pub fn run(&mut self) {
        let done = self.lowered.execute(&mut *self.stream, &self.bindings, &self.workspace);
        done.and_then(|()| self.stream.sync(Duration::MAX)).expect("the device runs what it has planned");
    }
}
