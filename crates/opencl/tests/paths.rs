//! Every path through kernels that only some devices can take, forced on a device that has it, beside the truth.
//!
//! A path that the device lacks is skipped by name; `QIAO_REQUIRE_OPENCL_PATHS=1` makes that a failure.

mod rig;

use std::sync::Arc;

use qiao_core::*;
use qiao_opencl::OpenClBackend;
use qiao_reference::Trial;
use qiao_reference::data::{block_bytes, to_bytes};
use rig::{Data, FLOATS, Maker, with};

const PATHS: [&str; 5] = ["plain", "subgroups", "fp16", "dot", "subgroups,fp16,dot"];

/// The first device as a chip that runs the items of a group side by side, with these paths and no other.
fn open(paths: &str) -> Result<Arc<dyn Device>> {
    // SAFETY: this is the only test of its process, and reads the environment on this thread alone.
    unsafe {
        std::env::set_var("QIAO_OPENCL_TUNING", "processor=0,walk=64,rows=64");
        std::env::set_var("QIAO_OPENCL_PATHS", paths);
    }
    OpenClBackend.open(0)
}

fn scales(n: usize) -> Data {
    let data: Vec<f64> = (0..n).map(|i| 0.001 * (1 + i % 7) as f64).collect();
    (TensorDesc::new(DType::F32, &[n]).unwrap(), to_bytes(DType::F32, &data))
}

fn trials() -> Vec<Trial> {
    let mut m = Maker::new(81);
    let mut trials = Vec::new();
    for (i, dtype) in FLOATS.into_iter().enumerate() {
        for epilogue in [Epilogue::None, Epilogue::SiluMul] {
            let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue, ..Default::default() });
            for (rows, n, k) in [(1, 18, 131 + i), (5, 34, 1056), (9, 66, 40)] {
                trials.push(with(with(Trial::new(op), m.of(dtype, &[rows, k])), m.of(dtype, &[n, k])));
            }
        }
        trials.push(with(Trial::new(Op::Silu(NoAttrs {})), m.special(dtype, &[3, 67])));
        for op in [Op::Add(NoAttrs {}), Op::Sub(NoAttrs {}), Op::Mul(NoAttrs {}), Op::Div(NoAttrs {})] {
            trials.push(with(with(Trial::new(op), m.wide(dtype, &[2, 1031])), m.special(dtype, &[2, 1031])));
        }
        // Rows that a whole group joins, and rows of which several share one.
        for cols in [100, 3000] {
            let reduce = ReduceAttrs { kind: ReduceKind::Mean, axis: 1, keep_dim: false };
            trials.push(with(Trial::new(Op::Reduce(reduce)), m.of(dtype, &[5, cols])));
            let norm = NormAttrs { eps: 1e-5, ..NormAttrs::default() };
            trials.push(with(with(Trial::new(Op::RmsNorm(norm)), m.of(dtype, &[5, cols])), m.of(dtype, &[cols])));
            trials.push(with(Trial::new(Op::Softmax(SoftmaxAttrs::default())), m.of(dtype, &[5, cols])));
        }
    }
    let (a, w) = (m.of(DType::F16, &[2, 512]), TensorDesc::new(DType::Q4K, &[19, 512]).unwrap());
    let bytes = block_bytes(&mut m.rng, DType::Q4K, 38);
    trials.push(with(Trial::new(Op::MatmulQuant(MatmulQuantAttrs::default())), a).input(w, bytes));
    for (rows, n, k) in [(1, 17, 67), (8, 33, 512), (11, 9, 4100)] {
        let trial = with(Trial::new(Op::ScaledMatmul(NoAttrs {})), m.bits(DType::I8, &[rows, k], 0));
        let trial = with(trial, m.bits(DType::I8, &[n, k], 0));
        trials.push(with(with(trial, scales(rows)), scales(n)));
    }
    trials
}

#[test]
fn every_path_is_within_its_limits() {
    if rig::devices() == 0 {
        return;
    }
    let required = std::env::var("QIAO_REQUIRE_OPENCL_PATHS").is_ok_and(|v| v == "1");
    let trials = trials();
    let mut failures = Vec::new();
    for paths in PATHS {
        let device = match open(paths) {
            Ok(device) => device,
            Err(why) if required => panic!("{paths}: {why}"),
            Err(why) => {
                println!("skipped: {paths}: {why}");
                continue;
            }
        };
        let arch = device.info().arch.clone();
        assert!(arch.ends_with(&paths.replace(',', "+")), "{paths}: {arch}");
        for trial in &trials {
            let at = format!("{paths}: {}", trial.graph().unwrap().node(0));
            match trial.check(&*device) {
                Err(e) => failures.push(format!("{at}: {e}")),
                Ok(all) => failures.extend(all.iter().filter(|c| !c.passes()).map(|c| format!("{at}: {c:?}"))),
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(8)].join("\n"));
}
