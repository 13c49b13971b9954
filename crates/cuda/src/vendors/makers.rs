//! Whose card it is: asked of the bus and of the card's own words, never taken from the name of the library that drives it.

use std::fs;
use std::path::Path;

/// Who makes cards that a driver shaped like CUDA's may drive.
pub(crate) struct Maker {
    pub(crate) name: &'static str,
    /// Its number on the PCI bus. Source: pci.ids of 2026-08-22 (pciutils/pciids).
    pub(crate) pci: u16,
    /// Words of which one stands in the names of its cards.
    pub(crate) words: &'static [&'static str],
    /// Architectures that nobody else has.
    pub(crate) archs: &'static [&'static str],
}

/// Everyone who is known to.
const MAKERS: &[Maker] = &[
    Maker { name: "NVIDIA", pci: 0x10de, words: &["NVIDIA", "GeForce", "Quadro", "Tesla", "GRID"], archs: &[] },
    Maker { name: "AMD", pci: 0x1002, words: &["AMD ", "Radeon", "Instinct"], archs: &[] },
    // Names: MinerU's page (BW200), hy-smi listings (K100_AI, Z100). gfx906 is AMD's as well; the others are in DTK's lists of
    // targets only (xentropy's and other setup.py files for DTK: gfx906, gfx926, gfx928, gfx936).
    Maker {
        name: "Hygon",
        pci: 0x1d94,
        words: &["Hygon", "Z100", "K100", "BW100", "BW200", "BW500"],
        archs: &["gfx926", "gfx928", "gfx936", "gfx938"],
    },
    // Names: `MTT S4000` of musaInfo (tinygrad's notes on MUSA 3.1), `MTT S80`, `MTT S3000`, `MTT S5000`.
    Maker { name: "Moore Threads", pci: 0x1ed5, words: &["MTT "], archs: &[] },
    // Names: `MetaX C500`, `MetaX C550` of mx-smi and of mcDeviceGetName.
    Maker { name: "MetaX", pci: 0x9999, words: &["MetaX"], archs: &[] },
    // Names: `Iluvatar BI-V150`, `Iluvatar MR-V100` of ixsmi and of cuDeviceGetName.
    Maker { name: "Iluvatar", pci: 0x1e3e, words: &["Iluvatar"], archs: &[] },
];

/// What a card and its bus were asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Its name, as the driver says it.
    pub(crate) name: String,
    /// Its architecture, as the compiler names it.
    pub(crate) arch: String,
    /// Where it is on the bus, as the driver says it: `0000:3B:00.0`.
    pub(crate) bus: String,
}

/// Who made a card: who the bus says, or its name, or its architecture, in this order; `None` where nothing tells.
pub(crate) fn maker_of(asked: &Asked, devices: &Path) -> Option<&'static Maker> {
    let on_bus = pci_vendor(&asked.bus, devices).and_then(|id| MAKERS.iter().find(|maker| maker.pci == id));
    let by_name = || MAKERS.iter().find(|maker| maker.words.iter().any(|word| asked.name.contains(word)));
    let by_arch = || MAKERS.iter().find(|maker| maker.archs.contains(&asked.arch.as_str()));
    on_bus.or_else(by_name).or_else(by_arch)
}

/// The vendor's number of what is at this place of the bus, as the kernel has it.
fn pci_vendor(bus: &str, devices: &Path) -> Option<u16> {
    let is_place = !bus.is_empty() && bus.chars().all(|c| c.is_ascii_hexdigit() || c == ':' || c == '.');
    let text = is_place.then(|| fs::read_to_string(devices.join(bus.to_lowercase()).join("vendor")).ok())??;
    u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// Whether somebody is called this.
#[cfg(test)]
pub(super) fn known(name: &str) -> bool {
    MAKERS.iter().any(|maker| maker.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(name: &str, arch: &str, bus: &str) -> Asked {
        Asked { name: name.into(), arch: arch.into(), bus: bus.into() }
    }

    #[test]
    fn the_bus_is_believed_before_the_name_and_the_name_before_the_architecture() {
        let folder = tempfile::tempdir().unwrap();
        for (bus, vendor) in [("0000:3b:00.0", "0x1d94\n"), ("0000:3c:00.0", "0x1002\n"), ("0000:3d:00.0", "0x8086\n")]
        {
            fs::create_dir(folder.path().join(bus)).unwrap();
            fs::write(folder.path().join(bus).join("vendor"), vendor).unwrap();
        }
        let found =
            |name: &str, arch: &str, bus: &str| maker_of(&asked(name, arch, bus), folder.path()).map(|m| m.name);
        assert_eq!(found("Device 66a1", "gfx906", "0000:3B:00.0"), Some("Hygon"));
        assert_eq!(found("AMD Instinct MI50", "gfx906", "0000:3C:00.0"), Some("AMD"));
        assert_eq!(found("NVIDIA H100", "", "0000:3b:00.0"), Some("Hygon"), "a name is only a name");
        assert_eq!(
            found("Iluvatar BI-V150", "ivcore11", "0000:3D:00.0"),
            Some("Iluvatar"),
            "a bus that names nobody known"
        );
        assert_eq!(found("MTT S4000", "mp_22", ""), Some("Moore Threads"));
        assert_eq!(found("MetaX C500", "", "../0000:3b:00.0"), Some("MetaX"), "no other file is read");
        assert_eq!(found("Device 54b7", "gfx936", "0000:ff:00.0"), Some("Hygon"));
        assert_eq!(found("Device 66a1", "gfx906", "0000:ff:00.0"), None, "gfx906 is AMD's as well");
    }
}
