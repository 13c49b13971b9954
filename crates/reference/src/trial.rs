//! One operator with its operands: run on any device, or asked of the truth.

use std::time::Duration;

use qiao_core::{Binding, DType, Device, Error, Graph, Op, OpKind, Result, Support, TensorDesc, TensorId};

use crate::compare::{Comparison, compare};
use crate::data::to_bytes;
use crate::tolerance;
use crate::truth;
use crate::value::{Output, Value};

/// An operator and its operands. Outputs are bound, so that they can be read back.
#[derive(Clone, Debug)]
pub struct Trial {
    op: Op,
    inputs: Vec<Option<(TensorDesc, Vec<u8>)>>,
    dtype: Option<DType>,
    shape: Option<Vec<usize>>,
    strides: Option<Vec<usize>>,
    in_place: Option<(usize, usize)>,
}

/// What the truth says about a trial.
#[derive(Clone, Debug)]
pub struct Golden {
    /// The outputs, rounded to their dtypes, row-major.
    pub outputs: Vec<Value>,
    /// The dtype of each output.
    pub dtypes: Vec<DType>,
    /// The limit of each element of each output.
    pub limits: Vec<Vec<f64>>,
    /// The bytes of each output, row-major, where the operator only moves elements: there even the sign of a zero and the
    /// payload of a NaN are the operand's.
    pub bytes: Vec<Option<Vec<u8>>>,
}

/// A graph of one node with everything bound.
#[derive(Clone, Debug)]
pub struct Built {
    /// The graph.
    pub graph: Graph,
    /// What every bound tensor holds before the node runs, in binding order; [`POISON`] in outputs.
    pub bytes: Vec<Vec<u8>>,
    /// The outputs of the node.
    pub outputs: Vec<TensorId>,
}

impl Built {
    /// The positions of the outputs among the bound tensors.
    pub fn written(&self) -> Vec<usize> {
        let position = |id: &TensorId| self.graph.bound().iter().position(|b| b == id).expect("outputs are bound");
        self.outputs.iter().map(position).collect()
    }
}

/// What outputs hold before they are written.
pub const POISON: u8 = 0xa5;

impl Trial {
    /// An operator without operands yet.
    pub fn new(op: Op) -> Self {
        Trial { op, inputs: Vec::new(), dtype: None, shape: None, strides: None, in_place: None }
    }

    /// Adds the next operand, described and as bytes.
    pub fn input(mut self, desc: TensorDesc, bytes: Vec<u8>) -> Self {
        self.inputs.push(Some((desc, bytes)));
        self
    }

    /// Adds the next operand as values, rounded to a dtype that is not packed.
    ///
    /// # Panics
    /// The shape is no tensor's.
    pub fn values(self, dtype: DType, shape: &[usize], data: &[f64]) -> Self {
        let desc = TensorDesc::new(dtype, shape).expect("a trial's shapes are small");
        self.input(desc, to_bytes(dtype, data))
    }

    /// Leaves the next optional operand out.
    pub fn without(mut self) -> Self {
        self.inputs.push(None);
        self
    }

    /// Asks for the first output in another dtype.
    pub fn output_dtype(mut self, dtype: DType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// Gives the shape of the output, for an operator whose shape follows from no operand.
    pub fn output_shape(mut self, shape: &[usize]) -> Self {
        self.shape = Some(shape.to_vec());
        self
    }

    /// Gives every output of so many axes these strides, in elements.
    pub fn output_strides(mut self, strides: &[usize]) -> Self {
        self.strides = Some(strides.to_vec());
        self
    }

    /// Writes an output in place of an operand, where the operator allows that.
    pub fn in_place(mut self, output: usize, input: usize) -> Self {
        self.in_place = Some((output, input));
        self
    }

    /// The operator.
    pub fn op(&self) -> Op {
        self.op
    }

    /// The same operands under another operator, or under other attributes.
    pub fn with_op(self, op: Op) -> Self {
        Trial { op, ..self }
    }

    /// The operands, described and as bytes; `None` where one is left out.
    pub fn operands(&self) -> &[Option<(TensorDesc, Vec<u8>)>] {
        &self.inputs
    }

    /// The same trial with the constant operands of another one.
    pub fn with_constants_of(mut self, other: &Trial) -> Self {
        for (mine, theirs) in self.inputs.iter_mut().zip(&other.inputs) {
            if let (Some((desc, bytes)), Some((same, constant))) = (mine, theirs)
                && desc == same
                && desc.constant
            {
                bytes.clone_from(constant);
            }
        }
        self
    }

    fn output_desc(&self, desc: TensorDesc) -> Result<TensorDesc> {
        match &self.strides {
            Some(strides) if desc.rank() == strides.len() => TensorDesc::strided(desc.dtype, &desc.shape, strides),
            _ => Ok(desc),
        }
    }

    /// The graph of one node, every tensor bound: inputs first, then outputs.
    ///
    /// # Errors
    /// Operands that the operator refuses.
    pub fn build(&self) -> Result<Built> {
        let mut graph = Graph::new();
        let mut bytes = Vec::new();
        let mut bind = |graph: &mut Graph, desc: &TensorDesc, data: Vec<u8>| {
            bytes.push(data);
            graph.bind(format!("{}.{}", self.op.kind(), bytes.len() - 1), desc.clone())
        };
        let inputs: Vec<Option<TensorId>> =
            self.inputs.iter().map(|i| i.as_ref().map(|(desc, data)| bind(&mut graph, desc, data.clone()))).collect();
        let mut outputs = Vec::new();
        if let Some(shape) = &self.shape {
            let desc = self.output_desc(TensorDesc::new(self.dtype.unwrap_or(DType::F32), shape)?)?;
            let poison = vec![POISON; desc.bytes()?];
            outputs.push(bind(&mut graph, &desc, poison));
        } else {
            let mut sketch = graph.clone();
            let sketched = match self.dtype {
                Some(dtype) => sketch.add_as(self.op, &inputs, dtype)?,
                None => sketch.add(self.op, &inputs)?,
            };
            for (i, id) in sketched.into_iter().enumerate() {
                let operand = self.in_place.filter(|&(output, _)| output == i).and_then(|(_, input)| inputs[input]);
                if let Some(operand) = operand {
                    outputs.push(operand);
                } else if inputs.contains(&Some(id)) {
                    outputs.push(id);
                } else {
                    let desc = self.output_desc(sketch.desc(id).clone())?;
                    let poison = vec![POISON; desc.bytes()?];
                    outputs.push(bind(&mut graph, &desc, poison));
                }
            }
        }
        graph.add_into(self.op, &inputs, &outputs)?;
        Ok(Built { graph, bytes, outputs })
    }

    /// The graph of one node, every tensor bound: inputs first, then outputs.
    ///
    /// # Errors
    /// Operands that the operator refuses.
    pub fn graph(&self) -> Result<Graph> {
        self.build().map(|b| b.graph)
    }

    /// Runs the trial on a device and reads every output, row-major.
    ///
    /// # Errors
    /// Operands that the operator refuses; the device's own errors; a device that changes an input.
    pub fn run(&self, device: &dyn Device) -> Result<Vec<Value>> {
        let mut built = self.build()?;
        let mut stream = device.stream()?;
        let (align, pad) = (device.info().tensor_align.max(1), device.info().tensor_tail_pad);
        let alloc = |bytes: usize| -> Result<Binding> {
            let size = bytes.saturating_add(pad).max(1).next_multiple_of(align);
            Ok(Binding { bytes, ..Binding::whole(device.alloc(0, size)?) })
        };
        let mut bindings = built.bytes.iter().map(|b| alloc(b.len())).collect::<Result<Vec<_>>>()?;
        for (binding, bytes) in bindings.iter().zip(&built.bytes) {
            stream.upload(binding, bytes)?;
        }
        // Constants that the device wants in layouts of its own are packed first, one by one, as a loader would.
        let mut packed = Vec::new();
        while let Some(Support::Relayout { operand, layout }) = device.support(&built.graph).first().map(|s| &s.answer)
        {
            let id = built.graph.nodes()[0].inputs[*operand].expect("a device asks for operands that are given");
            let position = built.graph.bound().iter().position(|b| *b == id).expect("operands are bound");
            if packed.contains(&position) {
                let why = format!("it asks for operand {operand} in layout {layout:#x} twice");
                return Err(Error::internal(format!("{} on {}", self.op, device.info().name), why));
            }
            let desc = built.graph.desc(id).clone();
            let target = alloc(device.prepack_bytes(&desc, *layout)?)?;
            device.prepack(&mut *stream, &desc, &bindings[position], *layout, &target)?;
            bindings[position] = target;
            built.graph.set_layout(id, *layout)?;
            packed.push(position);
        }
        let plan = device.plan(&built.graph)?;
        let workspace = alloc(plan.info().workspace_bytes)?;
        plan.execute(&mut *stream, &bindings, &workspace)?;
        stream.sync(Duration::MAX)?;
        let mut after = Vec::new();
        for (position, (binding, before)) in bindings.iter().zip(&built.bytes).enumerate() {
            let mut bytes = vec![0; binding.bytes];
            stream.download(&mut bytes, binding)?;
            if !packed.contains(&position) && !built.graph.writes_bound(position) && bytes != *before {
                let why = format!("operand {position} was changed");
                return Err(Error::internal(format!("{} on {}", self.op, device.info().name), why));
            }
            after.push(bytes);
        }
        let position = |id: &TensorId| built.graph.bound().iter().position(|b| b == id).expect("outputs are bound");
        built.outputs.iter().map(|id| Value::load(built.graph.desc(*id), &after[position(id)])).collect()
    }

    /// What the truth says, for a kernel that rounds activations to `act` first where it does.
    ///
    /// # Errors
    /// Operands that the operator refuses, or data that breaks its meaning.
    pub fn golden(&self, act: Option<DType>) -> Result<Golden> {
        let built = self.build()?;
        let node = built.graph.node(0);
        let operands: Vec<Option<&[u8]>> =
            self.inputs.iter().map(|i| i.as_ref().map(|(_, bytes)| &bytes[..])).collect();
        let truth = truth::eval(node, &operands)?;
        let limits = tolerance::limits(node, &operands, &truth, act)?;
        let mut golden = Golden { outputs: Vec::new(), dtypes: Vec::new(), limits, bytes: Vec::new() };
        for (output, &id) in truth.iter().zip(&built.outputs) {
            let position = built.graph.bound().iter().position(|b| *b == id).expect("outputs are bound");
            let desc = built.graph.desc(id);
            golden.outputs.push(output.rounded(desc, &built.bytes[position])?);
            golden.dtypes.push(desc.dtype);
            golden.bytes.push(match output {
                // A row that no id names is NaN, and any NaN will do.
                Output::Exact(bytes) if node.kind() != OpKind::GatherRows => Some(bytes.clone()),
                _ => None,
            });
        }
        Ok(golden)
    }

    /// Runs the trial on a device and compares every output with the truth.
    ///
    /// # Errors
    /// As [`Trial::run`] and [`Trial::golden`].
    pub fn check(&self, device: &dyn Device) -> Result<Vec<Comparison>> {
        let act = device.support(&self.graph()?).first().and_then(|s| s.act_dtype);
        Ok(self.golden(act)?.compare(&self.run(device)?))
    }
}

impl Golden {
    /// Compares results, row-major, with every output.
    ///
    /// # Panics
    /// Another number of outputs or elements.
    pub fn compare(&self, got: &[Value]) -> Vec<Comparison> {
        assert_eq!(got.len(), self.outputs.len(), "as many results as outputs");
        let each = got.iter().zip(&self.outputs).zip(&self.dtypes).zip(&self.limits);
        each.map(|(((got, golden), &dtype), limits)| compare(dtype, &got.data, &golden.data, limits)).collect()
    }
}
