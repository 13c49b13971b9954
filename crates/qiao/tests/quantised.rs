//! What no kernel of the CPU does in one piece, it does in several: quantised products, lowered and held to their truth.

use std::sync::Arc;
use std::time::Duration;

use qiao_core::{
    Binding, DType, Device, Epilogue, Graph, MatmulQuantAttrs, Op, Plan, Result, Storage, TensorDesc, TensorId,
};
use qiao_layers::{Policy, lower};
use qiao_reference::data::{Fill, Rng, block_bytes, to_bytes, values};
use qiao_reference::{Trial, Value};

const M: usize = 3;
const N: usize = 20;
const K: usize = 256;

/// Operands of a quantised product: description and bytes.
type Operands = Vec<Option<(TensorDesc, Vec<u8>)>>;

fn floats(rng: &mut Rng, shape: &[usize]) -> Option<(TensorDesc, Vec<u8>)> {
    let desc = TensorDesc::new(DType::F32, shape).unwrap();
    let data = values(rng, Fill::Normal, DType::F32, desc.elements());
    Some((desc, to_bytes(DType::F32, &data)))
}

fn codes(rng: &mut Rng, dtype: DType, shape: &[usize]) -> Option<(TensorDesc, Vec<u8>)> {
    let desc = TensorDesc::new(dtype, shape).unwrap().as_constant();
    let bytes = (0..desc.bytes().unwrap()).map(|_| rng.bits() as u8).collect();
    Some((desc, bytes))
}

fn blocks(rng: &mut Rng, dtype: DType) -> Operands {
    let bytes = block_bytes(rng, dtype, N * K / dtype.block_elems());
    vec![floats(rng, &[M, K]), Some((TensorDesc::new(dtype, &[N, K]).unwrap().as_constant(), bytes))]
}

/// Lowers the operator onto a device, runs it and reads the result; also how many nodes were decomposed.
fn run(device: &Arc<dyn Device>, op: Op, operands: &Operands) -> Result<(Value, usize)> {
    let mut graph = Graph::new();
    let mut bytes = Vec::new();
    let mut ids: Vec<Option<TensorId>> = Vec::new();
    for operand in operands {
        ids.push(operand.as_ref().map(|(desc, data)| {
            bytes.push(data.clone());
            graph.bind(format!("operand {}", bytes.len()), desc.clone())
        }));
    }
    let out = graph.bind("c", TensorDesc::new(DType::F32, &[M, N])?);
    graph.add_into(op, &ids, &[out])?;
    let desc = graph.desc(out).clone();
    bytes.push(vec![0xa5; desc.bytes()?]);
    let plan = lower(device, graph, &Policy::DeviceOnly)?;
    assert!(plan.packs.is_empty(), "a decomposed product has no constant to pack");
    let mut stream = device.stream()?;
    let mut bindings = Vec::new();
    for data in &bytes {
        let binding = Binding::whole(device.alloc(0, data.len())?);
        stream.upload(&binding, data)?;
        bindings.push(binding);
    }
    let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes.max(1))?);
    plan.execute(&mut *stream, &bindings, &workspace)?;
    stream.sync(Duration::MAX)?;
    let Storage::Bound(position) = plan.graph.tensor(out).storage else { unreachable!("the result is bound") };
    let mut result = vec![0; desc.bytes()?];
    stream.download(&mut result, &bindings[position])?;
    Ok((Value::load(&desc, &result)?, plan.account.decomposed()))
}

fn check(op: Op, operands: Operands, what: &str) {
    let mut trial = Trial::new(op);
    for operand in &operands {
        trial = match operand {
            Some((desc, data)) => trial.input(desc.clone(), data.clone()),
            None => trial.without(),
        };
    }
    let golden = trial.golden(None).unwrap();
    let device = qiao::registry().open("cpu").unwrap();
    let (value, decomposed) = run(&device, op, &operands).unwrap();
    assert_eq!(decomposed, 1, "{what}: the CPU has no kernel for it in one piece");
    for comparison in golden.compare(&[value]) {
        assert!(comparison.passes(), "{what}: {comparison:?}");
    }
}

#[test]
fn every_block_format_multiplies_on_the_cpu() {
    let mut rng = Rng::new(41);
    for &dtype in DType::ALL.iter().filter(|d| d.is_block()) {
        let op = Op::MatmulQuant(MatmulQuantAttrs::default());
        check(op, blocks(&mut rng, dtype), dtype.name());
    }
}

#[test]
fn groups_with_and_without_zeros_multiply_on_the_cpu() {
    let mut rng = Rng::new(42);
    for dtype in [DType::I4, DType::U4, DType::I8, DType::U8] {
        for (group_size, zeros) in [(32, false), (128, true), (0, false)] {
            let groups = K.checked_div(group_size).unwrap_or(1);
            let op = Op::MatmulQuant(MatmulQuantAttrs { group_size: group_size as u32, ..Default::default() });
            let mut operands = vec![floats(&mut rng, &[M, K]), codes(&mut rng, dtype, &[N, K])];
            operands.push(floats(&mut rng, &[N, groups]));
            operands.push(if zeros { codes(&mut rng, DType::U8, &[N, groups]) } else { None });
            check(op, operands, &format!("{dtype} in groups of {group_size}, zeros {zeros}"));
        }
    }
}

#[test]
fn bias_and_residual_follow_a_quantised_product_on_the_cpu() {
    let mut rng = Rng::new(43);
    let op = Op::MatmulQuant(MatmulQuantAttrs { epilogue: Epilogue::BiasResidual, ..Default::default() });
    let mut operands = blocks(&mut rng, DType::Q4K);
    operands.extend([None, None, None, floats(&mut rng, &[N]), floats(&mut rng, &[M, N])]);
    check(op, operands, "q4_k with bias and residual");
}
