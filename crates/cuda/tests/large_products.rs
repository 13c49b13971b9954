//! Large products by cuBLASLt, whose place a library of the simulated card takes: how it is asked, and what follows.

mod rig;

use std::time::Duration;

use qiao_core::*;
use qiao_cuda::CudaBackend;
use qiao_reference::Trial;
use qiao_simcuda::Alone;
use rig::{Maker, with};

fn card() -> Alone<'static> {
    let card = qiao_simcuda::install();
    card.install_blas();
    card.alone()
}

fn matmul(trans_b: bool, epilogue: Epilogue) -> Op {
    Op::Matmul(MatmulAttrs { trans_b, epilogue, ..Default::default() })
}

/// Products of 128 rows, with what may follow.
fn trials(m: &mut Maker, dtype: DType) -> Vec<Trial> {
    let (rows, n, k) = (128, 256, 128);
    let mut all = Vec::new();
    for trans_b in [true, false] {
        let b = if trans_b { [n, k] } else { [k, n] };
        let plain =
            |m: &mut Maker, e| with(with(Trial::new(matmul(trans_b, e)), m.of(dtype, &[rows, k])), m.of(dtype, &b));
        all.push(plain(m, Epilogue::None));
        all.push(plain(m, Epilogue::None).output_dtype(DType::F32));
        all.push(with(plain(m, Epilogue::Bias), m.of(DType::F32, &[n])));
        all.push(with(plain(m, Epilogue::BiasResidual).without(), m.of(dtype, &[rows, n])));
        all.push(with(plain(m, Epilogue::BiasResidual).without(), m.of(DType::F32, &[rows, n])));
        all.push(with(with(plain(m, Epilogue::BiasResidual), m.of(dtype, &[n])), m.of(dtype, &[rows, n])));
        all.push(with(plain(m, Epilogue::SiluMul), m.of(dtype, &[n])));
        all.push(plain(m, Epilogue::Gelu));
        // Rows with gaps.
        let wide = TensorDesc::strided(dtype, &[rows, k], &[k + 24, 1]).unwrap();
        let a = m.fill(qiao_reference::data::Fill::Normal, wide);
        let strided = with(with(Trial::new(matmul(trans_b, Epilogue::None)), a), m.of(dtype, &b));
        all.push(strided.output_strides(&[n + 8, 1]));
    }
    all
}

#[test]
fn large_products_are_the_librarys_and_right() {
    let (card, mut m) = (card(), Maker::new(1));
    let device = CudaBackend.open(0).unwrap();
    for (dtype, all) in [(DType::F16, 4), (DType::BF16, usize::MAX)] {
        for (i, trial) in trials(&mut m, dtype).iter().take(all).enumerate() {
            let before = card.calls("cublasLtMatmul");
            let all = trial.check(&*device).unwrap_or_else(|e| panic!("trial {i}: {e} {:?}", card.fault()));
            assert!(all.iter().all(|c| c.passes()), "trial {i}: {} {all:?}", trial.build().unwrap().graph);
            assert!(card.calls("cublasLtMatmul") > before, "trial {i} is not the library's");
        }
    }
}

#[test]
fn what_the_library_refuses_runs_on_our_own_kernels() {
    let (card, mut m) = (card(), Maker::new(2));
    let device = CudaBackend.open(0).unwrap();
    let trials = trials(&mut m, DType::BF16);
    let before = card.calls("cublasLtMatmul");
    // The call refuses, or the one result says that it is none.
    for refuses in ["cublasLtMatmulAlgoGetHeuristic", "result of cublasLtMatmulAlgoGetHeuristic"] {
        card.forget();
        card.fail(refuses, 0, u64::MAX, 1);
        for (i, trial) in trials[..2].iter().chain(&trials[6..7]).enumerate() {
            let all = trial.check(&*device).unwrap_or_else(|e| panic!("trial {i}: {e} {:?}", card.fault()));
            assert!(all.iter().all(|c| c.passes()), "trial {i}: {all:?}");
        }
        assert!(card.calls(refuses) > 0);
        assert_eq!(card.calls("cublasLtMatmul"), before);
    }
}

#[test]
fn the_device_says_which_library_it_found() {
    let _card = card();
    let driver = CudaBackend.open(0).unwrap().info().driver.clone();
    assert_eq!(driver, "CUDA 13.0, NVRTC 13.901, cuBLASLt 13.9.1");
}

#[test]
fn a_captured_graph_holds_the_librarys_products() {
    let (card, mut m) = (card(), Maker::new(3));
    let device = CudaBackend.open(0).unwrap();
    let (mut g, shape) = (Graph::new(), [128, 256]);
    let bf16 = |shape: &[usize]| TensorDesc::new(DType::BF16, shape).unwrap();
    let x = g.bind("x", bf16(&shape));
    let w = g.bind("w", bf16(&[256, 256]));
    let y = g.bind("y", bf16(&shape));
    let mut last = x;
    for _ in 0..3 {
        last = g.op1(matmul(true, Epilogue::None), &[last, w]).unwrap();
    }
    g.add_into(matmul(true, Epilogue::BiasResidual), &[Some(last), Some(w), None, Some(x)], &[y]).unwrap();
    let (x, w) = (m.of(DType::BF16, &shape), m.of(DType::BF16, &[256, 256]));
    let bytes = [x.1, w.1, vec![0; 128 * 256 * 2]];
    let plan = device.plan(&g).unwrap();
    let mut stream = device.stream().unwrap();
    let bindings = bytes.each_ref().map(|b| Binding::whole(device.alloc(0, b.len()).unwrap()));
    bindings.iter().zip(&bytes).for_each(|(to, from)| stream.upload(to, from).unwrap());
    let workspace = Binding::whole(device.alloc(0, plan.info().workspace_bytes).unwrap());
    let mut run = |times: usize| {
        (0..times).for_each(|_| plan.execute(&mut *stream, &bindings, &workspace).unwrap());
        stream.sync(Duration::MAX).unwrap();
        let mut out = vec![0; bytes[2].len()];
        stream.download(&mut out, &bindings[2]).unwrap();
        (out, card.calls("cublasLtMatmul"))
    };
    // Launch by launch, then captured; afterwards the graph runs and nobody asks the library.
    let ((first, once), (second, twice), (third, later)) = (run(1), run(1), run(3));
    assert_eq!((once, twice, later), (4, 8, 8));
    assert_eq!(first, second);
    assert_eq!(first, third);
}

#[test]
fn equal_products_are_asked_about_once() {
    let card = card();
    let device = CudaBackend.open(0).unwrap();
    let bf16 = |shape: &[usize]| TensorDesc::new(DType::BF16, shape).unwrap();
    let graph = |layers: usize, residual: bool| {
        let mut g = Graph::new();
        let mut last = g.bind("x", bf16(&[160, 384]));
        for i in 0..layers {
            let w = g.bind(format!("w{i}"), bf16(&[384, 384]));
            last = g.op1(matmul(true, Epilogue::None), &[last, w]).unwrap();
        }
        let (w, y) = (g.bind("w", bf16(&[384, 384])), g.bind("y", bf16(&[160, 384])));
        if residual {
            let (op, r) = (matmul(true, Epilogue::BiasResidual), g.bind("r", bf16(&[160, 384])));
            g.add_into(op, &[Some(last), Some(w), None, Some(r)], &[y]).unwrap();
        } else {
            g.add_into(matmul(true, Epilogue::None), &[Some(last), Some(w)], &[y]).unwrap();
        }
        g
    };
    let asked = || card.calls("cublasLtMatmulAlgoGetHeuristic");
    let before = asked();
    let first = device.plan(&graph(6, false)).unwrap();
    assert_eq!(asked(), before + 1);
    let second = device.plan(&graph(2, true)).unwrap();
    assert_eq!(asked(), before + 2, "a residual is another question");
    drop((first, second));
    device.plan(&graph(3, true)).unwrap();
    assert_eq!(asked(), before + 2, "what was answered outlives the plan");
}
