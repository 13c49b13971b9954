//! The steps that prompts and tokens run in.

/// One kind of step: as many new tokens for each of some sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) sequences: usize,
    /// New tokens of each sequence.
    pub(super) tokens: usize,
    /// Tokens that each sequence holds before.
    pub(super) past: usize,
    /// Whether the last token of each sequence wants logits.
    pub(super) last: bool,
}

impl Shape {
    /// What the graph depends on.
    pub(super) fn graph_key(self) -> (usize, usize, bool) {
        (self.sequences, self.tokens, self.last)
    }
}

/// The step that gives each sequence its token at position `context` − 1.
pub(super) fn decode_step(batch: usize, context: usize) -> Shape {
    Shape { sequences: batch, tokens: 1, past: context - 1, last: true }
}

/// The steps of `batch` prompts of `prompt` tokens, and how many times each runs. A prompt that is longer than `most` tokens runs
/// in chunks of as many; shorter ones share a step as far as it has room.
pub(super) fn prefill_steps(batch: usize, prompt: usize, most: usize) -> Vec<(Shape, u64)> {
    let whole = |sequences| Shape { sequences, tokens: prompt, past: 0, last: true };
    if prompt <= most {
        let together = (most / prompt).clamp(1, batch);
        let all = [(whole(together), batch / together), (whole(batch % together), 1)];
        return all.into_iter().filter(|(s, _)| s.sequences > 0).map(|(s, times)| (s, times as u64)).collect();
    }
    let chunk = |past| {
        let tokens = most.min(prompt - past);
        (Shape { sequences: 1, tokens, past, last: past + tokens == prompt }, batch as u64)
    };
    (0..prompt).step_by(most).map(chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_of_every_prompt_runs_once() {
        for (batch, prompt) in [(1, 1), (1, 512), (1, 513), (3, 100), (7, 200), (64, 16), (2, 1300), (5, 512)] {
            let steps = prefill_steps(batch, prompt, 512);
            let tokens: usize = steps.iter().map(|(s, times)| s.sequences * s.tokens * *times as usize).sum();
            assert_eq!(tokens, batch * prompt, "{batch} prompts of {prompt}");
            assert!(steps.iter().all(|(s, times)| *times > 0 && s.sequences * s.tokens <= 512));
            let ends: usize =
                steps.iter().filter(|(s, _)| s.last).map(|(s, times)| s.sequences * *times as usize).sum();
            assert_eq!(ends, batch, "each prompt has one last token");
        }
        let steps = prefill_steps(2, 1300, 512);
        let each: Vec<_> = steps.iter().map(|(s, times)| (s.past, s.tokens, s.last, *times)).collect();
        assert_eq!(each, [(0, 512, false, 2), (512, 512, false, 2), (1024, 276, true, 2)]);
    }
}
