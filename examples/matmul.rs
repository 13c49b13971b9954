//! One matrix product on a device, by hand, through the contract that every chip is met by.
//!
//! Run it:   cargo run --release -p qiao-examples --bin matmul -- cpu
//!
//! It shows, in order: a graph of one node; the device's answer, which may ask for the weights in a layout of its own;
//! packing them once; buffers, uploads, a plan, its execution; and the result beside a plain loop. The engine does
//! the same for every node of a model, by way of `qiao-layers`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::sync::Arc;

use qiao::core::{Binding, DType, Device, Graph, MatmulAttrs, Op, Stream, Support, TensorDesc};

const M: usize = 4;
const N: usize = 6;
const K: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "cpu".into());
    let device = qiao::registry().open(&name)?;
    println!("on {}", device.info().name);

    // c = a · bᵀ; b is a weight, so it is constant: the device may keep it in whatever layout is best.
    let mut graph = Graph::new();
    let a = graph.bind("a", TensorDesc::new(DType::F32, &[M, K])?);
    let b = graph.bind("b", TensorDesc::new(DType::F32, &[N, K])?.as_constant());
    let c = graph.bind("c", TensorDesc::new(DType::F32, &[M, N])?);
    let matmul = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    graph.add_into(matmul, &[Some(a), Some(b)], &[c])?;

    let x: Vec<f32> = (0..M * K).map(|i| i as f32 / 8.0 - 2.0).collect();
    let w: Vec<f32> = (0..N * K).map(|i| (i % 7) as f32 - 3.0).collect();
    let mut stream = device.stream()?;
    let mut bindings = vec![upload(&device, &mut *stream, &x)?, upload(&device, &mut *stream, &w)?];
    bindings.push(alloc(&device, M * N * 4)?);

    // The answer: native, native in another layout, or no with a reason.
    let answer = device.support(&graph).remove(0);
    println!("support: {:?} {}", answer.answer, answer.kernel);
    if let Support::Relayout { operand: 1, layout } = answer.answer {
        let plain = graph.desc(b).clone();
        let packed = alloc(&device, device.prepack_bytes(&plain, layout)?)?;
        device.prepack(&mut *stream, &plain, &bindings[1], layout, &packed)?;
        println!("packed b: {} bytes became {}", bindings[1].bytes, packed.bytes);
        bindings[1] = packed;
        graph.set_layout(b, layout)?;
    }

    let plan = device.plan(&graph)?;
    let workspace = alloc(&device, plan.info().workspace_bytes)?;
    plan.execute(&mut *stream, &bindings, &workspace)?;
    let mut bytes = vec![0; M * N * 4];
    stream.download(&mut bytes, &bindings[2])?;

    let got: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let want = |i: usize, j: usize| (0..K).map(|k| x[i * K + k] * w[j * K + k]).sum::<f32>();
    let worst = (0..M * N).map(|at| (got[at] - want(at / N, at % N)).abs()).fold(0.0, f32::max);
    for row in got.chunks(N) {
        println!("{row:8.3?}");
    }
    println!("largest difference from a plain loop: {worst:e}");
    if worst < 1e-4 { Ok(()) } else { Err("the device's product is wrong".into()) }
}

/// Memory of the device for a tensor, with the spare bytes that the device wants after each.
fn alloc(device: &Arc<dyn Device>, bytes: usize) -> qiao::core::Result<Binding> {
    let buffer = device.alloc(0, bytes + device.info().tensor_tail_pad)?;
    Ok(Binding::part(&buffer, 0, bytes))
}

fn upload(device: &Arc<dyn Device>, stream: &mut dyn Stream, values: &[f32]) -> qiao::core::Result<Binding> {
    let binding = alloc(device, values.len() * 4)?;
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    stream.upload(&binding, &bytes)?;
    Ok(binding)
}
