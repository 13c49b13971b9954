//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit::TABLE;

const EXAMPLES: &str = "\
Examples:
  qiao run                                       the embedded demo model continues a Tang poem
  qiao run ./Qwen2.5-0.5B --prompt 'Once upon'   a checkpoint directory from Hugging Face
  qiao run ./Qwen2.5-0.5B-Instruct --chat        a conversation, one line a turn
  qiao devices                                   what this machine has
  qiao compare ./model --golden golden.safetensors";

/// Runs language models on whatever chip is present.
#[derive(Parser)]
#[command(name = "qiao", version, about, after_help = format!("{EXAMPLES}\n\n{TABLE}"))]
pub(crate) struct CommandLine {
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
    /// Compare a checkpoint on a device with golden logits.
    #[command(after_help = TABLE)]
    Compare(Compare),
}

#[derive(Args)]
pub(crate) struct Devices {
    /// Write one JSON object to standard output.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where and in which dtype a model runs.
#[derive(Args)]
pub(crate) struct Where {
    /// The device, as 'qiao devices' names it.
    #[arg(long, value_name = "NAME", default_value = "cpu")]
    pub(crate) device: String,
    /// The compute dtype: that of activations and cache; weights stay as they are stored. Without it, the dtype of the weights.
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<Dtype>,
    /// The most tokens that prompt and answer may have together; without it, 4096 or what the model was
    /// made for, whichever is less.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) context: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Dtype {
    F32,
    Bf16,
    F16,
}

#[derive(Args)]
pub(crate) struct Run {
    /// A checkpoint directory: config.json, tokenizer.json, *.safetensors. Without it, the embedded demo model.
    pub(crate) model: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) input: Input,
    #[command(flatten)]
    pub(crate) sampling: Sampling,
    #[command(flatten)]
    pub(crate) on: Where,
    /// Write one JSON object to standard output instead of the text.
    #[arg(long, conflicts_with = "chat")]
    pub(crate) json: bool,
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
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f32>,
    /// Keep the K most likely tokens; 0 = all.
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub(crate) top_k: Option<usize>,
    /// Keep the most likely tokens that together have this probability; 1 = all.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Drop tokens less likely than this share of the most likely one; 0 = none.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
    /// Makes tokens that occurred less likely; 1 = off.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Taken off the logit of every generated token; 0 = off.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) presence_penalty: Option<f32>,
    /// Taken off the logit of a token for each time it was generated; 0 = off.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
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
    /// The checkpoint directory.
    pub(crate) model: PathBuf,
    /// A safetensors file with input_ids [T], logits [T, V] and, where given, greedy_ids [N] and layers.<i>.output.
    #[arg(long, value_name = "FILE")]
    pub(crate) golden: PathBuf,
    #[command(flatten)]
    pub(crate) on: Where,
    /// Write one JSON object to standard output instead of the table. An error beyond all numbers is null there, and a figure
    /// without a limit has none under 'limits'.
    #[arg(long)]
    pub(crate) json: bool,
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
        let Ok(CommandLine { command: Command::Run(run) }) = parse(&["m", "--token-ids", "1,2,3", "--stop", "x"])
        else {
            panic!("ids with commas are a list")
        };
        assert_eq!(run.input.token_ids, Some(vec![1, 2, 3]));
        assert_eq!(run.sampling.stop, ["x"]);
        let Ok(CommandLine { command: Command::Run(run) }) = parse(&["m", "--token-ids", "1, 2 ,3"]) else {
            panic!("blanks around ids do no harm")
        };
        assert_eq!(run.input.token_ids, Some(vec![1, 2, 3]));
    }

    #[test]
    fn negative_numbers_are_values_and_not_flags() {
        let mut words = ["--max-tokens", "--top-k", "--seed", "--token-ids"].map(|flag| (flag, false)).to_vec();
        words.extend(["--temperature", "--top-p", "--min-p", "--repetition-penalty"].map(|flag| (flag, true)));
        for (flag, parses) in words {
            match CommandLine::try_parse_from(["qiao", "run", "m", flag, "-1"]) {
                Ok(_) => assert!(parses, "{flag}"),
                Err(error) => assert!(!parses && error.to_string().contains("invalid value '-1'"), "{error}"),
            }
        }
    }
}
