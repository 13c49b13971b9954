//! Images that nvcc made when the crate was built, with the feature `prebuilt`; none without it.

/// A unit for a target.
struct Image {
    unit: &'static str,
    /// `sm_80`, or `compute_90` where the driver is to translate.
    target: &'static str,
    /// What nvcc calls a fat binary: a header, and the compressed code or PTX of this one target.
    bytes: &'static Aligned<[u8]>,
}

/// Bytes where the driver may read a header of words.
#[repr(align(16))]
struct Aligned<T: ?Sized>(T);

#[cfg(feature = "prebuilt")]
include!(concat!(env!("OUT_DIR"), "/prebuilt.rs"));

#[cfg(not(feature = "prebuilt"))]
const IMAGES: &[Image] = &[];

/// The target whose images run on a card of this compute capability (ten times the major number plus the minor).
///
/// Code runs on cards of its own major number from its own minor on; that of `sm_90a` on 9.0 alone. Newer ones get PTX.
fn target_of(arch: u32) -> Option<&'static str> {
    match arch {
        0..80 => None,
        89 => Some("sm_89"),
        80..90 => Some("sm_80"),
        90 => Some("sm_90a"),
        91.. => Some("compute_90"),
    }
}

/// Whether every unit is here for such a card.
pub(crate) fn serves(arch: u32) -> bool {
    !IMAGES.is_empty() && target_of(arch).is_some()
}

/// The image of a unit for such a card.
pub(crate) fn image(unit: &str, arch: u32) -> Option<&'static [u8]> {
    let target = target_of(arch)?;
    IMAGES.iter().find(|image| image.unit == unit && image.target == target).map(|image| &image.bytes.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_gets_the_image_that_runs_on_it() {
        let wanted = [
            (75, None),
            (80, Some("sm_80")),
            (86, Some("sm_80")),
            (87, Some("sm_80")),
            (88, Some("sm_80")),
            (89, Some("sm_89")),
            (90, Some("sm_90a")),
            (100, Some("compute_90")),
            (103, Some("compute_90")),
            (120, Some("compute_90")),
        ];
        for (arch, target) in wanted {
            assert_eq!(target_of(arch), target, "{arch}");
        }
    }

    #[cfg(not(feature = "prebuilt"))]
    #[test]
    fn without_the_feature_there_is_no_image() {
        assert!(!serves(90));
        assert!(image("elementwise", 90).is_none());
    }

    #[cfg(feature = "prebuilt")]
    #[test]
    fn every_unit_has_a_whole_image_for_every_card() {
        const HEADER: usize = 16;
        let mut seen = std::collections::HashSet::new();
        for arch in [80, 89, 90, 100] {
            assert!(serves(arch));
            for unit in qiao_kernels_cuda::UNITS {
                let bytes = image(unit.name, arch).unwrap_or_else(|| panic!("{} for {arch}", unit.name));
                assert_eq!(bytes[..4], 0xba55_ed50_u32.to_le_bytes(), "{} for {arch}", unit.name);
                let held = u64::from_le_bytes(bytes[8..HEADER].try_into().unwrap());
                assert_eq!(held as usize, bytes.len() - HEADER, "{} for {arch} is whole", unit.name);
                assert_eq!(bytes.as_ptr() as usize % 16, 0);
                assert!(seen.insert(bytes), "{} for {arch} is its own", unit.name);
            }
        }
    }
}
