//! The CPU backend: threads, tiling and memory around the kernels of `qiao-kernels-cpu`.
//!
//! - [`CpuBackend`] is the machine's processor, one device. `QIAO_ISA` = `scalar`, `avx2`, `avx512` or `amx` forces a
//!   tier, `QIAO_THREADS` a number of threads, `QIAO_ACTIVATIONS` = `8` the rounding of what meets quantised weights;
//!   [`CpuDevice::with`] does the same in code. Tier amx is taken after a look
//!   whether its sums are as documented; [`CpuDevice::with_emulated_tiles`] is for tests on other machines.
//! - A stream runs each command to its end before the call returns; plans of one device take turns on its threads.
//! - A plan holds one prepared step per node. Executing it looks nothing up and allocates nothing: operands are resolved
//!   to addresses, and each step runs its tasks on the pool.
//! - Activations are f32, f16 or bf16 in memory and f32 in registers. Constant matmul weights are packed once into the
//!   panels that the kernels read (a `Relayout` answer); everything else is read where it lies.
//!
//! Two plans that run at the same time on different streams must not touch the same bytes unless both only read them:
//! order them with events, as the contract asks.

mod memory;
mod threads;

mod stream;

mod ops;

mod proof;

mod device;

mod backend;

pub use backend::CpuBackend;
pub use device::{Activations, CpuDevice, CpuOptions};
pub use qiao_kernels_cpu::Isa;
