//! What is settled of a block before its codes, and the codes that it leads to.

use super::levels::Kind;
use super::search::inverse;

/// Everything of a block but its codes: element j of part s is `d·scales[s]·level − dmin·mins[s]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settled {
    pub(crate) d: f32,
    pub(crate) dmin: f32,
    pub(crate) scales: [i16; 16],
    pub(crate) mins: [u8; 16],
}

impl Settled {
    /// A block with one scale.
    pub(crate) fn one(d: f32) -> Self {
        Settled { d, scales: [1; 16], ..Settled::default() }
    }

    /// A block with one scale and one offset, `d·q + offset`.
    pub(crate) fn with_offset(d: f32, offset: f32) -> Self {
        Settled { d, dmin: -offset, scales: [1; 16], mins: [1; 16] }
    }

    /// Scale and offset of part s.
    pub(crate) fn affine(&self, s: usize) -> (f32, f32) {
        (self.d * self.scales[s] as f32, -self.dmin * self.mins[s] as f32)
    }

    /// The codes nearest to `x`, in parts of `part` elements.
    pub(crate) fn codes(&self, kind: Kind, part: usize, x: &[f32], codes: &mut [u8]) {
        for (s, (x, codes)) in x.chunks(part).zip(codes.chunks_mut(part)).enumerate() {
            let (scale, offset) = self.affine(s);
            let id = inverse(scale);
            for (c, x) in codes.iter_mut().zip(x) {
                *c = kind.code((x - offset) * id);
            }
        }
    }
}
