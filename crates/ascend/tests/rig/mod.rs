//! What the tests share: the backend over the simulated AscendCL, and sums to run.
#![allow(dead_code, reason = "each test file uses a part")]

use std::sync::Arc;
use std::time::Duration;

use qiao_ascend::AscendBackend;
use qiao_core::*;
use qiao_simascend::{Card, install};

/// Long enough for whatever ends at all.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// The simulated library.
pub(crate) fn card() -> &'static Card {
    install()
}

/// The backend over it.
pub(crate) fn backend() -> AscendBackend {
    AscendBackend::with_libraries(card().folder())
}

/// Its first device.
pub(crate) fn open() -> Arc<dyn Device> {
    backend().open(0).unwrap()
}

/// `y = a + a + …`, each step a node.
pub(crate) fn chain(steps: usize) -> Graph {
    let mut g = Graph::new();
    let desc = TensorDesc::new(DType::F32, &[64]).unwrap();
    let (a, y) = (g.bind("a", desc.clone()), g.bind("y", desc));
    let mut x = a;
    for _ in 1..steps {
        x = g.op1(Op::Add(NoAttrs {}), &[x, a]).unwrap();
    }
    g.add_into(Op::Add(NoAttrs {}), &[Some(x), Some(a)], &[y]).unwrap();
    g
}

/// A graph bound to buffers of its own.
pub(crate) struct Run {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) bindings: Vec<Binding>,
    pub(crate) workspace: Binding,
}

impl Run {
    /// Buffers for a chain, whose first tensor is all ones.
    pub(crate) fn new(device: &dyn Device, graph: &Graph, plan: &dyn Plan) -> Result<Run> {
        let mut run = Run::bind(device, graph, plan)?;
        let ones: Vec<u8> = [1f32; 64].iter().flat_map(|v| v.to_le_bytes()).collect();
        run.stream.upload(&run.bindings[0].clone(), &ones)?;
        Ok(run)
    }

    /// Buffers for a graph.
    pub(crate) fn bind(device: &dyn Device, graph: &Graph, plan: &dyn Plan) -> Result<Run> {
        let stream = device.stream()?;
        let pad = device.info().tensor_tail_pad;
        let bindings: Vec<Binding> = graph
            .bound()
            .iter()
            .map(|&id| {
                let bytes = graph.desc(id).bytes()?;
                Ok(Binding::part(&device.alloc(0, bytes + pad)?, 0, bytes))
            })
            .collect::<Result<_>>()?;
        let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes)?);
        Ok(Run { stream, bindings, workspace })
    }

    pub(crate) fn execute(&mut self, plan: &dyn Plan) -> Result<()> {
        plan.execute(&mut *self.stream, &self.bindings, &self.workspace)
    }

    /// The last tensor, as f32.
    pub(crate) fn floats(&mut self) -> Result<Vec<f32>> {
        let from = self.bindings.last().expect("a graph binds something").clone();
        let mut bytes = vec![0; from.bytes];
        self.stream.download(&mut bytes, &from)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}
