//! Quantisation that passes errors on (GPTQ, Frantar et al. 2022): each input channel takes up, as far as the inputs are
//! correlated, what the channels before it got wrong, so that `‖X·(W − Wq)ᵀ‖²` is smaller than if each element were
//! rounded alone.
//!
//! The Hessian of a layer's inputs is gathered once ([`Hessian`]) and factorised once ([`Factor`]); any matrices that see
//! these inputs are then quantised with it, to a block format ([`encode`]) or in groups ([`group`]).

mod factor;

mod columns;

use qiao_core::{DType, Error, Result};

use crate::encode::{self, Format, Settled, check_row, inverse};
use crate::group::{Grouping, Row};
use crate::nibble;
use columns::{Columns, TILE, walk};
pub use factor::{Factor, Hessian, Options};

/// The rows of a matrix `[N, K]`, all of them finite.
fn rows<'a>(what: &str, weights: &'a [f32], factor: &Factor) -> Result<Vec<&'a [f32]>> {
    let k = factor.k();
    if k == 0 || !weights.len().is_multiple_of(k) {
        let found = format!("{} weights for the factor's K = {k}", weights.len());
        return Err(Error::invalid(what, found, "give whole rows of K, above 0"));
    }
    check_row(what, weights, None)?;
    Ok(weights.chunks_exact(k).collect())
}

/// Encodes a matrix `[N, K]` to a block format, errors passed on. Gives its bytes, row after row, and
/// `‖X·(W − Wq)ᵀ‖²` with damping.
///
/// # Errors
/// A dtype that is no block format, K that is no whole number of blocks or not the factor's, a weight that is not finite.
pub fn encode(dtype: DType, weights: &[f32], factor: &Factor) -> Result<(Vec<u8>, f64)> {
    let what = format!("encoding a matrix to {dtype} with errors passed on");
    let format = encode::format(dtype)
        .ok_or_else(|| Error::invalid(what.as_str(), "it is no block format", "give a block format"))?;
    let rows = rows(&what, weights, factor)?;
    let Some(row_bytes) = dtype.bytes_for(factor.k()) else {
        let found = format!("K = {}", factor.k());
        return Err(Error::invalid(what, found, format!("give a multiple of {}", dtype.block_elems())));
    };
    let blocks = factor.k() / dtype.block_elems();
    let mut columns = Blocks {
        format,
        elems: dtype.block_elems(),
        k: factor.k(),
        settled: vec![Settled::default(); TILE * blocks],
        codes: vec![0; TILE * factor.k()],
    };
    let (mut out, mut cost) = (vec![0u8; rows.len() * row_bytes], 0.0);
    for (rows, out) in rows.chunks(TILE).zip(out.chunks_mut(TILE * row_bytes)) {
        cost += walk(factor, rows, &mut columns);
        for (i, out) in out.chunks_exact_mut(dtype.block_bytes()).enumerate() {
            let codes = &columns.codes[i * columns.elems..][..columns.elems];
            (columns.format.write)(&columns.settled[i], codes, out);
        }
    }
    Ok((out, cost))
}

/// Blocks of a tile of rows.
struct Blocks {
    format: Format,
    elems: usize,
    k: usize,
    /// Per row, per block.
    settled: Vec<Settled>,
    /// Per row, per channel.
    codes: Vec<u8>,
}

impl Columns for Blocks {
    fn group(&self) -> usize {
        self.elems
    }

    fn settle(&mut self, lane: usize, group: usize, weights: &[f32], costs: &[f32]) {
        let (mut x, mut w) = ([0f32; 256], [1f32; 256]);
        let (x, w) = (&mut x[..weights.len()], &mut w[..weights.len()]);
        for (x, v) in x.iter_mut().zip(weights) {
            *x = v.clamp(-self.format.limit, self.format.limit);
        }
        encode::weigh(Some(costs), w);
        self.settled[lane * (self.k / self.elems) + group] = (self.format.settle)(encode::Block { x, w });
    }

    fn quantise(&mut self, lane: usize, channel: usize, weight: f32) -> f32 {
        let settled = &self.settled[(lane * self.k + channel) / self.elems];
        let (scale, offset) = settled.affine(channel % self.elems / self.format.part);
        let weight = weight.clamp(-self.format.limit, self.format.limit);
        let code = self.format.kind.code((weight - offset) * inverse(scale));
        self.codes[lane * self.k + channel] = code;
        scale * self.format.kind.level(code) + offset
    }
}

/// Quantises a matrix `[N, K]` in groups, errors passed on. Gives its rows and `‖X·(W − Wq)ᵀ‖²` with damping.
///
/// # Errors
/// As [`Grouping::encode_row`], and K that is not the factor's.
pub fn group(grouping: &Grouping, weights: &[f32], factor: &Factor) -> Result<(Vec<Row>, f64)> {
    let what = "quantising a matrix in groups with errors passed on";
    let rows = rows(what, weights, factor)?;
    grouping.check(what, factor.k())?;
    let groups = grouping.groups(factor.k());
    let mut columns = Groups {
        grouping: *grouping,
        k: factor.k(),
        groups,
        settled: vec![(0.0, 0.0); TILE * groups],
        codes: vec![0; TILE * factor.k()],
    };
    let (mut out, mut cost) = (Vec::with_capacity(rows.len()), 0.0);
    for rows in rows.chunks(TILE) {
        cost += walk(factor, rows, &mut columns);
        out.extend((0..rows.len()).map(|lane| columns.row(lane)));
    }
    Ok((out, cost))
}

/// Groups of a tile of rows.
struct Groups {
    grouping: Grouping,
    k: usize,
    groups: usize,
    /// Scale and zero point, per row, per group.
    settled: Vec<(f32, f32)>,
    /// Per row, per channel.
    codes: Vec<u8>,
}

impl Groups {
    fn row(&self, lane: usize) -> Row {
        let settled = &self.settled[lane * self.groups..][..self.groups];
        let codes = &self.codes[lane * self.k..][..self.k];
        let zero = |s: &(f32, f32)| s.1 as u8;
        Row {
            codes: if self.grouping.bits == 4 { nibble::pack(codes) } else { codes.to_vec() },
            scales: settled.iter().map(|s| s.0).collect(),
            zeros: if self.grouping.symmetric { Vec::new() } else { settled.iter().map(zero).collect() },
        }
    }
}

impl Columns for Groups {
    fn group(&self) -> usize {
        if self.grouping.group_size == 0 { self.k } else { self.grouping.group_size }
    }

    fn settle(&mut self, lane: usize, group: usize, weights: &[f32], costs: &[f32]) {
        let mut w = vec![1f32; weights.len()];
        encode::weigh(Some(costs), &mut w);
        self.settled[lane * self.groups + group] = self.grouping.settle(weights, &w);
    }

    fn quantise(&mut self, lane: usize, channel: usize, weight: f32) -> f32 {
        let group = channel.checked_div(self.grouping.group_size).unwrap_or(0);
        let (scale, zero) = self.settled[lane * self.groups + group];
        let code = self.grouping.code(weight, scale, zero);
        self.codes[lane * self.k + channel] = code;
        let level = if self.grouping.symmetric { code as i8 as f32 } else { code as f32 - zero };
        level * scale
    }
}
