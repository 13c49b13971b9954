//! One operator at one shape, as it is measured: operands, exact cost, and samples of it that are small enough for the truth.

use qiao_core::{Cost, DType, Graph, Op, Result, TensorDesc, TensorId};
use qiao_reference::Trial;

use super::source::{Axes, Operand};
use crate::make::Data;

/// What stands for an operand in a sample.
#[derive(Clone, Debug)]
pub(crate) enum Pick {
    /// The part of it along these axes; all of it where there are none.
    Take(Axes),
    /// Something else: ids and lengths that fit the part.
    Give(Data),
}

/// A smaller operator whose results are a part of the measured one's.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// For each operand.
    pub(crate) operands: Vec<Pick>,
    /// For each output, the part of the measured one's that it equals.
    pub(crate) outputs: Vec<Axes>,
}

/// One operator at one shape.
#[derive(Clone, Debug)]
pub(crate) struct Work {
    /// The operator.
    pub(crate) op: Op,
    /// Its operands; `None` where one is left out.
    pub(crate) operands: Vec<Option<Operand>>,
    /// The dtype of the first output, where it is not the operator's own choice.
    pub(crate) out: Option<DType>,
    /// What it costs, where the op list only knows an upper bound because the work depends on values.
    pub(crate) cost: Option<Cost>,
    /// What is compared with the truth.
    pub(crate) samples: Vec<Sample>,
}

/// The graph of one node with everything bound.
#[derive(Clone, Debug)]
pub(crate) struct Bound {
    /// The graph.
    pub(crate) graph: Graph,
    /// For each bound tensor the operand that it is; `None` for an output of its own.
    pub(crate) operand: Vec<Option<usize>>,
    /// For each output its position among the bound tensors.
    pub(crate) outputs: Vec<usize>,
}

impl Bound {
    /// What a bound tensor is.
    pub(crate) fn desc(&self, position: usize) -> &TensorDesc {
        self.graph.desc(self.graph.bound()[position])
    }
}

impl Work {
    /// The graph: operands first, then the outputs that are not written in place of one.
    ///
    /// # Errors
    /// Operands that the operator refuses.
    pub(crate) fn bind(&self) -> Result<Bound> {
        let mut graph = Graph::new();
        let mut operand = Vec::new();
        let mut inputs: Vec<Option<TensorId>> = Vec::new();
        for (index, given) in self.operands.iter().enumerate() {
            inputs.push(given.as_ref().map(|o| {
                operand.push(Some(index));
                graph.bind(format!("{}.{index}", self.op.kind()), o.desc.clone())
            }));
        }
        let mut sketch = graph.clone();
        let sketched = match self.out {
            Some(dtype) => sketch.add_as(self.op, &inputs, dtype)?,
            None => sketch.add(self.op, &inputs)?,
        };
        let mut written = Vec::with_capacity(sketched.len());
        for id in sketched {
            written.push(if inputs.contains(&Some(id)) {
                id
            } else {
                operand.push(None);
                graph.bind(format!("{}.out", self.op.kind()), sketch.desc(id).clone())
            });
        }
        graph.add_into(self.op, &inputs, &written)?;
        let position = |id: &TensorId| graph.bound().iter().position(|b| b == id).expect("outputs are bound");
        let outputs = written.iter().map(position).collect();
        Ok(Bound { graph, operand, outputs })
    }

    /// What it costs.
    pub(crate) fn cost(&self, bound: &Bound) -> Cost {
        self.cost.unwrap_or_else(|| bound.graph.cost())
    }

    /// A sample as a trial.
    ///
    /// # Errors
    /// A sample that is no part of the operator.
    pub(crate) fn trial(&self, sample: &Sample) -> Result<Trial> {
        let mut trial = Trial::new(self.op);
        for (operand, pick) in self.operands.iter().zip(&sample.operands) {
            trial = match (operand, pick) {
                (None, _) => trial.without(),
                (Some(operand), Pick::Take(axes)) => {
                    let (desc, bytes) = operand.take(axes)?;
                    trial.input(desc, bytes)
                }
                (Some(_), Pick::Give((desc, bytes))) => trial.input(desc.clone(), bytes.clone()),
            };
        }
        Ok(match self.out {
            Some(dtype) => trial.output_dtype(dtype),
            None => trial,
        })
    }
}
