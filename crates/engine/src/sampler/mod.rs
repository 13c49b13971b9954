//! Choosing the next token from logits, on the host: penalties, then the `sample` operator's semantics, one uniform number a token.

use std::collections::HashMap;

use crate::error::Result;
use crate::generation::SamplingParams;

mod choice;
mod random;

pub use choice::{Chooser, Cutoffs, argmax, log_prob};
pub use random::Uniforms;

/// The tokens of a text so far, counted for penalties.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Every distinct token of prompt and output, with its count in the output.
    counts: HashMap<u32, u32>,
}

impl History {
    /// Notes tokens of the prompt.
    pub fn add_prompt(&mut self, ids: &[u32]) {
        for id in ids {
            self.counts.entry(*id).or_insert(0);
        }
    }

    /// Notes a generated token.
    pub fn add_output(&mut self, id: u32) {
        *self.counts.entry(id).or_insert(0) += 1;
    }

    /// Applies the penalties: repetition once for each distinct token of prompt and output, then frequency and presence for those of
    /// the output. Ids beyond the row are ignored.
    pub fn penalise(&self, logits: &mut [f32], params: &SamplingParams) {
        if !params.has_penalties() {
            return;
        }
        for (id, count) in &self.counts {
            let Some(logit) = logits.get_mut(*id as usize) else { continue };
            if params.repetition_penalty != 1.0 {
                *logit = match *logit < 0.0 {
                    true => *logit * params.repetition_penalty,
                    false => *logit / params.repetition_penalty,
                };
            }
            if *count > 0 {
                *logit -= params.frequency_penalty * *count as f32;
                *logit -= params.presence_penalty;
            }
        }
    }
}

/// The sampler of one sequence.
///
/// The same parameters, prompt and logits give the same tokens; nothing else has influence. A token's uniform number is that of its
/// position, so a text that is cut in two and goes on is the same text.
#[derive(Clone, Debug)]
pub struct Sampler {
    params: SamplingParams,
    uniforms: Uniforms,
    history: History,
    masked: Vec<u32>,
    steps: u64,
    row: Vec<f32>,
    chooser: Chooser,
}

impl Sampler {
    /// Prepares a sequence that begins with a prompt.
    ///
    /// # Errors
    /// Parameters outside their range.
    pub fn new(params: SamplingParams, prompt: &[u32]) -> Result<Sampler> {
        params.check()?;
        let mut history = History::default();
        if params.has_penalties() {
            history.add_prompt(prompt);
        }
        Ok(Sampler {
            uniforms: Uniforms::new(params.seed),
            params,
            history,
            masked: Vec::new(),
            steps: prompt.len() as u64,
            row: Vec::new(),
            chooser: Chooser::default(),
        })
    }

    /// Never chooses these ids: those that the tokenizer cannot decode, in a padded vocabulary.
    pub fn mask(&mut self, ids: Vec<u32>) {
        self.masked = ids;
    }

    /// The parameters.
    pub fn params(&self) -> &SamplingParams {
        &self.params
    }

    /// Chooses the next token and notes it. `forbidden` ids are left out this once (stop ids before the minimum length).
    ///
    /// # Errors
    /// [`EngineError::Logits`](crate::EngineError::Logits) when nothing is left to choose.
    pub fn next(&mut self, logits: &[f32], forbidden: &[u32]) -> Result<u32> {
        let id = if self.params.is_greedy()
            && !self.params.has_penalties()
            && self.masked.is_empty()
            && forbidden.is_empty()
        {
            argmax(logits)?
        } else {
            self.choose(logits, forbidden)?
        };
        self.note(id);
        Ok(id)
    }

    /// The uniform number of the next token, for a device that samples itself.
    pub fn uniform(&self) -> f32 {
        self.uniforms.at(self.steps)
    }

    /// Notes a token that was chosen elsewhere.
    pub fn note(&mut self, id: u32) {
        if self.params.has_penalties() {
            self.history.add_output(id);
        }
        self.steps += 1;
    }

    fn choose(&mut self, logits: &[f32], forbidden: &[u32]) -> Result<u32> {
        self.row.clear();
        self.row.extend_from_slice(logits);
        self.history.penalise(&mut self.row, &self.params);
        for id in self.masked.iter().chain(forbidden) {
            if let Some(logit) = self.row.get_mut(*id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let cutoffs = Cutoffs {
            temperature: self.params.temperature,
            top_k: self.params.top_k,
            top_p: self.params.top_p,
            min_p: self.params.min_p,
        };
        self.chooser.choose(&self.row, cutoffs, self.uniforms.at(self.steps))
    }
}

#[cfg(test)]
mod tests;
