//! Scratch: a plan asks for none in proportion to a row that can be taken in pieces, on however many threads.

use qiao_core::*;
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_reference::Trial;

/// Bytes of the workspace of one operator on 16 threads.
fn workspace(trial: Trial) -> usize {
    let device = CpuDevice::with(&CpuOptions { threads: Some(16), ..Default::default() }).unwrap();
    device.plan(&trial.graph().unwrap()).unwrap().info().workspace_bytes
}

/// An operand of zeros.
fn with(trial: Trial, dtype: DType, shape: &[usize], strides: &[usize]) -> Trial {
    let desc = TensorDesc::strided(dtype, shape, strides).unwrap();
    let bytes = vec![0; desc.bytes().unwrap()];
    trial.input(desc, bytes)
}

#[test]
fn long_rows_take_no_more_scratch_than_short_ones() {
    let n = 1 << 20;
    let floats = [DType::F32, DType::F16, DType::BF16];
    let mut trials = Vec::new();
    for dtype in floats {
        let add = || with(Trial::new(Op::Add(NoAttrs {})), dtype, &[1, n], &[n, 1]);
        trials.push(with(add(), dtype, &[1], &[1]));
        trials.push(with(add(), dtype, &[1, n], &[n, 1]));
        trials.push(with(add(), DType::F32, &[n], &[0]));
        let rows = with(Trial::new(Op::Mul(NoAttrs {})), dtype, &[2, n / 2], &[n / 2, 1]);
        trials.push(with(rows, DType::F32, &[n / 2], &[1]));
        trials.push(with(Trial::new(Op::Exp(NoAttrs {})), dtype, &[1, n], &[n, 2]));
        for to in [DType::I32, DType::F64, DType::F8E4M3] {
            trials.push(with(Trial::new(Op::Cast(NoAttrs {})), dtype, &[n], &[1]).output_dtype(to));
        }
    }
    trials.push(with(Trial::new(Op::Cast(NoAttrs {})), DType::I64, &[n], &[1]).output_dtype(DType::F32));
    let sum = ReduceAttrs { kind: ReduceKind::Sum, axis: 1, keep_dim: false };
    trials.push(with(Trial::new(Op::Reduce(sum)), DType::F32, &[1, n], &[n, 1]));
    // A length that has no divisors.
    trials.push(with(Trial::new(Op::Tanh(NoAttrs {})), DType::F32, &[1, 1_000_003], &[1_000_003, 1]));
    for trial in trials {
        let graph = trial.graph().unwrap().to_string();
        let bytes = workspace(trial);
        assert!(bytes <= 16 * 3 * 4096 + 4096, "{bytes} bytes for {graph}");
    }
}
