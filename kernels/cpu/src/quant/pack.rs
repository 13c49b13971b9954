//! The packing of panels.

use super::form::{QuantCodes, QuantFormat, ScaleForm};
use super::{CHUNK, blocks};
use crate::layout::NR;

/// Packs one panel of `rows.len()` output features (1 to 16), each row the stored bytes of its `k` elements, into `dst`,
/// which holds [`QuantFormat::panel_len`] bytes. Missing output features have scales of zero, or codes of zero where
/// scales lie beside them.
///
/// # Panics
/// When lengths disagree.
pub fn pack_quant_panel(dst: &mut [u8], format: QuantFormat, k: usize, rows: &[&[u8]]) {
    assert_eq!(dst.len(), format.panel_len(k), "length of a packed panel");
    assert!(rows.len() <= NR, "a panel holds {NR} output features");
    assert!(rows.iter().all(|r| r.len() == format.row_bytes(k)), "bytes of a row of {k} elements");
    dst.fill(0);
    let (codes, scales) = dst.split_at_mut(format.codes_len(k));
    let chunk_bytes = format.codes().chunk_bytes();
    let (elems, bytes) = format.block();
    // Where scales lie beside the codes the whole row counts as one block.
    let per_block = if format.carries_scales() { elems / CHUNK } else { usize::MAX };
    let mut out = [0; CHUNK];
    for (chunk, dst) in codes.chunks_exact_mut(chunk_bytes).enumerate() {
        let (block, s) = (chunk / per_block, chunk % per_block);
        for (lane, row) in rows.iter().enumerate() {
            blocks::codes(format, &row[block * bytes..], s, &mut out);
            put(dst, format, lane, &out);
        }
    }
    for (lane, row) in rows.iter().enumerate() {
        pack_scales(scales, format, lane, row);
    }
}

/// Writes the codes of one output to a chunk.
fn put(chunk: &mut [u8], format: QuantFormat, lane: usize, codes: &[u8; CHUNK]) {
    let mut codes = *codes;
    for code in &mut codes {
        *code ^= format.flip();
    }
    let (low, high) = match format.codes() {
        QuantCodes::Bits(low, high) => (low, high),
        QuantCodes::Table => (4, 0),
        QuantCodes::Bytes => {
            for (word, codes) in chunk.chunks_exact_mut(4 * NR).zip(codes.chunks_exact(4)) {
                word[4 * lane..][..4].copy_from_slice(codes);
            }
            return;
        }
        QuantCodes::E4M3 | QuantCodes::E5M2 => return (0..CHUNK).for_each(|i| chunk[i * NR + lane] = codes[i]),
    };
    let (plane, above) = chunk.split_at_mut(low as usize * 4 * NR);
    put_plane(plane, lane, low, 0, &codes);
    if high > 0 {
        put_plane(above, lane, high, low, &by_bytes(format, &codes, high as usize));
    }
}

/// Codes in the order in which their `bits` high bits lie: those of byte `b` of all vectors of a word in its byte `b`.
fn by_bytes(format: QuantFormat, codes: &[u8; CHUNK], bits: usize) -> [u8; CHUNK] {
    let (mut out, vectors) = ([0; CHUNK], 8 / bits);
    for (at, &input) in format.order().iter().enumerate() {
        let (v, b) = (at / 4, at % 4);
        out[v / vectors * 4 * vectors + b * vectors + v % vectors] = codes[usize::from(input)];
    }
    out
}

/// Writes `bits` bits (0, 1, 2 or 4) from bit `from` of each code into the words of one output.
fn put_plane(plane: &mut [u8], lane: usize, bits: u32, from: u32, codes: &[u8; CHUNK]) {
    if bits == 0 {
        return;
    }
    let mut squeezed = [0; CHUNK / 2];
    for (out, codes) in squeezed.chunks_exact_mut(bits as usize).zip(codes.as_chunks::<8>().0) {
        out.copy_from_slice(&squeeze(u64::from_le_bytes(*codes) >> from, bits).to_le_bytes()[..bits as usize]);
    }
    for (word, bytes) in plane.chunks_exact_mut(4 * NR).zip(squeezed.chunks_exact(4)) {
        word[4 * lane..][..4].copy_from_slice(bytes);
    }
}

/// The lowest `bits` bits of each of 8 bytes, side by side.
fn squeeze(bytes: u64, bits: u32) -> u64 {
    let mut fields = bytes & (0x0101_0101_0101_0101 * ((1 << bits) - 1));
    for (lane, mask) in [(8, 0x0001_0001_0001_0001), (16, 0x0000_0001_0000_0001), (32, 1)] {
        let pair = 2 * bits * lane / 8;
        fields = (fields | fields >> (lane - pair / 2)) & (mask * (u64::MAX >> (64 - pair)));
    }
    fields
}

/// Writes the scales of one output's blocks.
fn pack_scales(dst: &mut [u8], format: QuantFormat, lane: usize, row: &[u8]) {
    let form = format.scale_form();
    let (_, unit) = form.unit();
    if form == ScaleForm::Beside {
        return;
    }
    for (dst, block) in dst.chunks_exact_mut(unit).zip(row.chunks_exact(format.block().1)) {
        if form == ScaleForm::E8 {
            dst[lane] = block[0];
            continue;
        }
        let [d, min] = blocks::halves_of(format, block);
        let two = matches!(form, ScaleForm::F16Min | ScaleForm::Super8Min | ScaleForm::Super16Nibbles);
        dst[2 * lane..][..2].copy_from_slice(&d);
        if two {
            dst[2 * NR + 2 * lane..][..2].copy_from_slice(&min);
        }
        let (subs, lists) = match form {
            ScaleForm::Super8 => (8, 1),
            ScaleForm::Super8Min => (8, 2),
            ScaleForm::Super16 | ScaleForm::Super16Nibbles => (16, 1),
            _ => continue,
        };
        let at = if two { 4 * NR } else { 2 * NR };
        let factors = blocks::factors(format, block);
        for (i, list) in factors[..lists].iter().enumerate() {
            for (s, factor) in list[..subs].iter().enumerate() {
                dst[at + (i * subs + s) * NR + lane] = *factor;
            }
        }
    }
}
