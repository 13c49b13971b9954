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
    /// A copy of the loops for each format: what it decides is decided once.
    macro_rules! of_format {
        ($($name:ident)+) => {
            match format {
                $(QuantFormat::$name => pack(dst, QuantFormat::$name, k, rows),)+
            }
        };
    }
    of_format!(Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2K Q3K Q4K Q5K Q6K Iq4Nl Iq4Xs Mxfp4 I4 U4 F4E2M1 I8 U8 F8E4M3 F8E5M2);
}

/// See [`pack_quant_panel`].
#[inline(always)]
fn pack(dst: &mut [u8], format: QuantFormat, k: usize, rows: &[&[u8]]) {
    let (codes, scales) = dst.split_at_mut(format.codes_len(k));
    scales.fill(0);
    if rows.len() < NR {
        codes.fill(0);
    }
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
#[inline(always)]
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
    let eights: [u64; 4] = std::array::from_fn(|i| u64::from_le_bytes(codes.as_chunks::<8>().0[i]));
    match low {
        4 => put_words(plane, lane, eights.map(|x| narrow(pairs(x, 4)))),
        _ => {
            let four = eights.map(|x| pairs(x, 2) | pairs(x, 2) >> 12);
            put_words(plane, lane, [0, 2].map(|i| narrow(halves(four[i], four[i + 1]))));
        }
    }
    match (low, high) {
        // Byte b has, of each eight inputs, the pair 2b and 2b + 1.
        (4, 1) => {
            let [a, b, c, d] = eights.map(|x| pairs(x >> 4, 1));
            put_words(above, lane, [narrow(a | b << 2 | c << 4 | d << 6)]);
        }
        (4, 2) => {
            let [a, b, c, d] = eights.map(|x| pairs(x >> 4, 2));
            put_words(above, lane, [narrow(a | b << 4), narrow(c | d << 4)]);
        }
        // Of each sixteen, the four from 4b on.
        (2, 1) => {
            let [a, b, c, d] = eights.map(|x| pairs(x >> 2, 1)).map(|x| x | x >> 14);
            put_words(above, lane, [narrow(halves(a, b) & 0x000f_000f_000f_000f | halves(c, d) << 4)]);
        }
        _ => {}
    }
}

/// The lowest `bits` bits of each byte, two bytes' side by side in every 16 bits.
#[inline(always)]
fn pairs(bytes: u64, bits: u32) -> u64 {
    let fields = bytes & (0x0101_0101_0101_0101 * ((1 << bits) - 1));
    (fields | fields >> (8 - bits)) & (0x0001_0001_0001_0001 * ((1 << (2 * bits)) - 1))
}

/// The lowest byte of each 32 bits of two words, one in every 16 bits.
#[inline(always)]
fn halves(a: u64, b: u64) -> u64 {
    let narrow = |x: u64| x & 0xff | x >> 16 & 0x00ff_0000;
    narrow(a) | narrow(b) << 32
}

/// The lowest byte of every 16 bits.
#[inline(always)]
fn narrow(x: u64) -> u32 {
    let x = (x | x >> 8) & 0x0000_ffff_0000_ffff;
    (x | x >> 16) as u32
}

/// Writes the words of one output into a plane.
#[inline(always)]
fn put_words<const WORDS: usize>(plane: &mut [u8], lane: usize, words: [u32; WORDS]) {
    for (to, word) in plane.chunks_exact_mut(4 * NR).zip(words) {
        to[4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
    }
}

/// Writes the scales of one output's blocks.
#[inline(always)]
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
