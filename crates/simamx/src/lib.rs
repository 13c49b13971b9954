//! AMX for tests on processors that have none.
//!
//! [`install`] looks whether tiles run here. Where they do not, it catches the signal that the processor raises at an
//! instruction it does not know: the twelve instructions of AMX-TILE, AMX-BF16 and AMX-INT8 are decoded, done on tiles
//! of the thread, and stepped over. Every other unknown instruction ends the process as it would have without.
//!
//! - What an instruction computes and refuses is what Intel's manual (volume 2, "TDPBF16PS" and its neighbours; volume 1,
//!   "Programming with Intel AMX") says of palette 1, 8 tiles of 16 rows by 64 bytes.
//! - Where hardware raises #UD or #GP, the process aborts, and a line on stderr names the instruction and why.
//! - Tiles are the thread's own. A signal handler or a child of a fork does not get them saved, as hardware would.
//! - It proves what tiles compute, and nothing about how fast: each instruction costs a signal, some microseconds.
#![deny(unsafe_code)]

mod tiles;

mod decode;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod trap;

pub use decode::{Address, Instruction, decode};
pub use tiles::{Fault, Kind, Tiles};

/// How AMX instructions run in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// The processor has them, and the system lets this process use them.
    Hardware,
    /// They trap, and the trap does what they say.
    Emulated,
}

/// Makes AMX instructions run in this process, in every thread, from now on; `None` where they cannot: on other
/// architectures and systems.
pub fn install() -> Option<Means> {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return Some(trap::install());
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    None
}
