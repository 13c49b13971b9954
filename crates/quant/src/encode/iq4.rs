//! 4-bit codes into a non-linear table: IQ4_NL and IQ4_XS.

use super::levels::Iq4;
use super::q32::{put_f16, put_nibbles};
use super::search::Block;
use super::settle::Settled;
use super::superblock::{ScaledForm, scaled};

const RATIOS: [f32; 12] = [1.0, 0.86, 0.92, 0.96, 1.03, 1.06, 1.1, 1.14, 1.19, 1.25, 1.35, 1.5];
const FORM_XS: ScaledForm<'static> = ScaledForm { scales: (-32, 31), part: 32, ratios: &RATIOS, spreads: &[1.0, 0.95] };

pub(super) fn settle_nl(b: Block<'_>) -> Settled {
    Settled::one(b.fit_stored(Iq4, &RATIOS))
}

pub(super) fn settle_xs(b: Block<'_>) -> Settled {
    scaled(b, Iq4, &FORM_XS)
}

pub(super) fn write_nl(s: &Settled, codes: &[u8], out: &mut [u8]) {
    put_f16(s.d, out);
    put_nibbles(codes, &mut out[2..]);
}

pub(super) fn write_xs(s: &Settled, codes: &[u8], out: &mut [u8]) {
    put_f16(s.d, out);
    let mut high = 0u16;
    out[4..8].fill(0);
    for (i, &scale) in s.scales[..8].iter().enumerate() {
        let v = (scale + 32) as u8;
        out[4 + i / 2] |= (v & 15) << (4 * (i % 2));
        high |= ((v >> 4) as u16) << (2 * i);
    }
    out[2..4].copy_from_slice(&high.to_le_bytes());
    for (codes, qs) in codes.chunks_exact(32).zip(out[8..].chunks_exact_mut(16)) {
        put_nibbles(codes, qs);
    }
}
