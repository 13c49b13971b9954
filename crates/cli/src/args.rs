//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use qiao::Policy;

use crate::exit::TABLE;

mod bench_ops;

mod adapt;
mod bench;
mod bench_serve;
mod eval;
mod plugins;
mod prepack;
mod quantize;
mod report;

pub(crate) use adapt::Adapt;
pub(crate) use bench::{Bench, BenchModel};
pub(crate) use bench_ops::BenchOps;
pub(crate) use bench_serve::{BenchServe, ServerArgs};
pub(crate) use eval::{EVAL_HELP, Eval, EvalSource};
pub(crate) use plugins::{Lang, NewBackend, Plugins, device_given};
pub(crate) use prepack::{PREPACK_HELP, Prepack};
pub(crate) use quantize::{QUANTIZE_HELP, Quantize};
pub(crate) use report::Report;

const EXAMPLES: &str = "\
Examples:
  qiao run                                       the embedded demo model continues a Tang poem
  qiao run ./Qwen2.5-0.5B --prompt 'Once upon'   a checkpoint directory from Hugging Face
  qiao run ./Qwen2.5-0.5B-Instruct --chat        a conversation, one line a turn
  qiao devices                                   what this machine has
  qiao compare ./model --golden golden.safetensors
  qiao eval ./model --text wiki.txt --against ./base   perplexity, and the divergence from a base
  qiao quantize ./model ./model.gguf --format q4_k_m   a smaller checkpoint
  qiao prepack ./Qwen2.5-0.5B                    from now on it loads without packing its weights
  qiao bench ops --quick                         how fast its operators are, beside its limits
  qiao bench model ./Qwen2.5-0.5B --prompt 128,512   how fast it is, and whether that lasts
  qiao bench serve ./Qwen2.5-0.5B --concurrency 1,4,16   throughput against latency, of many requests at once
  qiao report before.json after.json             what became worse, with an exit code
  qiao plan ./config.json --device cpu           what a device would make of a model, without its weights
  qiao run --plugin ./libacme.so --fallback host     a model on a vendor's chip, what it lacks on the host
  qiao check --plugin ./libacme.so --profile llm-core
  qiao new-backend acme --lang c                 the beginning of a port";

/// Runs language models on whatever chip is present.
#[derive(Parser)]
#[command(name = "qiao", version, about, after_help = format!("{EXAMPLES}\n\n{TABLE}"))]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) plugins: Plugins,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// List the devices of this machine.
    Devices(Devices),
    /// Generate text from a checkpoint, or from the embedded demo model.
    #[command(after_help = TABLE)]
    Run(Run),
    /// Compare a checkpoint on a device with golden logits, or with another device, operator by operator.
    #[command(after_help = format!("{COMPARE_HELP}\n\n{TABLE}"))]
    Compare(Compare),
    /// Evaluate a model on a text: perplexity, and with --against how far it is from the model it was made from.
    #[command(after_help = format!("{EVAL_HELP}\n\n{TABLE}"))]
    Eval(Eval),
    /// Make a checkpoint smaller: a GGUF file, or a folder of compressed-tensors, with the error of every tensor.
    #[command(after_help = format!("{QUANTIZE_HELP}\n\n{TABLE}"))]
    Quantize(Quantize),
    /// Keep a model's weights in the layout of a device, so that loading it packs nothing from then on.
    #[command(after_help = format!("{PREPACK_HELP}\n\n{TABLE}"))]
    Prepack(Prepack),
    /// Measure what a device makes of a model.
    #[command(subcommand)]
    Bench(Bench),
    /// Find out everything about a device, unattended, and write a report: conformance, contract, speeds, a model's run, verdict.
    #[command(after_help = TABLE)]
    Adapt(Adapt),
    /// Hold a device to the conformance suite.
    #[command(after_help = TABLE)]
    Check(Check),
    /// Write a report in other forms, compare two of one chip, or put several side by side.
    #[command(after_help = TABLE)]
    Report(Report),
    /// Forecast a model on a device from its config.json alone: which operators run, what they cost, the time that the device's
    /// limits leave, and the memory.
    #[command(after_help = PLAN_HELP)]
    Plan(Plan),
    /// Make the example backend under a name of your own, in C or in Rust: where a port begins (PORTING.md).
    NewBackend(NewBackend),
    /// Load a plugin and say what it has, for the program that started this one.
    #[command(hide = true)]
    ProbePlugin {
        /// The library.
        path: PathBuf,
        /// Hold it to the rules of the header instead.
        #[arg(long)]
        rules: bool,
    },
}

impl Command {
    /// Whether operators may run on the host and the command line does not say so.
    pub(crate) fn may_fall_back(&self) -> bool {
        let fallback = match self {
            Command::Run(args) => args.on.fallback,
            Command::Compare(args) => args.on.fallback,
            Command::Eval(args) => args.fallback,
            Command::Bench(Bench::Model(args)) => args.fallback,
            Command::Bench(Bench::Serve(args)) => args.fallback,
            Command::Adapt(args) => args.fallback,
            Command::Plan(args) => args.fallback,
            _ => return false,
        };
        !fallback.to_host()
    }
}

#[derive(Args)]
pub(crate) struct Devices {
    /// Measure what every device reaches, each for about so many seconds: bytes and operations per second.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "3", value_parser = positive)]
    pub(crate) measure: Option<f64>,
    /// Write one JSON object to standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where and in which dtype a model runs.
#[derive(Clone, Args)]
pub(crate) struct Where {
    /// The device, as 'qiao devices' names it; several with commas between share the model's layers, the first ones on the first.
    #[arg(long, value_name = "NAME,…", default_value = "cpu")]
    pub(crate) device: String,
    /// With several devices: how many layers each has. Without it, as many as each has memory free for.
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub(crate) split: Option<Vec<usize>>,
    /// The compute dtype: that of activations. Without it, the dtype of the weights, or f32 or f16 where the device does not compute
    /// in that. Weights stay as they are stored where the device stores their dtype.
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<Dtype>,
    /// The dtype of keys and values; without it, that of activations. i8 and fp8 codes have a scale for each token and head.
    #[arg(long, value_enum, value_name = "DTYPE")]
    pub(crate) kv_dtype: Option<KvDtype>,
    /// The most tokens that prompt and answer may have together; without it, 4096 or what the model was
    /// made for, whichever is less.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
    #[command(flatten)]
    pub(crate) fallback: Fallback,
}

/// Where operators run that the device refuses.
#[derive(Clone, Copy, Args)]
pub(crate) struct Fallback {
    /// Where operators run that the device refuses. Without it nowhere, and each is named with its reason; 'host' is the CPU of
    /// this machine, and what runs there is told with its bytes and its time.
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) fallback: Option<FallbackTo>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FallbackTo {
    Host,
}

impl Fallback {
    /// Whether operators may run on the host.
    pub(crate) fn to_host(self) -> bool {
        self.fallback == Some(FallbackTo::Host)
    }

    /// The policy for it.
    pub(crate) fn policy(self) -> qiao::core::Result<Policy> {
        if self.to_host() { qiao::host_fallback() } else { Ok(Policy::DeviceOnly) }
    }

    /// What the command line says, for this program started again.
    pub(crate) fn words(self) -> impl Iterator<Item = String> {
        ["--fallback", "host"].into_iter().filter(move |_| self.to_host()).map(String::from)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    Bf16,
    F16,
}

/// What keys and values are kept as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum KvDtype {
    F32,
    Bf16,
    F16,
    I8,
    F8e4m3,
    F8e5m2,
}

#[derive(Args)]
pub(crate) struct Run {
    /// A checkpoint directory (config.json, tokenizer.json, *.safetensors) or a GGUF file. Without it, the embedded demo model.
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) input: Input,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) on: Where,
    /// Go on from a file of --save-session: its tokens come first and do not run again.
    #[arg(long, value_name = "FILE", conflicts_with = "chat")]
    pub(crate) session: Option<PathBuf>,
    /// Keep the prompt and the text in this file, with keys and values, when it ends. An older file is replaced.
    #[arg(long, value_name = "FILE", conflicts_with = "chat")]
    pub(crate) save_session: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) guesses: Guesses,
    /// End a request that takes longer with an error. A plugin whose call never returns is not ended.
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub(crate) timeout: Option<f64>,
    /// Write one JSON object to standard output instead of the text.
    #[arg(long, conflicts_with = "chat")]
    pub(crate) json: bool,
}

/// Who guesses tokens ahead. The text is the same with and without.
#[derive(Args)]
pub(crate) struct Guesses {
    /// Guess at most N tokens ahead wherever the text repeats itself.
    #[arg(long, value_name = "N", conflicts_with_all = ["draft", "chat"], value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) lookup: Option<u32>,
    /// Guess tokens ahead with a smaller checkpoint of the same vocabulary, on the same device or devices.
    #[arg(long, value_name = "MODEL", conflicts_with = "chat")]
    pub(crate) draft: Option<PathBuf>,
    /// With --draft: the most tokens of a guess.
    #[arg(long, value_name = "N", default_value_t = 4, requires = "draft", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) draft_tokens: u32,
}

#[derive(Args)]
#[group(multiple = false)]
pub(crate) struct Input {
    /// The text to continue.
    #[arg(long, value_name = "TEXT")]
    pub(crate) prompt: Option<String>,
    /// Talk with the model: every line of standard input is a turn, by the checkpoint's chat template.
    #[arg(long)]
    pub(crate) chat: bool,
    /// The token ids to continue. A checkpoint without a tokenizer is given and gives ids alone.
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id, allow_negative_numbers = true)]
    pub(crate) token_ids: Option<Vec<u32>>,
}

/// How tokens are chosen. What is not given follows the checkpoint's generation_config.json.
#[derive(Args)]
pub(crate) struct Sampling {
    /// The most tokens to generate.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub(crate) max_tokens: Option<usize>,
    /// Divides the logits; 0 always takes the most likely token.
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = from_zero)]
    pub(crate) temperature: Option<f32>,
    /// Keep the K most likely tokens; 0 = all.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub(crate) top_k: Option<usize>,
    /// Keep the most likely tokens that together have this probability; 1 = all.
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = top_share)]
    pub(crate) top_p: Option<f32>,
    /// Drop tokens less likely than this share of the most likely one; 0 = none.
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = share)]
    pub(crate) min_p: Option<f32>,
    /// Makes tokens that occurred less likely; 1 = off.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = above_zero)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Taken off the logit of every generated token; 0 = off.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    pub(crate) presence_penalty: Option<f32>,
    /// Taken off the logit of a token for each time it was generated; 0 = off.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = finite)]
    pub(crate) frequency_penalty: Option<f32>,
    /// The same seed gives the same text.
    #[arg(long, value_name = "S", allow_negative_numbers = true)]
    pub(crate) seed: Option<u64>,
    /// Stop before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    /// Go on past the model's own end-of-text token.
    #[arg(long)]
    pub(crate) ignore_eos: bool,
}

#[derive(Args)]
pub(crate) struct Compare {
    /// A checkpoint directory or a GGUF file. Without it, the embedded demo model.
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) with: Trusted,
    #[command(flatten)]
    pub(crate) fed: Fed,
    #[command(flatten)]
    pub(crate) on: Where,
    /// With --golden: write the logits of every position to a file: f32, little-endian, [T, V].
    #[arg(long, value_name = "FILE", requires = "golden")]
    pub(crate) logits_out: Option<PathBuf>,
    /// Write one JSON object to standard output instead of the table. An error beyond all numbers is null there, and a figure
    /// without a limit has none under 'limits'.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is trusted.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Trusted {
    /// A safetensors file with input_ids [T], logits [T, V] and, where given, greedy_ids [N] and layers.<i>.output.
    #[arg(long, value_name = "FILE")]
    pub(crate) golden: Option<PathBuf>,
    /// Another device, as 'qiao devices' names it. Both run the same tokens in lock step, and every operator's results are
    /// compared. 'reference' is the truth, and slow.
    #[arg(long, value_name = "NAME")]
    pub(crate) against: Option<String>,
}

/// What two devices in lock step are fed.
#[derive(Args)]
pub(crate) struct Fed {
    /// With --against: the text that both devices read.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["golden", "token_ids"])]
    pub(crate) prompt: Option<String>,
    /// With --against: the token ids that both devices read.
    #[arg(long, value_name = "IDS", value_delimiter = ',', value_parser = token_id, allow_negative_numbers = true, conflicts_with = "golden")]
    pub(crate) token_ids: Option<Vec<u32>>,
    /// With --against: tokens after the prompt, each the trusted device's most likely one.
    #[arg(long, value_name = "N", default_value_t = 8, conflicts_with = "golden")]
    pub(crate) tokens: u32,
}

/// What `qiao compare --help` adds.
const COMPARE_HELP: &str = "\
--golden FILE judges the logits of a device by those of another implementation; tools/golden.py writes such files.

--against NAME finds the operator at fault. Each operator of the device runs by itself on the trusted device's operands, within
the tolerances of the conformance suite, and as a part of the whole, where errors add up. Named are the first operator, layer
and token where the two part, and what becomes of the logits: KL divergence, most likely token, largest difference.

Examples:
  qiao compare ./model --golden golden.safetensors
  qiao compare --against reference                                       the embedded demo model, on the CPU
  qiao compare ./model --device cpu --against reference --token-ids 1,2,3 --tokens 4 --dtype f32";

/// What `qiao plan --help` adds.
const PLAN_HELP: &str = "\
Neither weights nor a tokenizer are read, and nothing runs on the device: it is asked what it supports, and makes a plan.

Times are the least that the limits allow, never a measurement. Without --peaks the limits are those that the device
declares; where it declares none, no time is told. --peaks FILE is JSON such as
  {\"bytes_per_s\": 2.0e11, \"ops_per_s\": {\"f32\": 1.2e12, \"bf16\": 2.4e12}, \"source\": \"data sheet, page 3\"}
with \"measured\": true where the figures were measured. What is left out is not known.

Examples:
  qiao plan                                               the embedded demo model
  qiao plan ./Qwen2.5-0.5B --batch 8 --context 32768      eight sequences at a full context
  qiao plan ./config.json --device cpu --peaks cpu.json --json";

#[derive(Args)]
pub(crate) struct Plan {
    /// A config.json, the directory that holds it, or a GGUF file. Without it, the embedded demo model.
    pub(crate) model: Option<PathBuf>,
    /// The device, as 'qiao devices' names it.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(crate) device: String,
    /// Sequences that are decoded, and prompts that are read, together.
    #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: u32,
    /// Tokens that each sequence holds when its next one is decoded, that one counted; without it, 4096 or what the model was
    /// made for, whichever is less.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
    /// Tokens of each prompt; without it, 512 or the context, whichever is less.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) prompt: Option<u32>,
    /// The compute dtype: that of activations and cache; without it, that of the weights. Where config.json does not name the
    /// dtype of the weights, it is theirs as well.
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<Dtype>,
    #[command(flatten)]
    pub(crate) fallback: Fallback,
    /// The device's limits, as JSON; without it, those that the device declares.
    #[arg(long, value_name = "FILE")]
    pub(crate) peaks: Option<PathBuf>,
    /// Write one JSON object to standard output instead of the tables. A figure that is not known is null there.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Args)]
pub(crate) struct Check {
    /// The device, as 'qiao devices' names it.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(crate) device: String,
    /// What the device is held to.
    #[arg(long, value_enum, default_value_t = Profile::LlmServing)]
    pub(crate) profile: Profile,
    /// Operators that are asked for beyond those of the profile, with commas between: those that a port claims.
    #[arg(long, value_name = "OPS", value_delimiter = ',')]
    pub(crate) require: Vec<String>,
    /// Only cases whose path matches, such as 'op/rms_norm/*' or 'device/*'; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub(crate) filter: Vec<String>,
    /// Data follow from the seed and the path of a case.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write everything as one JSON object into this file; '-' is standard output.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Failures that are expected, one 'glob = reason' a line. One that passes fails the run.
    #[arg(long, value_name = "FILE")]
    pub(crate) expectations: Option<PathBuf>,
    /// Where the replay files of failures go.
    #[arg(long, value_name = "DIR", default_value = "qiao-replays")]
    pub(crate) replays: PathBuf,
    /// Run the one case of a replay file; on the device that the file names, unless --device is given.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["filter", "list", "expectations", "journal"])]
    pub(crate) replay: Option<PathBuf>,
    /// Keep records in this file while the run goes on; the same command goes on where it stopped.
    #[arg(long, value_name = "FILE")]
    pub(crate) journal: Option<PathBuf>,
    /// List the paths of the cases and run none.
    #[arg(long)]
    pub(crate) list: bool,
    /// Seconds after which a case that does not answer is a failed one.
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = positive)]
    pub(crate) timeout: f64,
    /// Run cases in this process: quicker to debug, but a crash of the backend ends the run.
    #[arg(long)]
    pub(crate) in_process: bool,
    /// Answer requests for cases on standard input.
    #[arg(long, hide = true)]
    pub(crate) worker: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Profile {
    /// The device contract; operators count where the device runs them, and where --require names them.
    Device,
    /// Plain cases of what a language model needs.
    Smoke,
    /// What a language model needs to produce a token.
    LlmCore,
    /// What serving needs on top.
    LlmServing,
    /// Everything, large shapes included.
    Full,
}

impl From<Profile> for qiao_conformance::Profile {
    fn from(profile: Profile) -> Self {
        match profile {
            Profile::Device => qiao_conformance::Profile::Device,
            Profile::Smoke => qiao_conformance::Profile::Smoke,
            Profile::LlmCore => qiao_conformance::Profile::LlmCore,
            Profile::LlmServing => qiao_conformance::Profile::LlmServing,
            Profile::Full => qiao_conformance::Profile::Full,
        }
    }
}

/// A number of seconds above 0, at most a day.
fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= 86_400.0);
    number.ok_or_else(|| "give a number of seconds above 0".into())
}

/// A number that is finite and of which `holds` is true; `want` says which numbers are.
fn number(text: &str, want: &str, holds: impl Fn(f32) -> bool) -> Result<f32, String> {
    let number = text.parse::<f32>().ok().filter(|n| n.is_finite() && holds(*n));
    number.ok_or_else(|| format!("give {want}"))
}

fn from_zero(text: &str) -> Result<f32, String> {
    number(text, "a number from 0", |n| n >= 0.0)
}

fn above_zero(text: &str) -> Result<f32, String> {
    number(text, "a number above 0", |n| n > 0.0)
}

fn share(text: &str) -> Result<f32, String> {
    number(text, "a number from 0 to 1", |n| (0.0..=1.0).contains(&n))
}

fn top_share(text: &str) -> Result<f32, String> {
    number(text, "a number above 0, at most 1", |n| n > 0.0 && n <= 1.0)
}

fn finite(text: &str) -> Result<f32, String> {
    number(text, "a finite number", |_| true)
}

/// A token id; blanks around it, as after a comma, do no harm.
fn token_id(text: &str) -> Result<u32, std::num::ParseIntError> {
    text.trim().parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn prompts_exclude_each_other() {
        let parse = |args: &[&str]| CommandLine::try_parse_from([&["qiao", "run"], args].concat());
        assert!(parse(&["m", "--prompt", "a", "--chat"]).is_err());
        assert!(parse(&["m", "--prompt", "a", "--token-ids", "1"]).is_err());
        assert!(parse(&["m", "--chat", "--json"]).is_err());
        let Ok(CommandLine { command: Command::Run(run), .. }) = parse(&["m", "--token-ids", "1,2,3", "--stop", "x"])
        else {
            panic!("ids with commas are a list")
        };
        assert_eq!(run.input.token_ids, Some(vec![1, 2, 3]));
        assert_eq!(run.sampling.stop, ["x"]);
        let Ok(CommandLine { command: Command::Run(run), .. }) = parse(&["m", "--token-ids", "1, 2 ,3"]) else {
            panic!("blanks around ids do no harm")
        };
        assert_eq!(run.input.token_ids, Some(vec![1, 2, 3]));
    }

    #[test]
    fn negative_numbers_are_values_and_not_flags() {
        let mut words = ["--max-tokens", "--top-k", "--seed", "--token-ids"].map(|flag| (flag, false)).to_vec();
        words.extend(["--temperature", "--top-p", "--min-p", "--repetition-penalty"].map(|flag| (flag, false)));
        words.extend(["--presence-penalty", "--frequency-penalty"].map(|flag| (flag, true)));
        for (flag, parses) in words {
            match CommandLine::try_parse_from(["qiao", "run", "m", flag, "-1"]) {
                Ok(_) => assert!(parses, "{flag}"),
                Err(error) => assert!(!parses && error.to_string().contains("invalid value '-1'"), "{error}"),
            }
        }
    }
}
