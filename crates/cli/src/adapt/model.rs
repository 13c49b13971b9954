//! The model's step: how its operators run on the device, what it says, whether that is right, and how fast it is.

use std::path::Path;
use std::sync::Arc;

use qiao::bench::{self, Event, ModelReport, Options, Point, PointReport, Settings, Subject, Sweep};
use qiao::{Canceller, Model, ModelOptions, Params};
use qiao_conformance::measure::Figures;
use qiao_conformance::report::{AccountLine, Greedy, ModelPoint, ModelRun};
use qiao_conformance::save;
use serde::{Deserialize, Serialize};

use crate::args::Adapt;
use crate::exit::Exit;
use crate::interrupt;

/// What the step leaves.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ModelStep {
    pub(crate) model: ModelRun,
    pub(crate) account: Vec<AccountLine>,
}

/// The prompt of the embedded model.
const PROMPT: &str = "床前明月光";
/// Tokens of greedy text.
const GREEDY: usize = 24;
/// Weights up to which the f64 truth, which is slow, says the same text beside the device.
const TRUTH_BYTES: u64 = 32 << 20;

/// Runs the step and writes its result into a file.
pub(crate) fn step(args: &Adapt, file: &Path) -> anyhow::Result<Exit> {
    let cancel = Canceller::default();
    let _guard = interrupt::Guard::new(cancel.clone());
    let (subject, settings) = load(args)?;
    let model = subject.model();
    let greedy = greedy(args, model)?;
    let report = bench::measure(&subject, &settings, &cancel, Arc::new(|_: &Event| {}))?;
    let account = AccountLine::of(&model.account()?);
    let result = ModelStep { model: told(args, model, greedy, &report), account };
    save::whole(file, serde_json::to_string(&result)?.as_bytes())?;
    Ok(Exit::Ok)
}

/// Loads the model for the longest requests that its context holds.
fn load(args: &Adapt) -> anyhow::Result<(Subject, Settings)> {
    let sweep = |prompts: &[usize], depths: &[usize], tokens| Sweep {
        prompts: prompts.to_vec(),
        depths: depths.to_vec(),
        tokens,
        repeat: if args.full { 10 } else { 3 },
        seed: args.seed,
        ..Sweep::default()
    };
    let long = [sweep(&[128, 512], &[0, 2048], 64), sweep(&[128, 512], &[0], 64)];
    let short = [sweep(&[128], &[0], 32), sweep(&[32], &[0], 16), sweep(&[4], &[0], 4)];
    let peaks = args.peaks.as_ref().map(qiao::read_peaks).transpose().map_err(qiao::Error::from)?;
    let tried: Vec<Sweep> = long.into_iter().filter(|_| args.full).chain(short).collect();
    let last = tried.len() - 1;
    for (i, sweep) in tried.into_iter().enumerate() {
        let settings = Settings { sweep, peaks: peaks.clone(), ..Settings::default() };
        let points: Vec<Point> = settings.points()?;
        let options = Options {
            model: args.model.clone(),
            device: args.device.clone(),
            host_fallback: args.fallback.to_host(),
            settings: settings.clone(),
            ..Options::default()
        };
        match Subject::load(&options, None, &points, |_| {}) {
            Ok(subject) => return Ok((subject, settings)),
            Err(error) if i == last || !error.to_string().contains("context") => return Err(error.into()),
            Err(_) => {}
        }
    }
    unreachable!("the last sweep loads or fails")
}

/// What the model says greedily, beside the same on another device where that is not too slow.
fn greedy(args: &Adapt, model: &Model) -> anyhow::Result<Greedy> {
    let params = || Params::new().temperature(0.0).max_tokens(GREEDY.min(model.context() / 2)).ignore_eos(true);
    let ids: Vec<u32> = (1..=4u32).map(|i| i % model.config().vocab_size as u32).collect();
    let text = model.has_tokenizer();
    let say = |model: &Model| match text {
        true => model.generate(PROMPT, &params())?.collect_all(),
        false => model.generate(ids.clone(), &params())?.collect_all(),
    };
    let said = say(model)?;
    let mut greedy = Greedy {
        prompt: if text { PROMPT.into() } else { String::new() },
        text: said.text,
        ids: said.token_ids,
        ..Greedy::default()
    };
    let other = if args.device.starts_with("reference") { "cpu" } else { "reference" };
    if model.weight_bytes() + model.host_weight_bytes() <= TRUTH_BYTES {
        let options = ModelOptions::new().device(other).dtype(model.compute_dtype()).context(model.context());
        let beside = match &args.model {
            Some(path) => options.load(path),
            None => options.demo(),
        }?;
        let want = say(&beside)?.token_ids;
        greedy.compared_with = Some(format!("device {other}"));
        greedy.equal = Some(want == greedy.ids);
        greedy.first_difference = want.iter().zip(&greedy.ids).position(|(a, b)| a != b);
    }
    Ok(greedy)
}

fn told(args: &Adapt, model: &Model, greedy: Greedy, report: &ModelReport) -> ModelRun {
    let opened = report.devices.first();
    let peaks = opened.map(|o| &o.peaks);
    let known = peaks.is_some_and(|p| p.bytes_per_s.is_some() || p.ops_per_s.is_some());
    let mut notes = report.notes.clone();
    notes.extend(report.failures.iter().map(|f| format!("{}: {}", f.point, f.why)));
    if greedy.equal.is_none() {
        notes.push(
            "what it said was not compared with the truth: the model is too large for it; see qiao compare --against"
                .into(),
        );
    }
    ModelRun {
        name: report.model.as_ref().map_or(String::new(), |m| m.name.clone()),
        source: args.model.as_ref().map_or("embedded".into(), |p| p.display().to_string()),
        architecture: report.model.as_ref().map_or(String::new(), |m| m.architecture.clone()),
        parameters: model.stored_weights().iter().map(|(_, weights)| weights).sum(),
        compute_dtype: model.compute_dtype().name().into(),
        weight_dtypes: model.stored_weights().iter().map(|(dtype, _)| dtype.name().into()).collect(),
        load_seconds: opened.and_then(|o| o.load_s),
        weight_bytes: model.weight_bytes(),
        bits_per_weight: Some(model.bits_per_weight()),
        peak_memory_bytes: report.points.iter().filter_map(|p| p.memory.process_peak.bytes).max(),
        device_peak_bytes: report.points.iter().filter_map(|p| p.memory.device_peak_bytes).max(),
        limits_kind: peaks.filter(|_| known).map_or(String::new(), |p| p.kind.into()),
        limits_source: peaks.filter(|_| known).map_or(String::new(), |p| p.source.clone()),
        points: report.points.iter().map(point).collect(),
        verified: report.holds() && greedy.equal != Some(false),
        greedy: Some(greedy),
        notes,
    }
}

fn point(p: &PointReport) -> ModelPoint {
    ModelPoint {
        batch: p.point.batch,
        prompt: p.point.prompt,
        depth: p.point.depth,
        tokens: p.point.tokens,
        prompt_tokens_per_s: Some(Figures::from(p.latency.prompt_tokens_per_s)),
        decode_tokens_per_s: p.latency.decode_tokens_per_s.map(Figures::from),
        ttft: Some(Figures::from(p.latency.ttft_s)),
        inter_token: p.latency.itl_s.map(Figures::from),
        first_ttft: p.first_ttft_s,
        mfu_prompt: p.utilisation.mfu_prompt,
        mfu_decode: p.utilisation.mfu_decode,
        mbu_decode: p.utilisation.mbu_decode,
        cache_bytes: p.memory.cache_bytes,
        joules_per_token: p.energy.joules_per_token,
    }
}
