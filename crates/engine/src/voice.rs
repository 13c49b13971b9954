//! Tokens to pieces of text: what a sequence says, and when it ends. The same for a generation alone and for one of many.

use std::sync::Arc;

use crate::detokenize::Detokenizer;
use crate::error::{EngineError, Result};
use crate::generation::SamplingParams;
use crate::stop::StopMatcher;
use crate::text::TextModel;
use crate::tokenizer::Vocabulary;

/// A part of the text, as it becomes certain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The text; never a part of a character, never a part of a stop string. Empty for a model without tokenizer.
    pub text: String,
    /// The tokens that came since the last piece. The end-of-text id is not among them; the tokens of a stop string are.
    pub token_ids: Vec<u32>,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// An end-of-text id, a stop id or a stop string.
    Stop,
    /// The most tokens that were asked for, or a full context.
    Length,
    /// Somebody asked for the end.
    Cancelled,
}

impl FinishReason {
    /// The name that reports use.
    pub fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        }
    }
}

/// What turns a model's tokens into text.
#[derive(Clone, Debug, Default)]
pub struct Speech {
    /// The text of each id; none gives token ids without text.
    pub vocabulary: Option<Arc<Vocabulary>>,
    /// The ids that end a text.
    pub eos_ids: Vec<u32>,
    /// Ids of the model's vocabulary that stand for no text; they are never chosen.
    pub undecodable: Vec<u32>,
}

impl Speech {
    /// Token ids only: no text, and no id that ends one.
    pub fn none() -> Speech {
        Speech::default()
    }
}

impl TryFrom<&TextModel> for Speech {
    type Error = EngineError;

    fn try_from(text: &TextModel) -> Result<Speech> {
        let vocabulary = match text.has_tokenizer() {
            true => Some(text.tokenizer()?.vocabulary()?),
            false => None,
        };
        Ok(Speech { vocabulary, eos_ids: text.eos_ids().to_vec(), undecodable: text.undecodable().to_vec() })
    }
}

/// What one sequence says.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    detokenizer: Option<Detokenizer>,
    stops: StopMatcher,
    stop_ids: Vec<u32>,
    min_tokens: usize,
    max_tokens: usize,
    /// Tokens that came, the end-of-text id apart.
    spoken: usize,
    piece: Piece,
}

impl Voice {
    /// A voice that has said nothing.
    ///
    /// # Errors
    /// Stop strings without a vocabulary.
    pub(crate) fn new(speech: &Speech, params: &SamplingParams) -> Result<Voice> {
        if speech.vocabulary.is_none() && !params.stop.is_empty() {
            return Err(EngineError::Parameter {
                name: "stop",
                expected: "empty where the model has no tokenizer",
                found: format!("{:?}", params.stop),
            });
        }
        let mut stop_ids = params.stop_token_ids.clone();
        if !params.ignore_eos {
            stop_ids.extend_from_slice(&speech.eos_ids);
        }
        Ok(Voice {
            detokenizer: speech.vocabulary.clone().map(|vocabulary| Detokenizer::continuing(vocabulary, true)),
            stops: StopMatcher::new(params.stop.clone()),
            stop_ids,
            min_tokens: params.min_tokens,
            max_tokens: params.max_tokens,
            spoken: 0,
            piece: Piece::default(),
        })
    }

    /// Tokens that came so far, the end-of-text id apart.
    pub(crate) fn spoken(&self) -> usize {
        self.spoken
    }

    /// Tokens that may still come.
    pub(crate) fn left(&self) -> usize {
        self.max_tokens.saturating_sub(self.spoken)
    }

    /// Ids that may not come next.
    pub(crate) fn forbidden(&self) -> &[u32] {
        if self.spoken < self.min_tokens { &self.stop_ids } else { &[] }
    }

    /// Takes the next token; says why the text ends with it, where it does. `full`: no token fits behind this one.
    pub(crate) fn hear(&mut self, id: u32, full: bool) -> Option<FinishReason> {
        if self.stop_ids.contains(&id) {
            return Some(FinishReason::Stop);
        }
        self.spoken += 1;
        self.piece.token_ids.push(id);
        if let Some(detokenizer) = &mut self.detokenizer {
            let released = self.stops.push(&detokenizer.push(id));
            self.piece.text.push_str(&released.text);
            if released.stopped_by.is_some() {
                return Some(FinishReason::Stop);
            }
        }
        (full || self.left() == 0).then_some(FinishReason::Length)
    }

    /// What there is to give out, where it is something.
    pub(crate) fn give(&mut self) -> Option<Piece> {
        let ready = match self.detokenizer {
            Some(_) => !self.piece.text.is_empty(),
            None => !self.piece.token_ids.is_empty(),
        };
        ready.then(|| std::mem::take(&mut self.piece))
    }

    /// The last piece: what was held back.
    pub(crate) fn finish(&mut self) -> Piece {
        if let Some(detokenizer) = &mut self.detokenizer {
            let released = self.stops.push(&detokenizer.flush());
            self.piece.text.push_str(&released.text);
            self.piece.text.push_str(&self.stops.finish());
        }
        std::mem::take(&mut self.piece)
    }
}
