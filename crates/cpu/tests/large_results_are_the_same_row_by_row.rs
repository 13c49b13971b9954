//! Results too large for the caches are written past them: every row has the bits that it has in a small result.

mod trials;

use qiao_core::*;
use qiao_cpu::{CpuDevice, CpuOptions};
use trials::{Data, Maker, run};

/// An odd width, whose rows start anywhere in a cache line, and one whose rows start on lines.
const WIDTHS: [usize; 2] = [1031, 1024];

/// Bytes of a large result.
const BYTES: usize = 33 << 20;

/// The operator on operands of these dtypes, `[rows, width]` each, then weights of one row; the bytes of its results.
fn results(
    op: &Op,
    large: &[Data],
    (rows, width): (std::ops::Range<usize>, usize),
    weights: &[Data],
    out: &[DType],
) -> Vec<Vec<u8>> {
    let device = CpuDevice::with(&CpuOptions { isa: None, threads: Some(3), ..Default::default() }).unwrap();
    let (mut g, mut bytes, mut operands) = (Graph::new(), Vec::new(), Vec::new());
    let desc = |dtype| TensorDesc::new(dtype, &[rows.len(), width]).unwrap();
    for (of, data) in large {
        let row = width * of.dtype.block_bytes();
        bytes.push(data[rows.start * row..rows.end * row].to_vec());
        operands.push(Some(g.bind(format!("t{}", bytes.len()), desc(of.dtype))));
    }
    for (of, data) in weights {
        bytes.push(data.clone());
        operands.push(Some(g.bind(format!("t{}", bytes.len()), of.clone())));
    }
    let first = bytes.len();
    let mut made = Vec::new();
    for &dtype in out {
        bytes.push(vec![0; desc(dtype).bytes().unwrap()]);
        made.push(g.bind(format!("t{}", bytes.len()), desc(dtype)));
    }
    g.add_into(*op, &operands, &made).unwrap();
    run(&device, &g, &bytes).unwrap().split_off(first)
}

fn check(op: Op, inputs: &[DType], weights: usize, out: &[DType]) {
    for width in WIDTHS {
        check_rows(op, inputs, weights, out, width);
    }
}

fn check_rows(op: Op, inputs: &[DType], weights: usize, out: &[DType], width: usize) {
    let rows = BYTES / out[0].block_bytes() / width;
    let mut m = Maker::new(11);
    let block = inputs.iter().map(|&d| m.of(d, &[257, width])).collect::<Vec<_>>();
    // Random rows, repeated: enough to tell a row from its neighbours.
    let large: Vec<Data> =
        block.into_iter().map(|(d, b)| (d, b.iter().copied().cycle().take(b.len() / 257 * rows).collect())).collect();
    let weights: Vec<Data> = (0..weights).map(|_| m.of(inputs[0], &[width])).collect();
    let whole = results(&op, &large, (0..rows, width), &weights, out);
    for part in [0..5, rows / 2..rows / 2 + 3, rows - 4..rows] {
        let small = results(&op, &large, (part.clone(), width), &weights, out);
        for ((whole, small), dtype) in whole.iter().zip(&small).zip(out) {
            let row = width * dtype.block_bytes();
            assert!(
                whole[part.start * row..part.end * row] == small[..],
                "{op:?} {inputs:?} -> {out:?}, rows {part:?} of {width}"
            );
        }
    }
}

#[test]
fn large_results_are_the_same_row_by_row() {
    let norm = NormAttrs { eps: 1e-5, ..Default::default() };
    let (f32, bf16, f16) = (DType::F32, DType::BF16, DType::F16);
    check(Op::Copy(NoAttrs {}), &[f32], 0, &[f32]);
    check(Op::Cast(NoAttrs {}), &[f16], 0, &[f32]);
    check(Op::Cast(NoAttrs {}), &[f32], 0, &[f16]);
    check(Op::Add(NoAttrs {}), &[bf16, bf16], 0, &[bf16]);
    check(Op::Relu(NoAttrs {}), &[f16], 0, &[f16]);
    check(Op::SiluMul(SiluMulAttrs::default()), &[f32, f32], 0, &[f32]);
    check(Op::RmsNorm(norm), &[bf16], 1, &[bf16]);
    check(Op::AddRmsNorm(norm), &[f32, f32], 1, &[f32, f32]);
    check(Op::AddRmsNorm(norm), &[bf16, bf16], 1, &[bf16, bf16]);
    check(Op::LayerNorm(Default::default()), &[f16], 2, &[f16]);
    check(Op::Softmax(SoftmaxAttrs::default()), &[f32], 0, &[f32]);
    check(Op::Softmax(SoftmaxAttrs::default()), &[bf16], 0, &[bf16]);
}
