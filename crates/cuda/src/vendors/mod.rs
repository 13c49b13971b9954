//! Vendors whose drivers are shaped like CUDA's, a row of data each: what their libraries, calls, numbers and codes are called,
//! how their cards are told from others', and what their cards do differently.
//!
//! Every fact names its public source beside it. What no public source tells is said so where it stands, and is either assumed
//! to be as CUDA has it, in words, or left out.

mod corex;

mod cuda;

mod hip;

mod maca;

mod musa;

mod makers;

use crate::backend::Family;
use crate::compile::Target;
use crate::library::Installed;
use crate::sys::{BlasNames, Code, CompilerNames, Names, SUCCESS};

pub(crate) use makers::{Asked, maker_of};

impl Family {
    /// NVIDIA: `cuda`.
    pub const CUDA: Family = Family(&cuda::ROW);

    /// Hygon: `hip`.
    pub const HIP: Family = Family(&hip::ROW);

    /// Moore Threads: `musa`.
    pub const MUSA: Family = Family(&musa::ROW);

    /// MetaX: `maca`.
    pub const MACA: Family = Family(&maca::ROW);

    /// Iluvatar: `corex`.
    pub const COREX: Family = Family(&corex::ROW);

    /// Every vendor, NVIDIA first.
    pub const ALL: [Family; 5] = [Family::CUDA, Family::HIP, Family::MUSA, Family::MACA, Family::COREX];
}

/// A vendor's driver, compiler and cards, as data.
pub(crate) struct Row {
    /// The backend's name, as in `cuda:0`.
    pub(crate) name: &'static str,
    /// Whose cards these are: a name of [`makers`].
    pub(crate) maker: &'static str,
    /// What the vendor calls its stack, and how it writes the driver's version.
    pub(crate) stack: Stack,
    /// The driver's library.
    pub(crate) driver: Installed,
    /// What the driver's functions are called.
    pub(crate) calls: Names,
    /// What its codes say.
    pub(crate) codes: Codes,
    /// The numbers of attributes.
    pub(crate) attributes: Attributes,
    /// How a card's architecture is told.
    pub(crate) arch: Arch,
    /// The widths of a warp for which the kernels' text has a branch.
    pub(crate) warps: &'static [usize],
    /// The bytes of shared memory that a block may ask for.
    pub(crate) shared: Shared,
    /// What compiles kernels at run time.
    pub(crate) compiler: Compiling,
    /// The library of large products and its functions' names, where the vendor has one of cuBLASLt's interface.
    pub(crate) blas: Option<(Installed, BlasNames)>,
    /// The first architecture that computes in bf16, as [`Arch`] numbers them; older ones store it only.
    pub(crate) bf16_from: u32,
    /// Whether subnormal numbers may become zero.
    pub(crate) flush_subnormals: bool,
    /// Whether images that nvcc made when the crate was built run on these cards.
    pub(crate) prebuilt: bool,
}

/// What a vendor calls its stack, and how the driver numbers its version.
pub(crate) struct Stack {
    pub(crate) name: &'static str,
    /// What the major number is multiplied by, and the minor; 0 where that is not public.
    pub(crate) version: (i32, i32),
    /// Whether the driver takes no code and no calls of libraries whose major number is above its own.
    pub(crate) bounds: bool,
}

impl Stack {
    /// The driver's version in words.
    pub(crate) fn version(&self, driver: i32) -> String {
        match self.version {
            (major, minor) if major > 0 => format!("{} {}.{}", self.name, driver / major, driver % major / minor),
            _ => format!("{} driver {driver}", self.name),
        }
    }

    /// The major number of a driver's version, where it is public how that is numbered.
    pub(crate) fn major(&self, driver: i32) -> i32 {
        driver / self.version.0.max(1)
    }
}

/// What a driver's codes say, other than success, which is 0 everywhere.
pub(crate) struct Codes {
    pub(crate) out_of_memory: &'static [Code],
    pub(crate) not_ready: &'static [Code],
    /// What the first call answers where there is no card.
    pub(crate) no_device: &'static [Code],
    /// What the first call of a library answers that is only there to link with.
    pub(crate) stub: &'static [Code],
    /// Codes after which nothing more can be done in the context: what a kernel did, or what befell the card.
    pub(crate) lost: &'static [Code],
}

/// What a code says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    Success,
    NotReady,
    OutOfMemory,
    Lost,
    Other,
}

impl Codes {
    /// What a code says.
    pub(crate) fn means(&self, code: Code) -> Meaning {
        let is = |codes: &[Code]| codes.contains(&code);
        match code {
            SUCCESS => Meaning::Success,
            _ if is(self.not_ready) => Meaning::NotReady,
            _ if is(self.out_of_memory) => Meaning::OutOfMemory,
            _ if is(self.lost) => Meaning::Lost,
            _ => Meaning::Other,
        }
    }
}

/// The numbers of attributes; `None` where they are not public.
pub(crate) struct Attributes {
    /// Compute capability: the major number and the minor.
    pub(crate) capability: [Option<i32>; 2],
    pub(crate) processors: Option<i32>,
    pub(crate) warp: Option<i32>,
    /// Kilohertz of the memory's clock, and bits of its bus.
    pub(crate) memory: [Option<i32>; 2],
}

/// How a card's architecture is told, and what the compiler calls it.
pub(crate) enum Arch {
    /// By compute capability: `prefix` and ten times the major number plus the minor, from `oldest` on. Those of `exactly` have
    /// instructions of their own, which a letter asks for.
    Capability { prefix: &'static str, oldest: u32, exactly: &'static [(u32, char)] },
    /// By the word of this prefix in the card's properties, `gfx906:sramecc+`, up to a colon; its number is hexadecimal.
    Properties { prefix: &'static str },
    /// By compute capability, a hundred times the major number plus the minor; another name where that is less than a thousand,
    /// as the numbers of another release of the driver make it.
    Hundreds { prefix: &'static str, otherwise: &'static str },
    /// By compute capability, ten times the major number plus the minor, each of which has a name.
    Named(&'static [(u32, &'static str)]),
}

impl Arch {
    /// A card's architecture as it is shown.
    pub(crate) fn shown(&self, target: &Target) -> String {
        match self {
            Arch::Capability { prefix, .. } => format!("{prefix}{}", target.arch),
            _ => target.name.clone(),
        }
    }
}

/// The bytes of shared memory that a block may ask for.
pub(crate) enum Shared {
    /// An attribute of this number.
    Attribute(i32),
    /// As many on every card.
    Bytes(usize),
}

/// What compiles kernels at run time.
pub(crate) enum Compiling {
    /// A library of NVRTC's interface; options have the architecture's name for `{arch}`.
    Library { library: Installed, calls: &'static CompilerNames, options: &'static [&'static str] },
    /// A program that its owner names in a variable; `mend` says so.
    Program { what: &'static str, variable: &'static str, options: &'static [&'static str], mend: &'static str },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_that_is_contained_or_whose_server_ended_is_lost() {
        // CUDA_ERROR_CONTAINED, CUDA_ERROR_MPS_CLIENT_TERMINATED; an image that is invalid loses no card.
        let means = [226, 810, 200].map(|code| cuda::CODES.means(code));
        assert_eq!(means, [Meaning::Lost, Meaning::Lost, Meaning::Other]);
    }

    #[test]
    fn a_drivers_version_tells_its_major_number() {
        let majors = [13_000, 12_080].map(|driver| Family::CUDA.0.stack.major(driver));
        assert_eq!(majors, [13, 12]);
    }

    #[test]
    fn every_row_names_what_it_cannot_do_without() {
        for Family(row) in Family::ALL {
            let compiler = match &row.compiler {
                Compiling::Library { calls, .. } => {
                    assert!(calls.must().iter().all(|name| !name.is_empty()), "{}", row.name);
                    [calls.must(), calls.may()].concat()
                }
                Compiling::Program { .. } => Vec::new(),
            };
            let blas = row.blas.as_ref().map(|(_, names)| [names.must(), names.may()].concat()).unwrap_or_default();
            let must = [row.calls.must(), blas].concat();
            assert!(must.iter().all(|name| !name.is_empty()), "{}", row.name);
            let names: Vec<&str> = [must, row.calls.may(), compiler].concat();
            let mut single: Vec<&str> = names.iter().flat_map(|n| n.split('|')).filter(|n| !n.is_empty()).collect();
            let count = single.len();
            single.sort_unstable();
            single.dedup();
            assert_eq!(single.len(), count, "{} calls two things by one name", row.name);
            assert!(makers::known(row.maker), "{} is nobody's", row.name);
        }
    }
}
