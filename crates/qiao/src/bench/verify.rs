//! Whether repeated runs gave the same tokens.

use serde::Serialize;

/// Where a repeated run first gave another token than the first run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The round, warm-up included, from 0.
    pub round: usize,
    /// The sequence of the round's batch, from 0.
    pub sequence: usize,
    /// The generated token, from 0.
    pub token: usize,
}

/// What comparing the greedy tokens of all rounds gave, warm-up included. A token can only be chosen where every logit is a
/// number, so a round that ended is one whose logits were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Rounds that were compared with the first.
    pub compared: usize,
    /// Whether all tokens were those of the first round.
    pub identical: bool,
    /// The first difference.
    pub first_difference: Option<Difference>,
    /// Whether the device says that the same plan on the same bytes gives the same bytes.
    pub deterministic_device: bool,
    /// `passed`; `failed`: tokens differ on a device that says it is deterministic; `differs`: they differ on one that does
    /// not say so; `not repeated`: there was one round only.
    pub status: &'static str,
    /// FNV-1a of the first round's tokens, as little-endian u32, in hexadecimal: two runs of one model, seed and point on
    /// one device can be compared by it.
    pub digest: String,
}

impl Verified {
    /// Whether nothing speaks against the results.
    pub fn holds(&self) -> bool {
        self.status != "failed"
    }
}

/// Compares rounds with the first one.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    deterministic: bool,
    first: Option<Vec<Vec<u32>>>,
    rounds: usize,
    difference: Option<Difference>,
}

impl Witness {
    pub(crate) fn new(deterministic: bool) -> Witness {
        Witness { deterministic, first: None, rounds: 0, difference: None }
    }

    /// Takes the tokens of a round's sequences.
    pub(crate) fn add(&mut self, tokens: Vec<Vec<u32>>) {
        let round = self.rounds;
        self.rounds += 1;
        let Some(first) = &self.first else {
            self.first = Some(tokens);
            return;
        };
        if self.difference.is_none() {
            self.difference = first.iter().zip(&tokens).enumerate().find_map(|(sequence, (a, b))| {
                let token = first_difference(a, b)?;
                Some(Difference { round, sequence, token })
            });
        }
    }

    pub(crate) fn verdict(&self) -> Verified {
        let status = match (self.rounds, self.difference, self.deterministic) {
            (0 | 1, ..) => "not repeated",
            (_, None, _) => "passed",
            (_, Some(_), true) => "failed",
            (_, Some(_), false) => "differs",
        };
        let bytes = self.first.iter().flatten().flatten().flat_map(|id| id.to_le_bytes());
        Verified {
            compared: self.rounds.saturating_sub(1),
            identical: self.difference.is_none(),
            first_difference: self.difference,
            deterministic_device: self.deterministic,
            status,
            digest: format!("{:016x}", fnv1a(bytes)),
        }
    }
}

/// The first place where two lists part; the end of the shorter one where they are alike that far.
fn first_difference(a: &[u32], b: &[u32]) -> Option<usize> {
    let common = a.iter().zip(b).position(|(a, b)| a != b);
    common.or((a.len() != b.len()).then_some(a.len().min(b.len())))
}

/// 64-bit FNV-1a (Fowler, Noll, Vo).
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(deterministic: bool, rounds: &[[&[u32]; 2]]) -> Verified {
        let mut witness = Witness::new(deterministic);
        rounds.iter().for_each(|round| witness.add(round.iter().map(|ids| ids.to_vec()).collect()));
        witness.verdict()
    }

    #[test]
    fn equal_tokens_pass() {
        let same: [&[u32]; 2] = [&[1, 2], &[3, 4]];
        let verdict = after(true, &[same, same, same]);
        assert_eq!((verdict.status, verdict.compared, verdict.holds()), ("passed", 2, true));
        assert_eq!(after(true, &[same]).status, "not repeated");
        assert_eq!(after(false, &[same, same]).digest, verdict.digest);
    }

    #[test]
    fn another_token_fails_on_a_deterministic_device_and_is_told_on_any() {
        let rounds: [[&[u32]; 2]; 4] = [[&[1, 2], &[3, 4]], [&[1, 2], &[3, 4]], [&[1, 2], &[3, 5]], [&[9, 2], &[3, 4]]];
        let verdict = after(true, &rounds);
        let first_difference = Some(Difference { round: 2, sequence: 1, token: 1 });
        assert_eq!((verdict.status, verdict.holds(), verdict.identical), ("failed", false, false));
        assert_eq!(verdict.first_difference, first_difference);
        let verdict = after(false, &rounds);
        assert_eq!((verdict.status, verdict.holds(), verdict.first_difference), ("differs", true, first_difference));
    }

    #[test]
    fn a_missing_token_is_a_difference() {
        let verdict = after(true, &[[&[1, 2], &[3]], [&[1], &[3]]]);
        assert_eq!(verdict.first_difference, Some(Difference { round: 1, sequence: 0, token: 1 }));
    }

    #[test]
    fn the_digest_is_the_published_hash() {
        assert_eq!(fnv1a(b"foobar".iter().copied()), 0x8594_4171_f739_67e8);
    }
}
