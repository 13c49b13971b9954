//! What a report holds: facts alone. What follows from them is worked out by whoever shows them.

use qiao_layers::{Account, Way};
use serde::{Deserialize, Serialize};

use crate::measure::{Figures, OpsBench};
use crate::platform::{DeviceFacts, Platform};
use crate::run::Run;
use crate::verdict::Status;

use super::suite::Suite;

/// The schema of a report's JSON.
pub const SCHEMA: &str = "qiao.report/1";

/// How much a report was asked to find out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// What fits into two minutes on a laptop.
    #[default]
    Quick,
    /// Everything.
    Full,
    /// The conformance run alone, as `qiao check` makes one.
    Check,
}

/// What became of one step of the work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// It ran to its end.
    Done,
    /// It was not begun, and why.
    Skipped(String),
    /// It began and did not come to its end, and why.
    Broken(String),
}

/// One step of the work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Its name: one of those below, or the caller's own.
    pub name: String,
    /// What became of it.
    pub outcome: StepOutcome,
    /// How long it took.
    pub seconds: f64,
}

impl Step {
    /// Opening the device.
    pub const OPEN: &str = "open";
    /// The conformance run.
    pub const CHECK: &str = "check";
    /// The speeds of operators.
    pub const BENCH: &str = "bench_ops";
    /// Lowering the model onto the device.
    pub const LOWER: &str = "lower";
    /// Running the model.
    pub const MODEL: &str = "model";
    /// A long run that looks for drift.
    pub const SOAK: &str = "soak";

    /// A step that ran to its end.
    pub fn done(name: impl Into<String>, seconds: f64) -> Step {
        Step { name: name.into(), outcome: StepOutcome::Done, seconds }
    }

    /// A step that was not begun.
    pub fn skipped(name: impl Into<String>, why: impl Into<String>) -> Step {
        Step { name: name.into(), outcome: StepOutcome::Skipped(why.into()), seconds: 0.0 }
    }

    /// A step that did not come to its end.
    pub fn broken(name: impl Into<String>, why: impl Into<String>, seconds: f64) -> Step {
        Step { name: name.into(), outcome: StepOutcome::Broken(why.into()), seconds }
    }
}

/// How the nodes of a model's graph run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// By a kernel of the device.
    Native,
    /// As smaller operators on the device.
    Decomposed,
    /// On the host, which was asked for by name.
    Host,
}

/// Nodes of a model's graph that share operator, way and reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountLine {
    /// The operator's name in the op list.
    pub op: String,
    /// How they run.
    pub path: Path,
    /// How many.
    pub count: usize,
    /// The kernels that run them, as `what.how`; those of the pieces in their order. Empty where the device does not say.
    pub kernels: Vec<String>,
    /// The smaller operators, in order; empty where the nodes are native.
    pub into: Vec<String>,
    /// Why the device has no kernel for the nodes themselves.
    pub reason: Option<String>,
    /// Operations of all these nodes together.
    pub flops: u64,
    /// Bytes read and written by all these nodes together.
    pub bytes: u64,
    /// What they cost on the host, where they run there.
    #[serde(default)]
    pub hosted: Option<HostedNodes>,
}

/// What nodes cost that run on the host: all of one line together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostedNodes {
    /// Bytes from the device to the host for each token.
    pub bytes_down: u64,
    /// Bytes from the host to the device for each token.
    pub bytes_up: u64,
    /// How many times they ran in decode steps.
    pub runs: u64,
    /// How long in all: transfers and computing.
    pub seconds: f64,
}

impl AccountLine {
    /// The lines of a lowering's account, in order of first appearance.
    pub fn of(account: &Account) -> Vec<AccountLine> {
        let mut lines: Vec<AccountLine> = Vec::new();
        for entry in &account.entries {
            let told = |kernel: &String| (!kernel.is_empty()).then(|| kernel.clone());
            let (path, kernels, into, reason) = match &entry.way {
                Way::Native { kernel } => (Path::Native, told(kernel).into_iter().collect(), Vec::new(), None),
                Way::Decomposed { into, reason } => (
                    Path::Decomposed,
                    into.iter().filter_map(|p| told(&p.kernel)).collect::<Vec<_>>(),
                    into.iter().map(|p| p.op.to_string()).collect(),
                    Some(reason.to_string()),
                ),
                Way::Host { kernel, reason, .. } => {
                    (Path::Host, told(kernel).into_iter().collect(), Vec::new(), Some(reason.to_string()))
                }
            };
            let (flops, bytes) = (entry.cost.flops, entry.cost.read.saturating_add(entry.cost.written));
            let op = entry.op.to_string();
            let hosted = entry.hosted().map(|h| HostedNodes {
                bytes_down: h.down,
                bytes_up: h.up,
                runs: h.runs,
                seconds: h.time.as_secs_f64(),
            });
            let new = AccountLine { op, path, count: 1, kernels, into, reason, flops, bytes, hosted };
            match lines.iter_mut().find(|l| l.is_alike(&new)) {
                Some(line) => {
                    line.count += 1;
                    line.flops = line.flops.saturating_add(flops);
                    line.bytes = line.bytes.saturating_add(bytes);
                    line.hosted = line.hosted.zip(hosted).map(|(sum, more)| HostedNodes {
                        bytes_down: sum.bytes_down.saturating_add(more.bytes_down),
                        bytes_up: sum.bytes_up.saturating_add(more.bytes_up),
                        runs: sum.runs.saturating_add(more.runs),
                        seconds: sum.seconds + more.seconds,
                    });
                }
                None => lines.push(new),
            }
        }
        lines
    }

    fn is_alike(&self, other: &AccountLine) -> bool {
        (&self.op, self.path, &self.kernels, &self.into, &self.reason)
            == (&other.op, other.path, &other.kernels, &other.into, &other.reason)
    }
}

/// One batch and length at which a model ran. Times are in seconds, percentiles by nearest rank.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelPoint {
    /// Sequences side by side.
    pub batch: usize,
    /// Tokens of each prompt.
    pub prompt: usize,
    /// Tokens that the cache held before the prompt.
    pub depth: usize,
    /// Tokens generated for each sequence.
    pub tokens: usize,
    /// Prompt tokens per second.
    pub prompt_tokens_per_s: Option<Figures>,
    /// Generated tokens per second, all sequences together.
    pub decode_tokens_per_s: Option<Figures>,
    /// From sending a request to its first token.
    pub ttft: Option<Figures>,
    /// The gaps between neighbouring tokens of a request.
    pub inter_token: Option<Figures>,
    /// Time to the very first token: plans are made, caches are cold.
    pub first_ttft: Option<f64>,
    /// Operations that the model needs per second of prompts / the limit in the compute dtype.
    pub mfu_prompt: Option<f64>,
    /// The same while decoding.
    pub mfu_decode: Option<f64>,
    /// Bytes of weights, keys and values per second while decoding / the limit of the bandwidth.
    pub mbu_decode: Option<f64>,
    /// Bytes of keys and values that were allocated.
    pub cache_bytes: u64,
    /// Joules per generated token, where the platform tells.
    pub joules_per_token: Option<f64>,
}

/// What greedy decoding said, and whether that is right.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Greedy {
    /// The prompt, as text; empty where ids were given.
    pub prompt: String,
    /// The generated text; empty for a checkpoint without a tokenizer.
    pub text: String,
    /// The generated token ids.
    pub ids: Vec<u32>,
    /// What they were compared with: a golden file, the reference device; absent where nothing was at hand.
    pub compared_with: Option<String>,
    /// Whether they are the same tokens; absent where they were not compared.
    pub equal: Option<bool>,
    /// The first position at which they part.
    pub first_difference: Option<usize>,
}

/// A model that ran on the device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelRun {
    /// Its name.
    pub name: String,
    /// Where it came from: `embedded`, or a path.
    pub source: String,
    /// Its architecture.
    pub architecture: String,
    /// Parameters; 0 = not known.
    pub parameters: u64,
    /// The dtype of activations and cache.
    pub compute_dtype: String,
    /// The dtypes of the weights as they are stored.
    pub weight_dtypes: Vec<String>,
    /// Seconds from opening the checkpoint until the model could run.
    pub load_seconds: Option<f64>,
    /// Bytes of the weights on the device.
    pub weight_bytes: u64,
    /// Bits that a weight of a projection takes where it lives, with its share of scales and padding; `None` where it is not known.
    pub bits_per_weight: Option<f64>,
    /// The most bytes that the process had resident.
    pub peak_memory_bytes: Option<u64>,
    /// The most bytes that were allocated on the device.
    pub device_peak_bytes: Option<u64>,
    /// Whether MFU and MBU are shares of `measured` or `declared` limits; empty where there are none.
    pub limits_kind: String,
    /// Where those limits come from.
    pub limits_source: String,
    /// What was measured.
    pub points: Vec<ModelPoint>,
    /// What it said.
    pub greedy: Option<Greedy>,
    /// Whether repeated runs gave the same tokens, where the device says that it is deterministic, and nothing else speaks
    /// against the results.
    pub verified: bool,
    /// What speaks against them, and what else is to be known.
    pub notes: Vec<String>,
}

/// Everything that was found out about a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// How much was asked.
    pub mode: Mode,
    /// The machine.
    pub platform: Platform,
    /// The device.
    pub device: DeviceFacts,
    /// The cases that there were to ask.
    pub suite: Suite,
    /// The conformance run.
    pub check: Option<Run>,
    /// The speeds of operators.
    pub bench: Option<OpsBench>,
    /// The model's run.
    pub model: Option<ModelRun>,
    /// How the model's operators run on the device.
    pub account: Vec<AccountLine>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// How long all of it took.
    pub seconds: f64,
    /// What else is to be known.
    pub notes: Vec<String>,
}

impl Report {
    /// A report of a device about which nothing is known yet, with the suite of this version.
    pub fn new(mode: Mode, platform: Platform, device: DeviceFacts) -> Report {
        Report {
            schema: SCHEMA.into(),
            mode,
            platform,
            device,
            suite: Suite::here(),
            check: None,
            bench: None,
            model: None,
            account: Vec::new(),
            steps: Vec::new(),
            seconds: 0.0,
            notes: Vec::new(),
        }
    }

    /// The report of a conformance run alone.
    pub fn of_run(run: Run) -> Report {
        let (platform, device) = (run.platform.clone(), run.device.clone());
        let mut report = Report::new(Mode::Check, platform, device);
        if run.platform.qiao != report.suite.qiao {
            report.notes.push(format!(
                "the run was made by Qiao {}; its levels are judged by the suite of Qiao {}",
                run.platform.qiao, report.suite.qiao
            ));
        }
        report.seconds = run.seconds;
        report.steps.push(match run.interrupted {
            true => Step::broken(Step::CHECK, "stopped before its last case", run.seconds),
            false => Step::done(Step::CHECK, run.seconds),
        });
        report.check = Some(run);
        report
    }

    /// Whether the device is not on the machine: nothing could be asked.
    pub fn is_absent(&self) -> bool {
        let records = self.check.iter().flat_map(|r| &r.records);
        let mut asked = records.map(|r| r.status).peekable();
        asked.peek().is_some() && asked.all(|status| status == Status::NotPresent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiao_core::{Cost, Reason};
    use qiao_layers::{Entry, Piece};

    #[test]
    fn an_account_counts_equal_nodes_and_adds_up_their_work() {
        let native = |node| Entry {
            node,
            op: "add",
            way: Way::Native { kernel: "add_f32.avx2".into() },
            cost: Cost { flops: 2, read: 3, written: 4 },
        };
        let piece = |op, kernel: &str| Piece { op, kernel: kernel.into() };
        let into = vec![piece("silu", "silu_f32.avx2"), piece("mul", "")];
        let way = Way::Decomposed { into, reason: Reason::operator() };
        let last = Entry { node: 2, op: "silu_mul", way, cost: Cost::default() };
        let lines = AccountLine::of(&Account {
            device: "toy".into(),
            host: String::new(),
            entries: vec![native(0), native(1), last],
        });
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].count, lines[0].flops, lines[0].bytes), (2, 4, 14));
        assert_eq!((lines[1].path, &lines[1].into[..]), (Path::Decomposed, &["silu".to_string(), "mul".into()][..]));
        assert_eq!(lines[1].kernels, ["silu_f32.avx2"]);
        assert!(lines[1].reason.as_deref().unwrap().contains("no kernel"));
    }
}
