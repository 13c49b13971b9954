//! What each tensor becomes, and why.

use qiao_core::DType;

use super::fault;
use super::format::{Encoding, FP8_BLOCK, Format};
use super::plan::Rules;
use super::source::{Part, Role, Size, Source, SourceTensor};
use crate::Result;

/// The encoding of a tensor, with a reason where it is not the one that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) encoding: Encoding,
    pub(super) note: Option<String>,
}

/// What is asked for, of a file or of a folder.
pub(super) struct Recipe<'a> {
    pub(super) format: Format,
    pub(super) rules: &'a Rules,
    pub(super) gguf: bool,
}

impl Recipe<'_> {
    /// Refuses formats that the kind of output does not hold.
    pub(super) fn check(&self) -> Result<()> {
        let own = match self.format {
            Format::One(encoding) => Some(encoding),
            Format::Q4KM if self.gguf => None,
            Format::Q4KM => Some(Encoding::Block(DType::Q4K)),
        };
        for encoding in own.into_iter().chain(self.rules.encodings()) {
            if self.gguf && !encoding.in_gguf() {
                let mend = "give an output without .gguf, which becomes a folder of safetensors";
                return Err(fault(format!("{encoding} is not written into GGUF files"), mend));
            }
            if !self.gguf && !encoding.in_folder() {
                let mend = "give an output that ends in .gguf";
                return Err(fault(format!("{} is not written into safetensors", self.name(encoding)), mend));
            }
        }
        Ok(())
    }

    fn name(&self, encoding: Encoding) -> String {
        match self.format {
            Format::Q4KM => self.format.to_string(),
            _ => encoding.to_string(),
        }
    }

    /// What every tensor of a source becomes, in its order.
    ///
    /// # Errors
    /// A rule that matches nothing.
    pub(super) fn choose(&self, source: &Source, target: impl Fn(&str) -> String) -> Result<Vec<Choice>> {
        let mut used = Vec::new();
        let choices = source
            .tensors
            .iter()
            .map(|tensor| {
                let rule = match self.is_weight(tensor.role) {
                    true => self.rules.find(&[&tensor.name, &target(&tensor.name)]),
                    false => None,
                };
                used.extend(rule.map(|(at, _)| at));
                self.of(source, tensor, rule.map(|(_, encoding)| encoding))
            })
            .collect();
        self.rules.check_used(|at| used.contains(&at))?;
        Ok(choices)
    }

    /// Whether tensors of a role are quantised: every matrix in GGUF, the projections of the layers in a folder.
    fn is_weight(&self, role: Role) -> bool {
        match role {
            Role::Projection { .. } => true,
            Role::Embed | Role::Head => self.gguf,
            Role::Small => false,
        }
    }

    fn of(&self, source: &Source, tensor: &SourceTensor, rule: Option<Encoding>) -> Choice {
        let plain = |encoding| Choice { encoding, note: None };
        if !self.is_weight(tensor.role) {
            return plain(match self.format {
                // Norms and biases are f32 in every GGUF file.
                _ if self.gguf => Encoding::Float(DType::F32),
                Format::One(Encoding::Float(dtype)) => Encoding::Float(dtype),
                _ => Encoding::Keep,
            });
        }
        let size = source.size();
        let wanted = match (rule, self.format) {
            (Some(encoding), _) => encoding,
            (None, Format::One(Encoding::Block(dtype))) if is_output(tensor.role, size) && head(dtype) != dtype => {
                let choice = fitting(head(dtype), tensor.shape[1]);
                return Choice { note: choice.note.or(Some("the output head".into())), ..choice };
            }
            (None, Format::One(encoding)) => encoding,
            (None, Format::Q4KM) => Encoding::Block(q4_k_m(tensor.role, size)),
        };
        match wanted {
            Encoding::Keep if self.gguf && tensor.dtype == DType::F64 => plain(Encoding::Float(DType::F32)),
            Encoding::Block(dtype) => fitting(dtype, tensor.shape[1]),
            Encoding::Packed { bits, group_size, .. } => {
                let group = if group_size == 0 { (32 / bits) as usize } else { group_size };
                kept_unless(tensor.shape[1].is_multiple_of(group), wanted, tensor.shape[1], group)
            }
            other => plain(other),
        }
    }
}

fn kept_unless(fits: bool, wanted: Encoding, k: usize, unit: usize) -> Choice {
    match fits {
        true => Choice { encoding: wanted, note: None },
        false => Choice {
            encoding: Encoding::Keep,
            note: Some(format!("kept: rows of {k} are no multiple of {unit}, which {wanted} needs")),
        },
    }
}

/// A block format whose blocks rows of `k` elements fill: the one that is asked for, else the one of 32 elements that llama.cpp
/// takes in its place, else f16.
fn fitting(dtype: DType, k: usize) -> Choice {
    let fits = |dtype: DType| k.is_multiple_of(dtype.block_elems());
    if fits(dtype) {
        return Choice { encoding: Encoding::Block(dtype), note: None };
    }
    let small = match dtype {
        DType::Q2K | DType::Q3K | DType::Iq4Xs => DType::Iq4Nl,
        DType::Q4K => DType::Q5_0,
        DType::Q5K => DType::Q5_1,
        _ => DType::Q8_0,
    };
    let encoding = if fits(small) { Encoding::Block(small) } else { Encoding::Float(DType::F16) };
    Choice { encoding, note: Some(format!("for {dtype}: rows of {k} are no multiple of {}", dtype.block_elems())) }
}

/// Whether a tensor is the output head.
fn is_output(role: Role, size: Size) -> bool {
    role == Role::Head || (role == Role::Embed && size.tied)
}

/// The output head beside weights in one block format: as in llama.cpp at least Q6_K, beside MXFP4 Q8_0.
fn head(dtype: DType) -> DType {
    let coarser = dtype.block_bytes() * DType::Q6K.block_elems() < DType::Q6K.block_bytes() * dtype.block_elems();
    match dtype {
        DType::Mxfp4 => DType::Q8_0,
        _ if coarser => DType::Q6K,
        _ => dtype,
    }
}

/// llama.cpp's Q4_K_M: the output in Q6_K, v and down projections in Q6_K in the first and the last eighth of the layers and in
/// every third between, all else in Q4_K. In 70B models, whose v projections are small as heads share them, the other v
/// projections take Q5_K.
fn q4_k_m(role: Role, size: Size) -> DType {
    let layers = size.layers;
    let favoured = |i: usize| i < layers / 8 || i >= 7 * layers / 8 || (i - layers / 8) % 3 == 2;
    match role {
        _ if is_output(role, size) => DType::Q6K,
        Role::Projection { layer, part: Part::Value | Part::Down } if favoured(layer) => DType::Q6K,
        Role::Projection { part: Part::Value, .. } if layers == 80 && size.shares == 8 => DType::Q5K,
        _ => DType::Q4K,
    }
}

/// Rows that share a scale.
pub(super) fn unit_rows(encoding: Encoding) -> usize {
    if encoding == Encoding::Fp8Block { FP8_BLOCK } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Size = Size { layers: 24, shares: 7, tied: false };

    #[test]
    fn the_mixture_favours_the_layers_that_llama_cpp_favours() {
        let v = |layer| q4_k_m(Role::Projection { layer, part: Part::Value }, SMALL);
        let favoured: Vec<usize> = (0..24).filter(|&layer| v(layer) == DType::Q6K).collect();
        assert_eq!(favoured, [0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23]);
        let down = |layer| q4_k_m(Role::Projection { layer, part: Part::Down }, SMALL);
        assert!((0..24).all(|layer| down(layer) == v(layer)));
        assert_eq!(q4_k_m(Role::Projection { layer: 0, part: Part::Query }, SMALL), DType::Q4K);
        let tied = Size { tied: true, ..SMALL };
        assert_eq!((q4_k_m(Role::Embed, tied), q4_k_m(Role::Embed, SMALL)), (DType::Q6K, DType::Q4K));
        assert_eq!(q4_k_m(Role::Head, SMALL), DType::Q6K);
    }

    #[test]
    fn the_mixture_gives_more_to_values_that_eight_heads_share_in_eighty_layers() {
        let large = Size { layers: 80, shares: 8, tied: false };
        let of = |part, size| q4_k_m(Role::Projection { layer: 10, part }, size);
        assert_eq!((of(Part::Value, large), of(Part::Down, large)), (DType::Q5K, DType::Q4K));
        assert_eq!(q4_k_m(Role::Projection { layer: 9, part: Part::Value }, large), DType::Q6K, "a favoured layer");
        for size in [Size { layers: 81, ..large }, Size { shares: 1, ..large }] {
            assert_eq!(of(Part::Value, size), DType::Q4K, "{size:?}");
        }
    }

    #[test]
    fn the_output_head_has_six_bits_or_more() {
        for (format, found) in [
            (DType::Q2K, DType::Q6K),
            (DType::Q4_0, DType::Q6K),
            (DType::Q5_1, DType::Q6K),
            (DType::Iq4Xs, DType::Q6K),
            (DType::Mxfp4, DType::Q8_0),
            (DType::Q6K, DType::Q6K),
            (DType::Q8_0, DType::Q8_0),
        ] {
            assert_eq!(head(format), found, "{format}");
        }
        let tied = Size { tied: true, ..SMALL };
        assert!(is_output(Role::Embed, tied) && !is_output(Role::Embed, SMALL) && is_output(Role::Head, SMALL));
    }

    #[test]
    fn rows_that_do_not_fill_blocks_take_smaller_ones() {
        for (asked, k, found) in [
            (DType::Q4K, 512, "q4_k"),
            (DType::Q4K, 192, "q5_0"),
            (DType::Q5K, 192, "q5_1"),
            (DType::Q6K, 192, "q8_0"),
            (DType::Q3K, 192, "iq4_nl"),
            (DType::Q8_0, 100, "f16"),
        ] {
            let choice = fitting(asked, k);
            assert_eq!(choice.encoding.to_string(), found, "{asked} at {k}");
            assert_eq!(choice.note.is_some(), k != 512);
        }
    }
}
