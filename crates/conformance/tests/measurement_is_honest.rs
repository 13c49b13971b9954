//! Figures are taken of right results alone, and whatever has no figure has a reason. No test looks at how long anything
//! takes.

use std::sync::Arc;
use std::time::Duration;

use qiao_conformance::Glob;
use qiao_conformance::measure::{OpFigure, OpsBench, OpsSelection, Set, bench, probe, some_measured};
use qiao_core::noop::NoopBackend;
use qiao_core::{
    Backend, Binding, Buffer, DType, Device, DeviceInfo, Event, Graph, NodeSupport, OpKind, Plan, PlanInfo, Reason,
    Result, Stream, TensorDesc,
};
use qiao_cpu::{CpuDevice, CpuOptions};
use qiao_layers::Provenance;

fn cpu() -> Arc<dyn Device> {
    Arc::new(CpuDevice::with(&CpuOptions { isa: None, threads: Some(2), ..Default::default() }).unwrap())
}

/// A quick selection of these paths, with hardly any time for probes, and all the time for what a busy machine takes.
fn only(filter: &[&str]) -> OpsSelection {
    OpsSelection {
        filter: filter.iter().map(|f| Glob::new(*f)).collect(),
        probing: Duration::from_millis(50),
        most: Duration::from_secs(600),
        total: Duration::from_secs(3600),
        ..OpsSelection::new(Set::Quick)
    }
}

fn run(device: &Arc<dyn Device>, filter: &[&str]) -> OpsBench {
    bench(device, &only(filter), |_| true).unwrap()
}

fn is_whole(figure: &OpFigure) {
    assert!(figure.verified && figure.failure.is_none(), "{figure:?}");
    assert!(figure.checked > 0 && figure.margin.unwrap() <= 1.0, "{figure:?}");
    assert!(figure.measured() && figure.unsupported.is_none() && figure.skipped.is_none(), "{figure:?}");
    assert!(figure.cold >= 0.0 && figure.prepare >= 0.0 && figure.copies >= 1, "{figure:?}");
    assert!(figure.way.starts_with("native") || figure.way.starts_with("decomposed"), "{figure:?}");
    assert!(figure.bytes > 0 && figure.judged().p50 >= figure.judged().min, "{figure:?}");
    let w = figure.wall;
    assert!(w.min <= w.p50 && w.p50 <= w.p90 && w.p90 <= w.p99 && w.p99 <= w.max && w.cv >= 0.0, "{figure:?}");
}

#[test]
fn every_operator_of_the_quick_set_is_measured_and_right() {
    let filter = [
        "op/matmul/*m=1,n=896,k=*",
        "op/matmul/*m=16,n=128,*",
        "op/matmul_quant/*m=16,n=896,*",
        "op/scaled_matmul/*n=896,*",
        "op/rms_norm/*",
        "op/add_rms_norm/*",
        "op/rope/*",
        "op/silu_mul/*",
        "op/kv_write/*",
        "op/attention_*keys=1024*",
        "op/attention_prefill/*",
        "op/quantize_dynamic/*",
        "op/argmax/*",
        "op/sample/*",
    ];
    let found = run(&cpu(), &filter);
    found.figures.iter().for_each(is_whole);
    let ops: std::collections::HashSet<&str> = found.figures.iter().filter_map(|f| f.id.split('/').nth(1)).collect();
    assert_eq!(ops.len(), filter.len() - 1, "{ops:?}");
    assert!(!found.interrupted && found.declared.is_none() && found.set == "quick");
    assert!(found.cache_bytes > 0 && !found.cache_source.is_empty() && !found.timer.source.is_empty());
    // What the processor runs inside the call has no clock but the host's.
    assert!(found.figures.iter().all(|f| f.device.is_none() && f.of_declared.is_none()));
    assert!(found.figures.iter().all(|f| f.of_measured.is_some()), "{:?}", found.measured);
    let back: OpsBench = serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
    let kept = |b: &OpsBench| b.figures.iter().map(|f| (f.id.clone(), f.wall.count, f.checked)).collect::<Vec<_>>();
    assert_eq!(kept(&back), kept(&found));
    some_measured(&found).unwrap();
}

#[test]
fn bytes_and_operations_are_those_of_the_shape() {
    let found = run(&cpu(), &["op/matmul/bf16/m=1,n=4864,k=896", "op/attention_prefill/*", "op/rope/*heads=14*"]);
    let of = |op: &str| found.figures.iter().find(|f| f.id.contains(op)).unwrap();
    let matmul = of("matmul");
    assert_eq!(matmul.flops, 2 * 4864 * 896);
    assert_eq!(matmul.bytes, 2 * (4864 * 896 + 896 + 4864));
    assert_eq!((&*matmul.dtype, &*matmul.origin), ("bf16", "Qwen2.5-0.5B gate, up, 1 token"));
    // Query i of a prompt of 128 meets i + 1 keys: two products of 64 elements with each of its 14 heads.
    assert_eq!(of("attention_prefill").flops, 4 * 14 * 64 * (128 * 129 / 2));
    let rope = of("rope");
    assert_eq!((rope.bytes, &*rope.dtype, &*rope.bound), (2 * 2 * 14 * 64 + 64 * 4 + 4, "", "memory"));
}

#[test]
fn probes_measure_every_dtype_that_the_device_computes_in() {
    let peaks = probe(&cpu(), Duration::from_millis(100)).unwrap();
    assert!(peaks.bytes_per_s > 0.0);
    for dtype in [DType::F32, DType::F16, DType::BF16, DType::I8] {
        assert!(peaks.ops(dtype).unwrap() > 0.0, "{dtype}");
    }
    let Provenance::Measured(source) = peaks.provenance else { panic!("limits are measured") };
    assert!(source.contains("bytes by") && source.contains("bf16 by matmul"), "{source}");
}

#[test]
fn a_device_without_kernels_has_reasons_in_place_of_figures() {
    let noop = NoopBackend.open(0).unwrap();
    let found = run(&noop, &["op/rms_norm/*", "op/matmul/*k=896"]);
    assert!(found.figures.len() > 3);
    for figure in &found.figures {
        assert!(!figure.verified && !figure.measured() && figure.way.is_empty(), "{figure:?}");
        assert!(figure.unsupported.as_ref().unwrap().contains("no kernel"), "{figure:?}");
    }
    assert!(found.measured.ops_per_s.is_empty());
    assert!(some_measured(&found).unwrap_err().to_string().contains("no kernel"));
    assert!(found.probes.iter().all(|p| p.limit == "bytes"), "{:?}", found.probes);
}

#[test]
fn a_run_that_is_stopped_keeps_what_it_has() {
    let mut seen = 0;
    let found = bench(&cpu(), &only(&["op/rms_norm/*", "op/rope/*"]), |p| {
        seen += (p.done > 0) as usize;
        p.done < 2
    })
    .unwrap();
    assert!(found.interrupted);
    assert_eq!((found.figures.len(), seen), (2, 2));
    found.figures.iter().for_each(is_whole);
}

#[test]
fn what_comes_after_the_time_is_up_has_a_record_that_says_so() {
    let selection = OpsSelection { total: Duration::ZERO, ..only(&["op/rms_norm/*"]) };
    let found = bench(&cpu(), &selection, |_| true).unwrap();
    assert!(!found.figures.is_empty());
    assert!(found.figures.iter().all(|f| f.skipped.as_ref().unwrap().contains("0 s") && !f.verified));
}

/// What a broken device does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The last byte of the last output is another one.
    LastByte,
    /// Nothing is written after the first so many executions.
    Stale(usize),
    /// It panics when it runs.
    Panics,
    /// It says that less memory is free than anything needs.
    Full,
    /// It refuses one operator.
    Refuses(OpKind),
}

struct Broken {
    inner: Arc<dyn Device>,
    info: DeviceInfo,
    fault: Fault,
}

impl Broken {
    fn device(fault: Fault) -> Arc<dyn Device> {
        let inner = cpu();
        let mut info = inner.info().clone();
        if fault == Fault::Full {
            info.memories[0].free_bytes = 4096;
        }
        Arc::new(Broken { inner, info, fault })
    }
}

impl Device for Broken {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.inner.alloc(memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.inner.stream()
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        self.inner.event()
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let mut answers = self.inner.support(graph);
        for (node, answer) in graph.views().zip(&mut answers) {
            if self.fault == Fault::Refuses(node.kind()) {
                *answer = NodeSupport::no(Reason::operator());
            }
        }
        answers
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let last = graph.bound().len() - 1;
        Ok(Arc::new(BrokenPlan { inner: self.inner.plan(graph)?, fault: self.fault, last, runs: 0.into() }))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        self.inner.prepack_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        self.inner.prepack(stream, tensor, src, layout, dst)
    }
}

struct BrokenPlan {
    inner: Arc<dyn Plan>,
    fault: Fault,
    last: usize,
    runs: std::sync::atomic::AtomicUsize,
}

impl Plan for BrokenPlan {
    fn info(&self) -> PlanInfo {
        self.inner.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let run = self.runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        match self.fault {
            Fault::Panics => panic!("a kernel met a bug"),
            Fault::Stale(after) if run >= after => return Ok(()),
            _ => self.inner.execute(stream, bindings, workspace)?,
        }
        if self.fault == Fault::LastByte {
            let end = &bindings[self.last];
            let byte = Binding::part(&end.buffer, end.offset + end.bytes - 1, 1);
            let mut was = [0];
            stream.download(&mut was, &byte)?;
            // The sign and the upper bits of the exponent.
            stream.upload(&byte, &[was[0] ^ 0x90])?;
        }
        Ok(())
    }
}

#[test]
fn wrong_results_are_no_figures() {
    let filter = ["op/rms_norm/*", "op/matmul/*n=4864,k=896", "op/attention_prefill/*", "op/gather_rows/*"];
    for fault in [Fault::LastByte, Fault::Stale(1), Fault::Panics] {
        let found = run(&Broken::device(fault), &filter);
        assert!(found.figures.len() >= 5);
        for figure in &found.figures {
            assert!(!figure.verified, "{fault:?}: {figure:?}");
            assert!(!figure.failure.as_ref().unwrap().is_empty(), "{fault:?}: {figure:?}");
        }
        assert_eq!(found.failures().count(), found.figures.len());
        // A probe with wrong results is no limit.
        assert!(found.measured.ops_per_s.is_empty(), "{fault:?}: {:?}", found.measured);
    }
}

#[test]
fn what_does_not_fit_has_a_record_that_says_so() {
    let found = run(&Broken::device(Fault::Full), &["op/matmul/*n=151936*", "op/rms_norm/*"]);
    for figure in &found.figures {
        assert!(!figure.measured() && figure.unsupported.is_none() && figure.failure.is_none(), "{figure:?}");
        assert!(figure.skipped.as_ref().unwrap().contains("GiB"), "{figure:?}");
    }
}

#[test]
fn an_operator_that_decomposes_is_measured_as_what_it_becomes() {
    let found = run(&Broken::device(Fault::Refuses(OpKind::AddRmsNorm)), &["op/add_rms_norm/*"]);
    assert_eq!(found.figures.len(), 1);
    is_whole(&found.figures[0]);
    assert!(found.figures[0].way.starts_with("decomposed: "), "{}", found.figures[0].way);
    let found = run(&Broken::device(Fault::Refuses(OpKind::GatherRows)), &["op/gather_rows/*", "op/rms_norm/*"]);
    for figure in &found.figures {
        assert_eq!(figure.unsupported.is_some(), figure.id.starts_with("op/gather_rows/"), "{figure:?}");
    }
}
