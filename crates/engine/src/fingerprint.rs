//! What a model is, in few bytes: so that keys and values of one are not taken for those of another.

use std::ops::Range;

use sha2::{Digest, Sha256};

use qiao_core::DType;

use crate::config::ModelConfig;
use crate::model::DecoderSpec;
use crate::weights::Weights;

/// Samples of each file of a checkpoint.
const SAMPLES: usize = 256;

/// Bytes of a sample.
const SAMPLE: usize = 64;

/// Largest tensor that is covered whole: norms and biases are smaller.
const SMALL: usize = 1 << 16;

/// Two SHA-256 sums that models with the same keys and values have in common.
///
/// - `settings`: all that the graph is built from, the rotary embedding, and the dtype of activations.
/// - `weights`: name, shape and form of every tensor, and how it is unpacked; every stored tensor of up to 64 KiB whole, and the 64
///   bytes in the middle of every other; the length of every file and 256 samples of 64 bytes, evenly spread over it. It costs a few
///   pages of each file and tensor; a change to a part of a large tensor may go unseen.
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
    for (file, range) in weights.stored() {
        sum.update(&file.bytes()[covered(range)]);
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

/// What is looked at of a tensor that lies there: all of a small one, else the middle.
fn covered(tensor: Range<usize>) -> Range<usize> {
    if tensor.len() <= SMALL {
        return tensor;
    }
    let from = tensor.start + (tensor.len() - SAMPLE) / 2;
    from..from + SAMPLE
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
    fn a_change_that_no_sample_of_the_file_meets_is_seen() {
        use safetensors::tensor::{Dtype, TensorView, serialize};
        // The samples of the file are further apart than either kind of tensor is long.
        let sizes = [SMALL, SMALL + 1].repeat(200);
        let data = vec![1; SMALL + 1];
        let view = |size: usize| TensorView::new(Dtype::U8, vec![size], &data[..size]).unwrap();
        let views = sizes.iter().enumerate().map(|(i, &size)| (format!("t{i:03}"), view(size)));
        let bytes = serialize(views, None).unwrap();
        let sum = |range: Range<usize>| {
            let mut changed = bytes.clone();
            changed[range].fill(2);
            of_weights(&Weights::embedded("w", changed.leak()).unwrap())
        };
        let plain = sum(0..0);
        assert_eq!(sum(0..0), plain);
        let first = bytes.len() - sizes.iter().sum::<usize>();
        let begins = sizes.iter().scan(first, |at, &size| Some(std::mem::replace(at, *at + size)));
        let tensors: Vec<Range<usize>> = begins.zip(&sizes).map(|(begin, size)| begin..begin + size).collect();
        let unmet =
            |tensor: &&Range<usize>| !places(bytes.len()).any(|at| at < tensor.end && at + SAMPLE > tensor.start);
        let of = |size: usize| tensors.iter().filter(unmet).find(|tensor| tensor.len() == size).unwrap().clone();
        let (small, large) = (of(SMALL), of(SMALL + 1));
        for changed in [small.start..small.start + 1, small.end - 1..small.end, large.clone()] {
            assert_ne!(sum(changed.clone()), plain, "{changed:?}");
        }
    }

    #[test]
    fn what_is_covered_of_a_tensor_lies_in_it() {
        assert_eq!(covered(7..7), 7..7);
        assert_eq!(covered(5..5 + SMALL), 5..5 + SMALL);
        assert_eq!(covered(100..101 + SMALL), 100 + (SMALL + 1 - SAMPLE) / 2..100 + (SMALL + 1 + SAMPLE) / 2);
    }

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
