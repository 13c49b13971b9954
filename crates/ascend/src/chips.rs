//! What each family of chips has, as data.
//!
//! Sources: the operators' pages in CANN's repositories `ops-math`, `ops-nn` and `ops-transformer` (the table of products that
//! each page opens with, and its limits by product), as mirrored in August 2026 and November 2025; vllm-ascend,
//! `vllm_ascend/device/hardware_profile.py` and `_310p`; llama.cpp, `ggml/src/ggml-cann`.

use qiao_core::{DType, Error, Result};

/// A family of chips.
#[derive(Debug)]
pub(crate) struct Chip {
    /// How the names of its chips start, as `aclrtGetSocName` tells them.
    pub(crate) starts: &'static str,
    /// What Huawei calls the products.
    pub(crate) products: &'static str,
    /// Floats that operators compute in.
    pub(crate) floats: &'static [DType],
    /// Functions whose pages say that these products have them not.
    pub(crate) lacks: &'static [&'static str],
    /// Whether f32 is multiplied as f32: elsewhere products round it to f16 first.
    pub(crate) f32_products: bool,
    /// Whether a row of a norm may be shorter than 32 bytes.
    pub(crate) short_rows: bool,
}

const WITH_BF16: &[DType] = &[DType::F32, DType::F16, DType::BF16];
const WITHOUT_BF16: &[DType] = &[DType::F32, DType::F16];

/// The families that are known.
const CHIPS: &[Chip] = &[
    Chip {
        starts: "Ascend910B",
        products: "Atlas A2",
        floats: WITH_BF16,
        lacks: &[],
        f32_products: true,
        short_rows: true,
    },
    Chip {
        starts: "Ascend910_93",
        products: "Atlas A3",
        floats: WITH_BF16,
        lacks: &[],
        f32_products: true,
        short_rows: true,
    },
    Chip {
        starts: "Ascend310P",
        products: "Atlas inference series",
        floats: WITHOUT_BF16,
        // As the pages have it; aclnnAdd is run there by llama.cpp, which is no document.
        lacks: &["aclnnAdd", "aclnnSub", "aclnnNeTensor", "aclnnScatterNdUpdate", "aclnnFusedInferAttentionScoreV3"],
        f32_products: false,
        short_rows: false,
    },
];

/// Families that are refused by name, and why.
const REFUSED: &[(&str, &str)] = &[
    (
        "Ascend950",
        "its layouts and dtypes differ (NZ with other blocks, fp8), and no row of this backend was written for it",
    ),
    ("Ascend910A", "the norms and the attention of this backend are not documented for it"),
    ("Ascend910P", "the norms and the attention of this backend are not documented for it"),
    ("Ascend310B", "most operators of this backend are not documented for it"),
];

/// The family of a chip by its name.
///
/// # Errors
/// [`Error::NotPresent`]: one that is refused by name, or that nobody here knows.
pub(crate) fn of(name: &str) -> Result<&'static Chip> {
    if let Some(chip) = CHIPS.iter().find(|c| name.starts_with(c.starts)) {
        return Ok(chip);
    }
    let known = CHIPS.iter().map(|c| c.starts).collect::<Vec<_>>().join(", ");
    let why = match REFUSED.iter().find(|(starts, _)| name.starts_with(starts)) {
        Some((_, why)) => format!("{name} is not among {known}: {why}"),
        None => format!("{name} is a chip that this backend has no row for; it has {known}"),
    };
    Err(Error::not_present("ascend", why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chips_are_found_by_the_start_of_their_name() {
        assert_eq!(of("Ascend910B3").unwrap().products, "Atlas A2");
        assert_eq!(of("Ascend910_9391").unwrap().products, "Atlas A3");
        assert!(!of("Ascend310P3").unwrap().floats.contains(&DType::BF16));
    }

    #[test]
    fn other_chips_are_refused_by_name() {
        for (name, word) in [("Ascend950PR_9589", "fp8"), ("Ascend910A", "not documented"), ("Ascend777", "no row")] {
            let why = of(name).unwrap_err().to_string();
            assert!(why.contains(name) && why.contains(word), "{why}");
        }
    }
}
