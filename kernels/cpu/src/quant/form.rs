//! The formats that have panels: what their codes stand for, and what their scales are.

use super::CHUNK;
use crate::layout::NR;

/// How the codes of a chunk lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantCodes {
    /// A plane of so many low bits (2 or 4), and one of so many high bits (0, 1 or 2).
    Bits(u32, u32),
    /// A plane of 4 bits, each of which stands for a byte of [`QuantFormat::table`].
    Table,
    /// Bytes, a word of four inputs for each output.
    Bytes,
    /// fp8 1-4-3 without infinities.
    E4M3,
    /// fp8 1-5-2.
    E5M2,
}

impl QuantCodes {
    /// Bytes of the codes of one chunk: 32 inputs of 16 outputs.
    pub const fn chunk_bytes(self) -> usize {
        match self {
            QuantCodes::Bits(low, high) => (low + high) as usize * CHUNK * NR / 8,
            QuantCodes::Table => 4 * CHUNK * NR / 8,
            _ => CHUNK * NR,
        }
    }
}

/// What is added to a code and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantOffset {
    /// A weight is `scale · code`.
    None,
    /// A weight is `scale · code + offset`.
    Min,
    /// A weight is `(code − offset) · scale`.
    Zero,
}

/// The scales that a panel holds behind its codes, for 16 outputs side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScaleForm {
    /// None: they are another operand.
    Beside,
    /// For a chunk: f16 scale.
    F16,
    /// For a chunk: f16 scale, f16 to add.
    F16Min,
    /// For a chunk: the exponent of the scale, `2^(e − 128)`.
    E8,
    /// For 8 chunks: f16 scale, then i8 factors, one a chunk.
    Super8,
    /// For 8 chunks: f16 scale, f16 minimum, then u8 factors of scales, one a chunk, and of minima.
    Super8Min,
    /// For 8 chunks: f16 scale, then i8 factors, two a chunk.
    Super16,
    /// For 8 chunks: f16 scale, f16 minimum, then two bytes a chunk: the factor of the scale in the low nibble, that of the
    /// minimum in the high one.
    Super16Nibbles,
}

impl ScaleForm {
    /// Chunks that share a unit of scales, and the unit's bytes.
    pub(crate) const fn unit(self) -> (usize, usize) {
        match self {
            ScaleForm::Beside => (1, 0),
            ScaleForm::F16 => (1, 2 * NR),
            ScaleForm::F16Min => (1, 4 * NR),
            ScaleForm::E8 => (1, NR),
            ScaleForm::Super8 => (8, (2 + 8) * NR),
            ScaleForm::Super8Min => (8, (4 + 16) * NR),
            ScaleForm::Super16 => (8, (2 + 16) * NR),
            ScaleForm::Super16Nibbles => (8, (4 + 16) * NR),
        }
    }
}

/// A format of quantised weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantFormat {
    /// GGUF Q4_0.
    Q4_0,
    /// GGUF Q4_1.
    Q4_1,
    /// GGUF Q5_0.
    Q5_0,
    /// GGUF Q5_1.
    Q5_1,
    /// GGUF Q8_0.
    Q8_0,
    /// GGUF Q2_K.
    Q2K,
    /// GGUF Q3_K.
    Q3K,
    /// GGUF Q4_K.
    Q4K,
    /// GGUF Q5_K.
    Q5K,
    /// GGUF Q6_K.
    Q6K,
    /// GGUF IQ4_NL.
    Iq4Nl,
    /// GGUF IQ4_XS.
    Iq4Xs,
    /// 32 fp4 with one power-of-two scale.
    Mxfp4,
    /// Signed nibbles, scales beside them.
    I4,
    /// Unsigned nibbles, scales beside them.
    U4,
    /// fp4, scales beside them.
    F4E2M1,
    /// Signed bytes, scales beside them.
    I8,
    /// Unsigned bytes, scales beside them.
    U8,
    /// fp8 1-4-3, scales beside them.
    F8E4M3,
    /// fp8 1-5-2, scales beside them.
    F8E5M2,
}

/// What IQ4 codes stand for, 128 above it.
const IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// Twice what fp4 codes stand for, 12 above it.
const FP4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// Position `4v + b`: byte `b` of vector `v`, where a word holds 8 inputs of 4 bits, even ones low in their bytes.
const OF_NIBBLES: [u8; CHUNK] = {
    let mut order = [0; CHUNK];
    let mut at = 0;
    while at < CHUNK {
        let (v, b) = (at / 4, at % 4);
        order[at] = (8 * (v / 2) + 2 * b + v % 2) as u8;
        at += 1;
    }
    order
};

/// The same where a word holds 16 inputs of 2 bits, four to a byte.
const OF_PAIRS: [u8; CHUNK] = {
    let mut order = [0; CHUNK];
    let mut at = 0;
    while at < CHUNK {
        let (v, b) = (at / 4, at % 4);
        order[at] = (16 * (v / 4) + 4 * b + v % 4) as u8;
        at += 1;
    }
    order
};

/// The same where every input has a byte.
const OF_BYTES: [u8; CHUNK] = {
    let mut order = [0; CHUNK];
    let mut at = 0;
    while at < CHUNK {
        order[at] = at as u8;
        at += 1;
    }
    order
};

impl QuantFormat {
    /// Every format.
    pub const ALL: [QuantFormat; 20] = [
        QuantFormat::Q4_0,
        QuantFormat::Q4_1,
        QuantFormat::Q5_0,
        QuantFormat::Q5_1,
        QuantFormat::Q8_0,
        QuantFormat::Q2K,
        QuantFormat::Q3K,
        QuantFormat::Q4K,
        QuantFormat::Q5K,
        QuantFormat::Q6K,
        QuantFormat::Iq4Nl,
        QuantFormat::Iq4Xs,
        QuantFormat::Mxfp4,
        QuantFormat::I4,
        QuantFormat::U4,
        QuantFormat::F4E2M1,
        QuantFormat::I8,
        QuantFormat::U8,
        QuantFormat::F8E4M3,
        QuantFormat::F8E5M2,
    ];

    /// Elements and bytes of a block as it is stored.
    pub const fn block(self) -> (usize, usize) {
        match self {
            QuantFormat::Q4_0 | QuantFormat::Iq4Nl => (32, 18),
            QuantFormat::Q4_1 => (32, 20),
            QuantFormat::Q5_0 => (32, 22),
            QuantFormat::Q5_1 => (32, 24),
            QuantFormat::Q8_0 => (32, 34),
            QuantFormat::Q2K => (256, 84),
            QuantFormat::Q3K => (256, 110),
            QuantFormat::Q4K => (256, 144),
            QuantFormat::Q5K => (256, 176),
            QuantFormat::Q6K => (256, 210),
            QuantFormat::Iq4Xs => (256, 136),
            QuantFormat::Mxfp4 => (32, 17),
            QuantFormat::I4 | QuantFormat::U4 | QuantFormat::F4E2M1 => (2, 1),
            _ => (1, 1),
        }
    }

    /// How codes lie in a panel.
    pub const fn codes(self) -> QuantCodes {
        match self {
            QuantFormat::Q5_0 | QuantFormat::Q5_1 | QuantFormat::Q5K => QuantCodes::Bits(4, 1),
            QuantFormat::Q6K => QuantCodes::Bits(4, 2),
            QuantFormat::Q2K => QuantCodes::Bits(2, 0),
            QuantFormat::Q3K => QuantCodes::Bits(2, 1),
            QuantFormat::Q8_0 | QuantFormat::I8 | QuantFormat::U8 => QuantCodes::Bytes,
            QuantFormat::Iq4Nl | QuantFormat::Iq4Xs | QuantFormat::Mxfp4 | QuantFormat::F4E2M1 => QuantCodes::Table,
            QuantFormat::F8E4M3 => QuantCodes::E4M3,
            QuantFormat::F8E5M2 => QuantCodes::E5M2,
            _ => QuantCodes::Bits(4, 0),
        }
    }

    pub(crate) const fn scale_form(self) -> ScaleForm {
        match self {
            QuantFormat::Q4_0 | QuantFormat::Q5_0 | QuantFormat::Q8_0 | QuantFormat::Iq4Nl => ScaleForm::F16,
            QuantFormat::Q4_1 | QuantFormat::Q5_1 => ScaleForm::F16Min,
            QuantFormat::Mxfp4 => ScaleForm::E8,
            QuantFormat::Iq4Xs => ScaleForm::Super8,
            QuantFormat::Q4K | QuantFormat::Q5K => ScaleForm::Super8Min,
            QuantFormat::Q3K | QuantFormat::Q6K => ScaleForm::Super16,
            QuantFormat::Q2K => ScaleForm::Super16Nibbles,
            _ => ScaleForm::Beside,
        }
    }

    /// Whether scales lie in the panel.
    pub const fn carries_scales(self) -> bool {
        !matches!(self.scale_form(), ScaleForm::Beside)
    }

    /// Scales for each chunk: 2 where a scale is shared by 16 inputs, else 1.
    pub const fn scales_per_chunk(self) -> usize {
        match self.scale_form() {
            ScaleForm::Super16 | ScaleForm::Super16Nibbles => 2,
            _ => 1,
        }
    }

    /// What is added to codes of the format, `zeros` where it is given zeros beside its scales.
    pub const fn offset(self, zeros: bool) -> QuantOffset {
        match self.scale_form() {
            ScaleForm::F16Min | ScaleForm::Super8Min | ScaleForm::Super16Nibbles => QuantOffset::Min,
            ScaleForm::Beside if zeros => QuantOffset::Zero,
            _ => QuantOffset::None,
        }
    }

    /// Whether codes stand for integers, so that products are sums of integers.
    pub const fn has_integers(self) -> bool {
        !matches!(self.codes(), QuantCodes::E4M3 | QuantCodes::E5M2)
    }

    /// How far the bytes that are multiplied lie above the integers that codes stand for; 0 without integers.
    pub const fn bias(self) -> i32 {
        match self {
            QuantFormat::Q4_0 | QuantFormat::I4 => 8,
            QuantFormat::Q5_0 => 16,
            QuantFormat::Q6K => 32,
            QuantFormat::Q3K => 4,
            QuantFormat::Q8_0 | QuantFormat::I8 | QuantFormat::Iq4Nl | QuantFormat::Iq4Xs => 128,
            QuantFormat::Mxfp4 | QuantFormat::F4E2M1 => 12,
            _ => 0,
        }
    }

    /// What one step of those integers is worth: a weight is `unit · scale · integer`.
    pub const fn unit(self) -> f32 {
        if matches!(self, QuantFormat::F4E2M1) { 0.5 } else { 1.0 }
    }

    /// What signed codes are xored with where they are packed, which raises them by their bias.
    pub(super) const fn flip(self) -> u8 {
        match self {
            QuantFormat::I4 => 8,
            QuantFormat::Q8_0 | QuantFormat::I8 => 128,
            _ => 0,
        }
    }

    /// The bytes that the codes of [`QuantCodes::Table`] stand for.
    pub const fn table(self) -> &'static [u8; 16] {
        if matches!(self, QuantFormat::Iq4Nl | QuantFormat::Iq4Xs) { &IQ4 } else { &FP4 }
    }

    /// The input of a chunk whose code is byte `b` of vector `v` of a chunk's unpacked words, at position `4v + b`.
    pub const fn order(self) -> &'static [u8; CHUNK] {
        match self.codes() {
            QuantCodes::Bits(4, _) | QuantCodes::Table => &OF_NIBBLES,
            QuantCodes::Bits(..) => &OF_PAIRS,
            _ => &OF_BYTES,
        }
    }

    /// Bytes of a row of `k` elements as it is stored; `k` is a whole number of blocks.
    pub const fn row_bytes(self, k: usize) -> usize {
        let (elems, bytes) = self.block();
        k / elems * bytes
    }

    /// Bytes of the codes of a panel with `k` inputs.
    pub const fn codes_len(self, k: usize) -> usize {
        k.div_ceil(CHUNK) * self.codes().chunk_bytes()
    }

    /// Bytes of a panel with `k` inputs: the codes of all chunks, then the scales, rounded up to 64.
    pub const fn panel_len(self, k: usize) -> usize {
        let (chunks, bytes) = self.scale_form().unit();
        (self.codes_len(k) + k.div_ceil(CHUNK * chunks) * bytes).next_multiple_of(64)
    }
}
