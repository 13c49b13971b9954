//! Encoders of the block formats: the scales (and minima) of the least weighted squared error, by a bounded search.
//!
//! A block is encoded in three steps: its scales are settled and rounded to what the format stores, codes are chosen
//! nearest under the stored scales, and both are written. Bytes of one input are the same everywhere: nothing here
//! depends on the machine.

mod levels;

mod search;

mod settle;

mod superblock;

mod q32;

mod iq4;
mod kquant;
mod mxfp4;

use qiao_core::{DType, Error, Result};

pub(crate) use levels::{Kind, Levels, Linear};
pub(crate) use search::{Block, inverse};
pub(crate) use settle::Settled;

/// How one block format is encoded.
pub(crate) struct Format {
    /// Settles the scales of one block.
    pub(crate) settle: fn(Block<'_>) -> Settled,
    /// Writes one block.
    pub(crate) write: fn(&Settled, &[u8], &mut [u8]),
    /// What codes stand for.
    pub(crate) kind: Kind,
    /// Elements under one scale.
    pub(crate) part: usize,
    /// Magnitudes beyond this are cut to it: no scale of the format reaches further.
    pub(crate) limit: f32,
}

/// Beyond what an f16 scale, an integer scale and a code reach together.
const F16_LIMIT: f32 = 1e9;

/// The encoder of a block format.
pub(crate) fn format(dtype: DType) -> Option<Format> {
    use Kind::Linear as L;
    let row = |settle, write, kind, part| Format { settle, write, kind, part, limit: F16_LIMIT };
    Some(match dtype {
        DType::Q4_0 => row(q32::settle_q4_0, q32::write_q4_0, L(q32::Q4_0), 32),
        DType::Q4_1 => row(q32::settle_q4_1, q32::write_q4_1, L(q32::Q4_1), 32),
        DType::Q5_0 => row(q32::settle_q5_0, q32::write_q5_0, L(q32::Q5_0), 32),
        DType::Q5_1 => row(q32::settle_q5_1, q32::write_q5_1, L(q32::Q5_1), 32),
        DType::Q8_0 => row(q32::settle_q8_0, q32::write_q8_0, L(q32::Q8_0), 32),
        DType::Q2K => row(kquant::settle_q2_k, kquant::write_q2_k, L(kquant::Q2_K), 16),
        DType::Q3K => row(kquant::settle_q3_k, kquant::write_q3_k, L(kquant::Q3_K), 16),
        DType::Q4K => row(kquant::settle_q4_k, kquant::write_q4_k, L(kquant::Q4_K), 32),
        DType::Q5K => row(kquant::settle_q5_k, kquant::write_q5_k, L(kquant::Q5_K), 32),
        DType::Q6K => row(kquant::settle_q6_k, kquant::write_q6_k, L(kquant::Q6_K), 16),
        DType::Iq4Nl => row(iq4::settle_nl, iq4::write_nl, Kind::Iq4, 32),
        DType::Iq4Xs => row(iq4::settle_xs, iq4::write_xs, Kind::Iq4, 32),
        DType::Mxfp4 => Format { limit: mxfp4::LIMIT, ..row(mxfp4::settle, mxfp4::write, Kind::Fp4, 32) },
        _ => return None,
    })
}

/// The least weight of an element beside the largest of its block: an element that nothing weighs still gets the code
/// nearest to it, and a sub-block that nothing weighs a fitting scale.
const LEAST_WEIGHT: f32 = 1e-9;

/// Weights of a block in (0, 1]; alike where nothing says otherwise.
pub(crate) fn weigh(importance: Option<&[f32]>, w: &mut [f32]) {
    let largest = importance.map_or(0.0, |i| i.iter().copied().fold(0.0, f32::max));
    match importance {
        Some(importance) if largest > 0.0 => {
            for (w, i) in w.iter_mut().zip(importance) {
                *w = (i / largest).max(LEAST_WEIGHT);
            }
        }
        _ => w.fill(1.0),
    }
}

/// Refuses what is no finite number, or no weight.
pub(crate) fn check_row(what: &str, x: &[f32], importance: Option<&[f32]>) -> Result<()> {
    if let Some(i) = x.iter().position(|v| !v.is_finite()) {
        return Err(Error::invalid(what, format!("element {i} is {}", x[i]), "give finite numbers"));
    }
    let Some(weights) = importance else { return Ok(()) };
    if weights.len() != x.len() {
        let found = format!("{} importances for {} elements", weights.len(), x.len());
        return Err(Error::invalid(what, found, "give one importance per element"));
    }
    if let Some(i) = weights.iter().position(|v| !v.is_finite() || *v < 0.0) {
        let found = format!("the importance of element {i} is {}", weights[i]);
        return Err(Error::invalid(what, found, "give finite importances of at least 0"));
    }
    Ok(())
}

/// Encodes consecutive blocks of a block format, the inverse of [`crate::decode_row`].
///
/// - `x` holds a whole number of blocks, and `out` takes exactly those.
/// - `importance[i]`, at least 0, weighs the squared error of element i (a row of an importance matrix); without it all
///   elements weigh alike. Only ratios within a block matter; a block whose weights are all 0 counts as unweighted.
/// - What is minimised is `Σ importance·(x − decoded)²` per block. Magnitudes beyond a format's reach saturate.
///
/// # Errors
/// A dtype that is no block format, sizes that do not belong together, an element that is not finite, an importance
/// that is negative or not finite.
pub fn encode_row(dtype: DType, x: &[f32], importance: Option<&[f32]>, out: &mut [u8]) -> Result<()> {
    let what = format!("encoding a row to {dtype}");
    let format =
        format(dtype).ok_or_else(|| Error::invalid(what.as_str(), "it is no block format", "give a block format"))?;
    if dtype.bytes_for(x.len()) != Some(out.len()) {
        return Err(Error::invalid(
            what,
            format!("{} bytes for {} elements", out.len(), x.len()),
            format!("give {} bytes for every {} elements", dtype.block_bytes(), dtype.block_elems()),
        ));
    }
    check_row(&what, x, importance)?;
    let elems = dtype.block_elems();
    let (mut cut, mut weights, mut codes) = ([0f32; 256], [1f32; 256], [0u8; 256]);
    for (i, (x, out)) in x.chunks_exact(elems).zip(out.chunks_exact_mut(dtype.block_bytes())).enumerate() {
        let (cut, codes) = (&mut cut[..elems], &mut codes[..elems]);
        for (cut, x) in cut.iter_mut().zip(x) {
            *cut = x.clamp(-format.limit, format.limit);
        }
        weigh(importance.map(|w| &w[i * elems..][..elems]), &mut weights[..elems]);
        let settled = (format.settle)(Block { x: cut, w: &weights[..elems] });
        settled.codes(format.kind, format.part, cut, codes);
        (format.write)(&settled, codes, out);
    }
    Ok(())
}
