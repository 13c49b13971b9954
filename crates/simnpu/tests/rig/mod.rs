//! A device with a stream, and a sum that it computes: what tests of limits and faults stand on.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::sync::Arc;
use std::time::Duration;

use qiao_core::{Binding, DType, Device, Graph, NoAttrs, Op, Plan, Result, Stream, TensorDesc};

/// No wait of a test takes longer, unless something is broken.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// `y = a + b` of 64 elements of f32, planned and bound.
pub(crate) struct Sum {
    pub(crate) graph: Graph,
    pub(crate) plan: Arc<dyn Plan>,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) workspace: Binding,
}

/// Elements of a sum.
pub(crate) const N: usize = 64;

pub(crate) fn bytes_of(data: &[f32]) -> Vec<u8> {
    data.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub(crate) fn floats_of(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

pub(crate) fn alloc(device: &dyn Device, bytes: usize) -> Result<Binding> {
    Ok(Binding::part(&device.alloc(0, bytes + device.info().tensor_tail_pad)?, 0, bytes))
}

pub(crate) fn sum_graph() -> Graph {
    let mut graph = Graph::new();
    let desc = TensorDesc::new(DType::F32, &[N]).unwrap();
    let (a, b, y) = (graph.bind("a", desc.clone()), graph.bind("b", desc.clone()), graph.bind("y", desc));
    graph.add_into(Op::Add(NoAttrs {}), &[Some(a), Some(b)], &[y]).unwrap();
    graph
}

impl Sum {
    pub(crate) fn new(device: &dyn Device) -> Result<Sum> {
        let graph = sum_graph();
        let plan = device.plan(&graph)?;
        let bindings = (0..3).map(|_| alloc(device, 4 * N)).collect::<Result<Vec<_>>>()?;
        let workspace = alloc(device, plan.info().workspace_bytes)?;
        Ok(Sum { graph, plan, bindings, workspace })
    }

    /// Gives the operands 1 and 2, and executes.
    pub(crate) fn run(&self, stream: &mut dyn Stream) -> Result<()> {
        stream.upload(&self.bindings[0], &bytes_of(&[1.0; N]))?;
        stream.upload(&self.bindings[1], &bytes_of(&[2.0; N]))?;
        self.execute(stream)
    }

    pub(crate) fn execute(&self, stream: &mut dyn Stream) -> Result<()> {
        self.plan.execute(stream, &self.bindings, &self.workspace)
    }

    /// What the result holds.
    pub(crate) fn result(&self, stream: &mut dyn Stream) -> Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * N];
        stream.download(&mut bytes, &self.bindings[2])?;
        Ok(floats_of(&bytes))
    }
}
