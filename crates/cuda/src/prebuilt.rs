//! Images that were compiled when the program was built, with the feature `prebuilt`.

/// Whether the program has images that run on this architecture.
pub(crate) fn covers(_arch: u32) -> bool {
    false
}

/// The image of a unit for this architecture.
pub(crate) fn image(_unit: &str, _arch: u32) -> Option<Vec<u8>> {
    None
}
