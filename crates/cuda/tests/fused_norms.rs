//! Norms that are quantised at once, beside the two nodes by themselves.

mod rig;

use std::time::Duration;

use qiao_core::*;
use rig::*;

const ATTRS: NormAttrs = NormAttrs { eps: 1e-5, weight_offset: 0, round_before_weight: false };

/// Plans a graph and runs it once: the bytes of every bound tensor afterwards, and those of the workspace.
fn run(graph: &Graph, bytes: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
    let device = device();
    let plan = device.plan(graph).unwrap();
    let mut stream = device.stream().unwrap();
    let bindings: Vec<Binding> = bytes.iter().map(|b| Binding::whole(device.alloc(0, b.len()).unwrap())).collect();
    bindings.iter().zip(bytes).for_each(|(binding, b)| stream.upload(binding, b).unwrap());
    let size = plan.info().workspace_bytes;
    let workspace = Binding::whole(device.alloc(0, size.max(1)).unwrap());
    plan.execute(&mut *stream, &bindings, &workspace).unwrap();
    stream.sync(Duration::MAX).unwrap();
    let mut read = |b: &Binding| {
        let mut out = vec![0; b.bytes];
        stream.download(&mut out, b).map(|()| out).unwrap()
    };
    (bindings.iter().map(&mut read).collect(), size)
}

/// The operands of a norm, and where its sum goes.
struct Operands {
    add: bool,
    all: Vec<Data>,
}

impl Operands {
    fn new(seed: u64, dtype: DType, rows: usize, cols: usize, add: bool) -> Self {
        let make = &mut Maker::new(seed);
        let mut all = vec![make.special(dtype, &[rows, cols]), make.of(dtype, &[cols])];
        if add {
            all.insert(1, make.of(dtype, &[rows, cols]));
        }
        Operands { add, all }
    }

    fn op(&self) -> Op {
        if self.add { Op::AddRmsNorm(ATTRS) } else { Op::RmsNorm(ATTRS) }
    }

    /// A graph of the norm; y is bound, or a temporary. With codes bound where asked for.
    fn graph(&self, bound_y: bool, codes: bool) -> (Graph, Vec<Vec<u8>>) {
        let mut graph = Graph::new();
        let mut bytes: Vec<Vec<u8>> = self.all.iter().map(|(_, b)| b.clone()).collect();
        let inputs: Vec<_> =
            self.all.iter().enumerate().map(|(i, (d, _))| Some(graph.bind(format!("in {i}"), d.clone()))).collect();
        let desc = &self.all[0].0;
        let mut outputs = Vec::new();
        if self.add {
            // The sum takes the place of the first operand.
            outputs.push(inputs[0].unwrap());
        }
        let y = if bound_y {
            bytes.push(vec![0xa5; desc.bytes().unwrap()]);
            graph.bind("y", desc.clone())
        } else {
            graph.temporary("y", desc.clone())
        };
        outputs.push(y);
        graph.add_into(self.op(), &inputs, &outputs).unwrap();
        if codes {
            let q = TensorDesc::new(DType::I8, &desc.shape).unwrap();
            let scale = TensorDesc::new(DType::F32, &desc.shape[..1]).unwrap();
            bytes.extend([&q, &scale].map(|d| vec![0xa5; d.bytes().unwrap()]));
            let to = [graph.bind("q", q), graph.bind("scale", scale)];
            graph.add_into(Op::QuantizeDynamic(NoAttrs {}), &[Some(y)], &to).unwrap();
        }
        (graph, bytes)
    }
}

#[test]
fn codes_are_those_of_the_norm_by_itself() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (rows, cols, add) in [(3, 97, true), (2, 1024, false), (1, 4096, true), (35, 1032, true), (2, 9001, false)]
        {
            let operands = Operands::new(21, dtype, rows, cols, add);
            let (graph, bytes) = operands.graph(true, false);
            let (norm, _) = run(&graph, &bytes);
            let y = norm.last().unwrap();
            let mut alone = Graph::new();
            let desc = operands.all[0].0.clone();
            let id = alone.bind("y", desc.clone());
            let q = alone.bind("q", TensorDesc::new(DType::I8, &desc.shape).unwrap());
            let scale = alone.bind("scale", TensorDesc::new(DType::F32, &[rows]).unwrap());
            alone.add_into(Op::QuantizeDynamic(NoAttrs {}), &[Some(id)], &[q, scale]).unwrap();
            let (codes, _) = run(&alone, &[y.clone(), vec![0xa5; rows * cols], vec![0xa5; rows * 4]]);
            for bound_y in [false, true] {
                let (graph, bytes) = operands.graph(bound_y, true);
                let (got, workspace) = run(&graph, &bytes);
                let at = format!("{dtype} {rows}×{cols}, add {add}, y bound {bound_y}");
                assert_eq!(workspace, 0, "{at}: nobody reads y, so that it has no memory");
                assert_eq!(got[..operands.all.len()], norm[..operands.all.len()], "{at}: the sum");
                assert_eq!(got[got.len() - 2..], codes[1..], "{at}: the codes");
                assert!(!bound_y || got[got.len() - 3] == *y, "{at}: y");
            }
        }
    }
}

#[test]
fn rows_longer_than_registers_stay_two_nodes() {
    let operands = Operands::new(22, DType::F16, 1, 16385, true);
    let (graph, bytes) = operands.graph(false, true);
    let (_, workspace) = run(&graph, &bytes);
    assert!(workspace >= 2 * 16385);
}

#[test]
fn what_stands_between_keeps_its_order() {
    let make = &mut Maker::new(23);
    let (desc, x) = make.of(DType::F16, &[3, 64]);
    let (q, scale) = (TensorDesc::new(DType::I8, &[3, 64]).unwrap(), TensorDesc::new(DType::F32, &[3]).unwrap());
    let mut graph = Graph::new();
    let ids = [&desc, &desc, &q, &scale].map(|d| graph.bind("t", d.clone()));
    let y = graph.temporary("y", desc.clone());
    graph.add_into(Op::RmsNorm(ATTRS), &[Some(ids[0])], &[y]).unwrap();
    // The norm's operand is written before its codes are made.
    graph.add_into(Op::Relu(NoAttrs {}), &[Some(ids[1])], &[ids[0]]).unwrap();
    graph.add_into(Op::QuantizeDynamic(NoAttrs {}), &[Some(y)], &[ids[2], ids[3]]).unwrap();
    let zeros = vec![0; x.len()];
    let (got, workspace) = run(&graph, &[x.clone(), zeros.clone(), vec![0; 192], vec![0; 12]]);
    assert!(workspace > 0);
    assert_eq!(got[0], zeros);
    assert!(got[3].chunks(4).all(|s| f32::from_ne_bytes(s.try_into().unwrap()) > 0.0), "the codes are those of x");
}
