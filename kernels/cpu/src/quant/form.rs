//! The formats that have panels: what their codes stand for, and what their scales are.

use super::CHUNK;
use crate::layout::NR;

/// How the codes of a chunk lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantCodes {
    /// A plane of so many low bits (2 or 4), and one of so many high bits (0, 1 or 2).
    Bits(u32, u32),
    /// Signed bytes.
    I8,
    /// Unsigned bytes.
    U8,
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

/// What IQ4 codes stand for.
const IQ4: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

/// The magnitudes of fp4.
const FP4: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// `start + step·(i mod period)`: a code of fewer than 4 bits has the neighbour's bits above its own.
fn ramp(start: f32, step: f32, period: usize) -> [f32; 16] {
    std::array::from_fn(|i| start + step * (i % period) as f32)
}

/// fp4, times `factor`.
fn fp4(factor: f32) -> [f32; 16] {
    std::array::from_fn(|i| if i < 8 { FP4[i] * factor } else { -FP4[i - 8] * factor })
}

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
            QuantFormat::Q8_0 | QuantFormat::I8 => QuantCodes::I8,
            QuantFormat::U8 => QuantCodes::U8,
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

    /// What the low and the high bits of a code stand for. Above 4 low bits the high bits count on from the first number.
    pub fn tables(self) -> ([f32; 16], [f32; 16]) {
        let none = [0.0; 16];
        match self {
            QuantFormat::Q4_0 => (ramp(-8.0, 1.0, 16), none),
            QuantFormat::Q5_0 => (ramp(0.0, 1.0, 16), ramp(-16.0, 16.0, 2)),
            QuantFormat::Q5_1 | QuantFormat::Q5K => (ramp(0.0, 1.0, 16), ramp(0.0, 16.0, 2)),
            QuantFormat::Q6K => (ramp(0.0, 1.0, 16), ramp(-32.0, 16.0, 4)),
            QuantFormat::Q2K => (ramp(0.0, 1.0, 4), none),
            QuantFormat::Q3K => (ramp(0.0, 1.0, 4), ramp(-4.0, 4.0, 2)),
            QuantFormat::Iq4Nl | QuantFormat::Iq4Xs => (IQ4, none),
            QuantFormat::Mxfp4 => (fp4(2.0), none),
            QuantFormat::F4E2M1 => (fp4(1.0), none),
            QuantFormat::I4 => (std::array::from_fn(|i| if i < 8 { i as f32 } else { i as f32 - 16.0 }), none),
            _ => (ramp(0.0, 1.0, 16), none),
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
