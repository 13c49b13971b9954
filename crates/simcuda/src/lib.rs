//! A simulated CUDA card for tests.
//!
//! `install` builds two shared libraries with the machine's C++ compiler and loads them under the names of NVIDIA's: a driver
//! over host memory and a run-time compiler. Whoever opens `libcuda` afterwards, as `cudarc` does, finds them. The kernels'
//! own text is compiled into the driver, and each thread of a block is a fiber; so what a kernel computes is what its text
//! says.
//!
//! - Work in a stream is done when somebody waits for it: what relies on a wait that is not there goes wrong each time.
//! - Memory that nobody wrote is NaN, and around each allocation and each shared array lie bytes that nobody may write.
//!   Freed memory is out of reach.
//! - A barrier or an exchange that not all threads reach, a null pointer, a copy out of bounds, a synchronisation while a
//!   stream is captured: each is an error of the call or the launch, said on stderr in words and never a hang.
//! - A library under cuBLASLt's name multiplies matrices by plain loops; `Card::install_blas` lets a process find it.
//! - Libraries are kept under the target directory by the hash of what they are built from.
//!
//! It proves what the host's code does and what the kernels compute, and nothing about a real driver's or chip's speed.
//!
//! From the environment: `QIAO_SIMCUDA_DEVICES`, `QIAO_SIMCUDA_MEMORY` (bytes), `QIAO_SIMCUDA_ARCH` (90),
//! `QIAO_SIMCUDA_PROCESSORS`, `QIAO_SIMCUDA_EAGER` (1: work is done at the call), `QIAO_SIMCUDA_BOTH_WAYS` (0: every block
//! runs its threads from the first), `QIAO_SIMCUDA_WARP` (64: as chips with waves of 64), `QIAO_SIMCUDA_FAMILY` (`hip`, `musa`,
//! `maca`, `corex`: the libraries answer to another vendor's names, of which public sources tell what there is), `CXX` (the
//! compiler).
#![deny(unsafe_code)]

mod sources;

mod symbols;

mod families;

mod generated;

mod library;

mod card;

pub use card::{Alone, Card, Kind, Knob, install, install_with};
pub use families::Family;
