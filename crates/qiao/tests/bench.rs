//! A measurement of the demo model finds what is there, says what it can't know, and notices a device that lies.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qiao::bench::{self, Event, ModelReport, Options, Settings, Slo, Subject, Sweep, Work};
use qiao::core::{
    Binding, Buffer, DType, Device, DeviceInfo, Event as Signal, Graph, NodeSupport, Plan, PlanInfo, Result, Stream,
};
use qiao::{Canceller, Model, ModelOptions};
use qiao_layers::{Peaks, Provenance};

fn small() -> Sweep {
    Sweep { prompts: vec![8, 20], depths: vec![0, 30], tokens: 4, repeat: 3, ..Sweep::default() }
}

fn options(sweep: Sweep) -> Options {
    Options { settings: Settings { sweep, ..Settings::default() }, ..Options::default() }
}

fn run(options: &Options) -> ModelReport {
    bench::run(options, &Canceller::default(), bench::silent()).unwrap()
}

fn refused(options: &Options) -> String {
    bench::run(options, &Canceller::default(), bench::silent()).unwrap_err().to_string()
}

#[test]
fn every_point_of_a_sweep_is_measured_and_verified() {
    let mut options = options(Sweep { batches: vec![1, 2], ..small() });
    options.settings.slos = vec![Slo::parse("60000/60000").unwrap(), Slo::parse("0.000001/60000").unwrap()];
    let report = run(&options);
    assert!(report.holds() && !report.interrupted, "{report}");
    assert_eq!((report.points.len(), report.failures.len()), (8, 0));
    for p in &report.points {
        let requests = 3 * p.point.batch as u64;
        let (l, steps) = (&p.latency, p.point.tokens - 1);
        assert_eq!((p.rounds, l.requests, l.ttft_s.count), (3, requests, requests as usize), "{p:?}");
        assert_eq!(l.itl_s.unwrap().count, requests as usize * steps);
        assert!(l.ttft_s.min > 0.0 && l.tpot_s.unwrap().min > 0.0 && l.request_s.min > l.ttft_s.min);
        assert!(l.prompt_tokens_per_s.min > 0.0 && l.decode_tokens_per_s.unwrap().min > 0.0);
        assert_eq!((p.verified.status, p.verified.compared), ("passed", 3));
        assert_eq!((p.slos[0].met, p.slos[0].share, p.slos[0].p99_within), (requests, 1.0, true));
        assert_eq!((p.slos[1].met, p.slos[1].goodput_requests_per_s, p.slos[1].p99_within), (0, 0.0, false));
        assert!(p.memory.workspace_bytes.unwrap() > 0 && p.memory.device_peak_bytes.unwrap() > p.memory.cache_bytes);
        assert!(p.first_ttft_s.unwrap() > 0.0);
    }
    // 5 layers, keys and values of 2 heads of 32 in bf16, for the 30 + 20 + 3 tokens that the longest point holds.
    assert_eq!(report.points[0].memory.cache_bytes, 5 * 2 * 53 * 2 * 32 * 2);
    assert_eq!(report.points[4].memory.cache_bytes, 2 * report.points[0].memory.cache_bytes);
    assert_ne!(report.points[0].verified.digest, report.points[1].verified.digest);
}

#[test]
fn one_seed_gives_one_run_of_tokens_and_another_seed_another() {
    let digests = |seed| {
        let report = run(&options(Sweep { seed, warm_up: 0, repeat: 1, ..small() }));
        report.points.iter().map(|p| p.verified.digest.clone()).collect::<Vec<_>>()
    };
    assert_eq!(digests(3), digests(3));
    assert_ne!(digests(3), digests(4));
}

#[test]
fn utilisation_is_stated_against_known_peaks_only() {
    let unknown = run(&options(Sweep { repeat: 1, ..small() }));
    let u = &unknown.points[0].utilisation;
    assert!(u.prompt_flops_per_s > 0.0 && u.decode_bytes_per_s.unwrap() > 0.0);
    assert_eq!((u.mfu_prompt, u.mfu_decode, u.mbu_decode), (None, None, None));
    assert!(unknown.notes.iter().any(|note| note.starts_with("MFU")), "{:?}", unknown.notes);

    let mut given = options(Sweep { repeat: 1, ..small() });
    let provenance = Provenance::Measured("a probe".into());
    given.settings.peaks = Some(Peaks { bytes_per_s: 1e12, ops_per_s: vec![(DType::BF16, 1e13)], provenance });
    let known = run(&given);
    let u = &known.points[0].utilisation;
    assert_eq!(u.mfu_prompt, Some(u.prompt_flops_per_s / 1e13));
    assert_eq!(u.mbu_decode, Some(u.decode_bytes_per_s.unwrap() / 1e12));
    assert_eq!((known.devices[0].peaks.kind, known.devices[0].peaks.source.as_str()), ("measured", "a probe"));
    assert!(!known.notes.iter().any(|note| note.starts_with("MFU")), "{:?}", known.notes);
}

#[test]
fn threads_are_swept_by_opening_the_device_for_each() {
    let threaded = Options { threads: vec![1, 2, 1], ..options(Sweep { prompts: vec![8], ..small() }) };
    let report = run(&threaded);
    assert_eq!(report.devices.iter().map(|d| d.threads).collect::<Vec<_>>(), [Some(1), Some(2)]);
    assert!(report.devices[1].driver.contains("2 threads") && report.devices[1].load_s.unwrap() > 0.0);
    assert_eq!(report.points.iter().map(|p| p.threads.unwrap()).collect::<Vec<_>>(), [1, 1, 2, 2]);
    let message = refused(&Options { device: "reference".into(), ..threaded });
    assert!(message.contains("only 'cpu' takes"), "{message}");
}

#[test]
fn what_can_not_be_measured_is_refused_before_anything_runs() {
    let message = refused(&options(Sweep { prompts: vec![8, 501], depths: vec![0, 9], ..small() }));
    assert_eq!(message, "context: depth 9 + prompt 501 + 4 tokens; the model's context is 512: ask for less");
    assert!(refused(&options(Sweep { tokens: 0, ..small() })).starts_with("tokens: 0"));
    assert!(refused(&options(Sweep { prompts: vec![usize::MAX / 2], ..small() })).starts_with("prompt: "));
    assert!(refused(&Options { device: "npu".into(), ..Options::default() }).contains("no backend 'npu'"));
    assert!(refused(&Options { threads: vec![0], ..Options::default() }).contains("from 1 to 1024"));
    let model = Some("no/such/model".into());
    assert!(refused(&Options { model, ..Options::default() }).contains("no/such/model"));
    // A model that is loaded for a shorter context holds no more than that.
    let subject = Subject::of(&ModelOptions::new().context(40).demo().unwrap(), "demo", "cpu");
    let settings = Settings { sweep: small(), ..Settings::default() };
    let error = bench::measure(&subject, &settings, &Canceller::default(), bench::silent()).unwrap_err().to_string();
    assert!(error.contains("context is 40"), "{error}");
}

#[test]
fn one_token_has_a_first_and_no_rate() {
    let report = run(&options(Sweep { prompts: vec![8], tokens: 1, ..small() }));
    let point = &report.points[0];
    assert_eq!((point.latency.tpot_s, point.latency.decode_tokens_per_s), (None, None));
    assert_eq!((point.utilisation.decode_work, point.utilisation.mbu_decode), (None, None));
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["points"][0]["tpot_s"].is_null() && json["points"][0]["ttft_s"]["p50"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_report_is_one_object_of_the_schema() {
    let report = run(&options(small()));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["schema"], "qiao.bench.model/1");
    for path in [
        "/platform/os",
        "/platform/qiao_version",
        "/method/batching",
        "/model/weight_bytes",
        "/devices/0/load_s",
        "/devices/0/peaks/kind",
        "/points/3/prompt",
        "/points/3/depth",
        "/points/3/ttft_s/p99",
        "/points/3/tpot_s/cv",
        "/points/3/itl_quantiles_s/20",
        "/points/3/decode_tokens_per_s/p50",
        "/points/3/utilisation/decode_work/cache_bytes",
        "/points/3/memory/process_peak/scope",
        "/points/3/energy/boundary",
        "/points/3/verified/digest",
        "/interrupted",
    ] {
        assert!(json.pointer(path).is_some_and(|value| !value.is_null()), "{path} of {json}");
    }
    let text = report.to_string();
    for words in ["TTFT ms", "decode tok/s", "peak memory", "passed", "energy: "] {
        assert!(text.contains(words), "{words} of\n{text}");
    }
}

#[test]
fn a_run_that_is_cancelled_gives_what_was_measured_until_then() {
    let (cancel, seen) = (Canceller::default(), Arc::new(AtomicUsize::new(0)));
    let (end, count) = (cancel.clone(), seen.clone());
    let tell = Arc::new(move |event: &Event| {
        // Two points of four rounds are done, and one round of the third that counts.
        if let Event::Rounds { done: 10, .. } = event {
            end.cancel();
        }
        count.fetch_add(1, Ordering::Relaxed);
    });
    let report = bench::run(&options(small()), &cancel, tell).unwrap();
    assert!(report.interrupted && report.holds());
    assert_eq!(report.points.iter().map(|p| p.rounds).collect::<Vec<_>>(), [3, 3, 1]);
    assert!(seen.load(Ordering::Relaxed) >= 10);
    cancel.cancel();
    let nothing = bench::run(&options(small()), &cancel, bench::silent()).unwrap();
    assert!(nothing.interrupted && nothing.points.is_empty());
    assert!(nothing.to_string().contains("interrupted"));
}

#[test]
fn a_soak_runs_its_time_and_judges_what_changed() {
    let mut options = options(Sweep { prompts: vec![8], tokens: 3, ..Sweep::default() });
    options.settings.soak = Some(Duration::from_millis(400));
    options.settings.slos = vec![Slo::parse("60000/60000").unwrap()];
    let report = run(&options);
    let soak = report.soak.as_ref().unwrap();
    assert!(report.holds() && report.points.is_empty());
    assert!(soak.lasted_s >= 0.3 && soak.rounds >= 1 && soak.latency.requests == soak.rounds as u64, "{report}");
    assert_eq!((soak.verified.status, soak.slos[0].met), ("passed", soak.rounds as u64));
    let words = ["decode rate: ", "time to first token: ", "resident memory: ", "results: passed"];
    for (line, words) in soak.verdicts.iter().zip(words) {
        assert!(line.starts_with(words), "{line}");
    }
    let trend = soak.decode_trend.as_ref().unwrap();
    assert!(trend.windows == soak.rounds.min(trend.windows) && trend.mean > 0.0);
    options.threads = vec![1, 2];
    assert!(refused(&options).starts_with("soak"));
}

#[test]
fn the_work_of_a_decode_step_is_that_of_the_forecast() {
    let model = Model::demo().unwrap();
    for depth in [1, 77, 500] {
        let options = qiao::ForecastOptions { context: Some(depth + 1), prompt: Some(1), ..Default::default() };
        let forecast = qiao::forecast_demo(model.device(), &options).unwrap().decode.work;
        let work = Work::of_decode(&model, depth).unwrap();
        assert_eq!((work.weight_bytes, work.cache_bytes), (forecast.weights, forecast.cache), "depth {depth}");
        assert_eq!(work.flops, forecast.flops, "depth {depth}");
        assert!(work.bytes.abs_diff(forecast.bytes()) < 1000, "depth {depth}: {work:?} {forecast:?}");
    }
}

/// A device that says it is deterministic, and whose plans answer otherwise from their n-th execution of one kind on.
struct Wavering {
    inner: Arc<dyn Device>,
    info: DeviceInfo,
    after: usize,
    counts: Arc<Mutex<HashMap<usize, usize>>>,
}

struct WaveringPlan {
    inner: Arc<dyn Plan>,
    logits: Option<(usize, usize)>,
    after: usize,
    runs: AtomicUsize,
}

impl Device for Wavering {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.inner.alloc(memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.inner.stream()
    }

    fn event(&self) -> Result<Arc<dyn Signal>> {
        self.inner.event()
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        self.inner.support(graph)
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        *self.counts.lock().unwrap().entry(graph.nodes().len()).or_default() += 1;
        let logits = (0..graph.bound().len()).rev().find(|&at| graph.writes_bound(at));
        let logits = logits.map(|at| (at, graph.desc(graph.bound()[at]).elements()));
        let inner = self.inner.plan(graph)?;
        Ok(Arc::new(WaveringPlan { inner, logits, after: self.after, runs: AtomicUsize::new(0) }))
    }

    fn prepack_bytes(&self, tensor: &qiao::core::TensorDesc, layout: u64) -> Result<usize> {
        self.inner.prepack_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &qiao::core::TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        self.inner.prepack(stream, tensor, src, layout, dst)
    }
}

impl Plan for WaveringPlan {
    fn info(&self) -> PlanInfo {
        self.inner.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        self.inner.execute(stream, bindings, workspace)?;
        if let (Some((at, elements)), true) = (self.logits, self.runs.fetch_add(1, Ordering::Relaxed) >= self.after) {
            // Another token is the likeliest.
            let mut logits = vec![0u8; elements * size_of::<f32>()];
            logits[..4].copy_from_slice(&1e9f32.to_ne_bytes());
            stream.upload(&bindings[at], &logits)?;
        }
        Ok(())
    }
}

fn wavering(deterministic: bool) -> ModelReport {
    let inner = qiao::open("cpu", Some(1)).unwrap();
    let mut info = inner.info().clone();
    info.caps.deterministic = deterministic;
    info.caps.import_host = false;
    let device = Arc::new(Wavering { inner, info, after: 2, counts: Arc::default() });
    let model = ModelOptions::new().on(device.clone()).demo().unwrap();
    let settings = Settings { sweep: Sweep { prompts: vec![8], depths: vec![0], ..small() }, ..Settings::default() };
    let subject = Subject::of(&model, "demo", "wavering");
    let report = bench::measure(&subject, &settings, &Canceller::default(), bench::silent()).unwrap();
    assert!(!device.counts.lock().unwrap().is_empty());
    report
}

#[test]
fn a_device_that_says_it_is_deterministic_and_is_not_fails() {
    let report = wavering(true);
    assert!(!report.holds());
    let verified = &report.points[0].verified;
    assert_eq!((verified.status, verified.identical), ("failed", false));
    assert_eq!(verified.first_difference.unwrap().round, 1);
    assert!(report.to_string().contains("the device says it is deterministic"), "{report}");
    assert_eq!((report.points[0].memory.workspace_bytes, report.devices[0].load_s), (None, None));
}

#[test]
fn a_device_that_does_not_say_so_is_told_and_passes() {
    let report = wavering(false);
    assert!(report.holds());
    assert_eq!(report.points[0].verified.status, "differs");
    assert!(report.to_string().contains("does not say it is deterministic"), "{report}");
}
