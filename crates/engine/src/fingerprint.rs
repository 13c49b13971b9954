//! What a model is, in few bytes: so that keys and values of one are not taken for those of another.

use sha2::{Digest, Sha256};

use qiao_core::DType;

use crate::config::ModelConfig;
use crate::model::DecoderSpec;
use crate::weights::Weights;

/// Samples of each file of a checkpoint.
const SAMPLES: usize = 256;

/// Bytes of a sample.
const SAMPLE: usize = 64;

/// Two SHA-256 sums that models with the same keys and values have in common.
///
/// - `settings`: all that the graph is built from, the rotary embedding, and the dtype of activations.
/// - `weights`: name, shape and form of every tensor, and how it is unpacked; the length of every file and 256 samples of 64 bytes,
///   evenly spread over it. Files up to 16 KiB are covered whole. It costs a few pages of each file; a change to a small part of a
///   large file, such as one norm of a model, may go unseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// What `config.json` and the load options decide.
    pub settings: [u8; 32],
    /// What the checkpoint holds.
    pub weights: [u8; 32],
}

impl Fingerprint {
    pub(crate) fn of(weights: &Weights, config: &ModelConfig, spec: &DecoderSpec, compute: DType) -> Fingerprint {
        let settings = format!("{spec:?} {:?} {} {compute}", config.rope, config.max_position_embeddings);
        Fingerprint { settings: Sha256::digest(settings).into(), weights: of_weights(weights) }
    }
}

fn of_weights(weights: &Weights) -> [u8; 32] {
    let mut sum = Sha256::new();
    for name in weights.names() {
        let shape = weights.handle(name).map(|tensor| tensor.shape).unwrap_or_default();
        let (form, packed) = (weights.form(name), weights.packed_linear(name));
        let line = format!("{name:?} {shape:?} {form:?} {packed:?} {}\n", weights.byte_len(name));
        sum.update(line);
    }
    for file in weights.mapped() {
        let bytes = file.bytes();
        sum.update((bytes.len() as u64).to_le_bytes());
        for at in places(bytes.len()) {
            sum.update(&bytes[at..bytes.len().min(at + SAMPLE)]);
        }
    }
    sum.finalize().into()
}

/// Where the samples of a file begin: the last one ends with it.
fn places(len: usize) -> impl Iterator<Item = usize> {
    let last = len.saturating_sub(SAMPLE);
    let count = if len == 0 { 0 } else { len.div_ceil(SAMPLE).min(SAMPLES) };
    let gaps = count.saturating_sub(1).max(1) as u128;
    (0..count as u128).map(move |i| (last as u128 * i / gaps) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_cover_a_small_file_and_both_ends_of_a_large_one() {
        for len in [0, 1, 63, 64, 65, 200, SAMPLE * SAMPLES] {
            let mut seen = vec![false; len];
            for at in places(len) {
                seen[at..len.min(at + SAMPLE)].fill(true);
            }
            assert!(seen.iter().all(|&seen| seen), "{len}");
        }
        for len in [SAMPLE * SAMPLES + 1, 5_000_000_000, usize::MAX] {
            let places: Vec<usize> = places(len).collect();
            assert_eq!((places.len(), places[0], places[SAMPLES - 1]), (SAMPLES, 0, len - SAMPLE));
            let widest = places.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(widest <= len / (SAMPLES - 1) + 1, "{len}");
        }
    }
}
