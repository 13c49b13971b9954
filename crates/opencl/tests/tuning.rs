//! Products are right whatever sizes the environment forces, and a size is part of what a binary is kept by. Alone in its process: it
//! sets the environment.

mod rig;

use std::path::Path;
use std::sync::Arc;

use qiao_core::*;
use qiao_opencl::OpenClBackend;
use qiao_reference::Trial;
use qiao_reference::data::{block_bytes, to_bytes};
use rig::{Data, Maker, with};

/// Departures, each with the format of the weights that it is tried on.
const DEPARTURES: [(&str, DType); 3] = [
    (
        "processor=1,few_rows=2,few_columns=2,across_columns=64,many_rows=8,many_columns=16,many_inputs=64,block_rows=8,block_columns=2,shares=1",
        DType::BF16,
    ),
    ("processor=0,team=128,team_columns=4,team_lanes=2,tile=32,tile_inputs=64", DType::Q8_0),
    ("processor=0,team=32,team_columns=32,team_lanes=32,tile=128,tile_inputs=32", DType::F32),
];

fn open(departures: &str) -> Result<Arc<dyn Device>> {
    // SAFETY: the only test of this process; no other thread of it reads the environment.
    unsafe { std::env::set_var("QIAO_OPENCL_TUNING", departures) };
    OpenClBackend.open(0)
}

/// Keeps binaries in this folder, or none at all.
fn keep(folder: Option<&Path>) {
    // SAFETY: as in `open`.
    unsafe {
        std::env::set_var("QIAO_OPENCL_BINARIES", if folder.is_some() { "1" } else { "0" });
        if let Some(folder) = folder {
            std::env::set_var("QIAO_CACHE_DIR", folder);
        }
    }
}

fn scales(n: usize) -> Data {
    let data: Vec<f64> = (0..n).map(|i| 0.001 * (1 + i % 7) as f64).collect();
    (TensorDesc::new(DType::F32, &[n]).unwrap(), to_bytes(DType::F32, &data))
}

/// One row, few and many, beside weights of a format and codes; no size of a tile divides theirs.
fn trials(format: DType) -> Vec<Trial> {
    let (mut m, mut trials) = (Maker::new(91), Vec::new());
    for (rows, n, k) in [(1, 34, 96), (7, 34, 131), (41, 138, 1130)] {
        if format.is_activation() {
            let op = Op::Matmul(MatmulAttrs { trans_b: true, epilogue: Epilogue::SiluMul, ..Default::default() });
            trials.push(with(with(Trial::new(op), m.of(DType::F16, &[rows, k])), m.of(format, &[n, k])));
            let across = Trial::new(Op::Matmul(MatmulAttrs::default()));
            trials.push(with(with(across, m.of(DType::F16, &[rows, k])), m.of(format, &[k, n * 5])));
        } else {
            let a = m.of(DType::F16, &[rows, k / 32 * 32]);
            let trial = with(Trial::new(Op::MatmulQuant(MatmulQuantAttrs::default())), a);
            let weight = TensorDesc::new(format, &[n + 1, k / 32 * 32]).unwrap();
            trials.push(trial.input(weight, block_bytes(&mut m.rng, format, (n + 1) * (k / 32))));
        }
    }
    for (rows, n, k) in [(1, 17, 67), (11, 33, 300)].into_iter().filter(|_| format != DType::F32) {
        let trial = with(Trial::new(Op::ScaledMatmul(NoAttrs {})), m.bits(DType::I8, &[rows, k], 0));
        let trial = with(trial, m.bits(DType::I8, &[n, k], 0));
        trials.push(with(with(trial, scales(rows)), scales(n)));
    }
    trials
}

/// Binaries that are kept after one row was multiplied.
fn kept(folder: &Path, departures: &str) -> usize {
    let device = open(departures).unwrap();
    let mut m = Maker::new(92);
    let op = Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() });
    let trial = with(with(Trial::new(op), m.of(DType::F32, &[1, 8])), m.of(DType::F32, &[4, 8]));
    assert!(trial.check(&*device).unwrap().iter().all(|c| c.passes()));
    std::fs::read_dir(folder.join("opencl")).unwrap().count()
}

#[test]
fn products_are_right_whatever_sizes_are_forced() {
    if rig::devices() == 0 {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    keep(Some(folder.path()));
    let wrong = open("tile=48").map(|_| ()).unwrap_err().to_string();
    assert!(wrong.contains("'tile=48'") && wrong.contains("tile is one of 32, 64, 128"), "{wrong}");

    // A size that the kernel does not read makes no other program of it.
    let counts = ["processor=1,few_columns=2", "processor=1,few_columns=8", "processor=1,few_columns=8,many_rows=64"];
    assert_eq!(counts.map(|departures| kept(folder.path(), departures)), [1, 2, 2]);

    keep(None);
    let mut failures = Vec::new();
    for (departures, format) in DEPARTURES {
        let device = match open(departures) {
            Ok(device) => device,
            // Not every device has groups or local memory for the largest.
            Err(why) if why.to_string().contains("name a smaller") => {
                println!("skipped: {why}");
                continue;
            }
            Err(why) => panic!("{why}"),
        };
        for trial in trials(format) {
            let at = format!("{departures}: {}", trial.graph().unwrap().node(0));
            match trial.check(&*device) {
                Err(e) => failures.push(format!("{at}: {e}")),
                Ok(all) => failures.extend(all.iter().filter(|c| !c.passes()).map(|c| format!("{at}: {c:?}"))),
            }
        }
    }
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures[..failures.len().min(8)].join("\n"));
}
