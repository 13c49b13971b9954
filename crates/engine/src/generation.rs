//! How to generate: `generation_config.json`, and the parameters of one request.

use std::path::Path;
use std::time::Duration;

use crate::error::{EngineError, Result};
use crate::json::{self, Object};

/// The file name in a checkpoint directory.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";

/// Parameters of one generation.
///
/// The order of application is that of transformers: penalties, temperature, top-k, top-p, min-p.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the most likely token always.
    pub temperature: f32,
    /// Keeps the k most likely tokens; 0 is off.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens with at least this mass; 1 is off.
    pub top_p: f32,
    /// Drops tokens less likely than this share of the most likely one; 0 is off.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in prompt or output, once per distinct token; 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted once from the logits of tokens in the output; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens in the output, times their count; 0 is off.
    pub frequency_penalty: f32,
    /// The same seed gives the same text.
    pub seed: u64,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// Tokens before any stop id may end the text.
    pub min_tokens: usize,
    /// Strings that end the text; not part of it.
    pub stop: Vec<String>,
    /// Token ids that end the text, in addition to the model's.
    pub stop_token_ids: Vec<u32>,
    /// Whether the model's end-of-sequence ids are ordinary tokens.
    pub ignore_eos: bool,
    /// How long the whole request may take, from its start on; none = any time. When it is over the request ends in
    /// [`qiao_core::Error::Timeout`].
    pub timeout: Option<Duration>,
}

impl Default for SamplingParams {
    /// Greedy, without penalties, 256 tokens at most.
    fn default() -> SamplingParams {
        SamplingParams {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
            max_tokens: 256,
            min_tokens: 0,
            stop: Vec::new(),
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            timeout: None,
        }
    }
}

impl SamplingParams {
    /// Refuses values outside their range, NaN among them.
    ///
    /// # Errors
    /// [`EngineError::Parameter`] naming the first.
    pub fn check(&self) -> Result<()> {
        let refuse =
            |name, expected, found: f32| Err(EngineError::Parameter { name, expected, found: found.to_string() });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("temperature", "a finite number from 0", self.temperature);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", "above 0, at most 1", self.top_p);
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", "from 0 to 1", self.min_p);
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return refuse("repetition_penalty", "a finite number above 0", self.repetition_penalty);
        }
        for (name, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if !value.is_finite() {
                return refuse(name, "a finite number", value);
            }
        }
        Ok(())
    }

    /// Whether any penalty is on.
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }

    /// Whether tokens are chosen without randomness.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

/// What `generation_config.json` says; every key may be absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// End-of-sequence ids.
    pub eos_token_ids: Vec<u32>,
    /// Beginning-of-sequence ids.
    pub bos_token_ids: Vec<u32>,
    /// Padding id.
    pub pad_token_id: Option<u32>,
    /// Whether to sample; absent means greedy.
    pub do_sample: Option<bool>,
    /// See [`SamplingParams::temperature`].
    pub temperature: Option<f32>,
    /// See [`SamplingParams::top_k`].
    pub top_k: Option<usize>,
    /// See [`SamplingParams::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplingParams::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplingParams::repetition_penalty`].
    pub repetition_penalty: Option<f32>,
    /// See [`SamplingParams::max_tokens`].
    pub max_new_tokens: Option<usize>,
    /// See [`SamplingParams::min_tokens`].
    pub min_new_tokens: Option<usize>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` of a checkpoint directory; a missing file says nothing.
    ///
    /// # Errors
    /// When the file is malformed or a key has an unusable value.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<GenerationConfig> {
        match json::read_object_if_present(&dir.as_ref().join(GENERATION_CONFIG_FILE))? {
            Some(object) => GenerationConfig::from_object(&object),
            None => Ok(GenerationConfig::default()),
        }
    }

    /// Parses the text of a `generation_config.json`; `path` is for error texts only.
    ///
    /// # Errors
    /// As [`GenerationConfig::from_dir`].
    pub fn from_json(path: impl AsRef<Path>, text: &[u8]) -> Result<GenerationConfig> {
        GenerationConfig::from_object(&Object::parse(path.as_ref(), text)?)
    }

    fn from_object(object: &Object) -> Result<GenerationConfig> {
        const MANY: usize = 1 << 31;
        let share = |key| {
            let number = object.number(key, "a number from 0 to 1", |share| (0.0..=1.0).contains(&share))?;
            Ok::<_, EngineError>(number.map(|number| number as f32))
        };
        let temperature = object.number("temperature", "a number from 0", |t| (0.0..=1e6).contains(&t))?;
        let repetition =
            object.number("repetition_penalty", "a number above 0, at most 1e6", |r| (1e-6..=1e6).contains(&r))?;
        Ok(GenerationConfig {
            eos_token_ids: object.token_ids("eos_token_id")?,
            bos_token_ids: object.token_ids("bos_token_id")?,
            pad_token_id: match object.get("pad_token_id").and_then(|id| id.as_i64()) {
                // Some tools write −1 for none.
                Some(..0) => None,
                _ => object.token_ids("pad_token_id")?.first().copied(),
            },
            do_sample: object.boolean("do_sample")?,
            temperature: temperature.map(|number| number as f32),
            top_k: object.size("top_k", 0, MANY)?,
            top_p: share("top_p")?,
            min_p: share("min_p")?,
            repetition_penalty: repetition.map(|number| number as f32),
            max_new_tokens: object.size("max_new_tokens", 0, MANY)?,
            min_new_tokens: object.size("min_new_tokens", 0, MANY)?,
        })
    }

    /// The parameters of a request that says nothing: those of the file. Without `do_sample: true` they are greedy, as in transformers;
    /// penalties hold either way.
    pub fn defaults(&self) -> SamplingParams {
        let base = SamplingParams::default();
        let sampled = self.do_sample == Some(true);
        SamplingParams {
            temperature: if sampled { self.temperature.unwrap_or(1.0) } else { 0.0 },
            top_k: self.top_k.unwrap_or(base.top_k),
            // A file's 0 is as good as nothing: the most likely token is always kept.
            top_p: self.top_p.map_or(base.top_p, |p| p.max(f32::MIN_POSITIVE)),
            min_p: self.min_p.unwrap_or(base.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(base.repetition_penalty),
            max_tokens: self.max_new_tokens.unwrap_or(base.max_tokens),
            min_tokens: self.min_new_tokens.unwrap_or(base.min_tokens),
            ..base
        }
    }
}

/// The ids that end a text: of `generation_config.json`, else of `config.json`, else of the tokenizer.
pub fn eos_token_ids(generation: &GenerationConfig, model: &[u32], tokenizer: Option<u32>) -> Vec<u32> {
    if !generation.eos_token_ids.is_empty() {
        return generation.eos_token_ids.clone();
    }
    if !model.is_empty() {
        return model.to_vec();
    }
    tokenizer.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<GenerationConfig> {
        GenerationConfig::from_json("generation_config.json", text.as_bytes())
    }

    #[test]
    fn an_end_id_may_be_one_or_several() {
        assert_eq!(parse(r#"{"eos_token_id": 7}"#).unwrap().eos_token_ids, [7]);
        assert_eq!(parse(r#"{"eos_token_id": [7, 9]}"#).unwrap().eos_token_ids, [7, 9]);
        assert_eq!(parse("{}").unwrap(), GenerationConfig::default());
    }

    #[test]
    fn a_padding_id_below_zero_is_none() {
        assert_eq!(parse(r#"{"pad_token_id": 7}"#).unwrap().pad_token_id, Some(7));
        assert_eq!(parse(r#"{"pad_token_id": -1}"#).unwrap().pad_token_id, None);
        assert!(parse(r#"{"pad_token_id": 0.5}"#).is_err());
    }

    #[test]
    fn the_file_sets_the_defaults_of_a_request() {
        let text = r#"{"do_sample": true, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "max_new_tokens": 99}"#;
        let params = parse(text).unwrap().defaults();
        assert_eq!((params.temperature, params.top_p, params.top_k), (0.7, 0.8, 20));
        assert_eq!((params.repetition_penalty, params.max_tokens), (1.05, 99));
        params.check().unwrap();
    }

    #[test]
    fn without_do_sample_the_defaults_are_greedy_but_penalised() {
        let params = parse(r#"{"temperature": 0.7, "repetition_penalty": 1.1}"#).unwrap().defaults();
        assert!(params.is_greedy() && params.has_penalties());
        assert_eq!(parse(r#"{"do_sample": true}"#).unwrap().defaults().temperature, 1.0);
        parse(r#"{"do_sample": true, "top_p": 0}"#).unwrap().defaults().check().unwrap();
    }

    #[test]
    fn end_ids_are_sought_in_order() {
        let some = parse(r#"{"eos_token_id": 1}"#).unwrap();
        let none = GenerationConfig::default();
        assert_eq!(eos_token_ids(&some, &[2], Some(3)), [1]);
        assert_eq!(eos_token_ids(&none, &[2], Some(3)), [2]);
        assert_eq!(eos_token_ids(&none, &[], Some(3)), [3]);
        assert_eq!(eos_token_ids(&none, &[], None), Vec::<u32>::new());
    }

    #[test]
    fn wrong_values_are_named() {
        for (key, value) in [
            ("temperature", "-1"),
            ("top_p", "1.5"),
            ("top_k", "-3"),
            ("eos_token_id", "\"</s>\""),
            ("do_sample", "1"),
            ("repetition_penalty", "0"),
            ("max_new_tokens", "1e30"),
        ] {
            let message = parse(&format!("{{\"{key}\": {value}}}")).unwrap_err().to_string();
            assert!(message.contains(key), "{key}: {message}");
        }
    }

    #[test]
    fn parameters_outside_their_range_are_named() {
        let base = SamplingParams::default;
        for (name, params) in [
            ("temperature", SamplingParams { temperature: -0.1, ..base() }),
            ("temperature", SamplingParams { temperature: f32::NAN, ..base() }),
            ("top_p", SamplingParams { top_p: 0.0, ..base() }),
            ("min_p", SamplingParams { min_p: 1.1, ..base() }),
            ("repetition_penalty", SamplingParams { repetition_penalty: 0.0, ..base() }),
            ("presence_penalty", SamplingParams { presence_penalty: f32::INFINITY, ..base() }),
            ("frequency_penalty", SamplingParams { frequency_penalty: f32::NAN, ..base() }),
        ] {
            let message = params.check().unwrap_err().to_string();
            assert!(message.starts_with(name), "{message}");
        }
        base().check().unwrap();
    }
}
