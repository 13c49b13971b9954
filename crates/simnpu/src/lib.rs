//! A simulated NPU: a chip that exists to be unpleasant in documented ways, and a plugin in its own right.
//!
//! - **Private storage.** Its memory is out of the host's reach, and full of NaN until somebody writes it: new buffers,
//!   what was freed, and the workspace of every execution.
//! - **Honest queues.** A thread for each stream; a seeded referee picks whose command goes next and holds some back, so
//!   that a missing wait shows; events are true only behind their work. A *gate* holds everything until it is opened:
//!   [`SimDevice::close_gate`], or [`GateTable`] through the plugin.
//! - **Limits.** Alignment, padding, room, dtypes, ranks, gaps, layouts of weights and caches, all data in
//!   [`presets`](mod@presets), each with its public source, and each an option. What is refused is refused with its
//!   reason; `support` and `plan` ask the same function.
//! - **Numerics.** Products and attention have loops of their own that accumulate in f32, f16 or bf16; everything else is
//!   the truth, rounded. Subnormals may be flushed.
//! - **Faults.** The nth call runs out of memory, fails, hangs, loses the device, or lies.
//! - **A process of its own.** With `sim.process=child` each device lives in a child process behind a proxy; killing it at
//!   any instant is a device loss and nothing worse.
//!
//! The life of a command: a call checks its arguments and queues a step on its stream's lane (`stream`, `plan`); the
//! referee gives the lane the turn (`schedule`); the step reads its operands where they lie, computes, and writes
//! (`plan`, `ops`); the lane's progress moves on, and whoever waits for it wakes (`event`).
//!
//! A host gives each option by its key, or all in the option `sim` as one list of words, in which a mistyped key is
//! refused:
//!
//! | option | values | meaning |
//! |---|---|---|
//! | `sim.preset` | a preset | The chip to mimic; other options change single limits of it. Default `plain`. |
//! | `sim.devices` | 1 to 64 | How many independent devices there are. Default 1. |
//! | `sim.process` | inline, child | Where each device lives: in this process, or in a child that can be killed. Default inline. |
//! | `sim.program` | a path | The program of the child; by default `qiao-simnpu-device` beside the library. |
//! | `sim.seed` | a number | Decides which stream goes next, and the random delays. Default 1. |
//! | `sim.engines` | 1 to 64 | Commands of a device that may be under way at once. With 1 the seed alone decides the order of what is queued. Default 4. |
//! | `sim.jitter_us` | microseconds | The longest random delay before a command; one command in sixteen is delayed. Default 50. |
//! | `sim.latency_us` | microseconds | What every command takes at least. Default 0. |
//! | `sim.align` | a power of two | What operands and workspace start on. |
//! | `sim.tail_pad` | bytes | What must be allocated behind every operand. |
//! | `sim.memory` | bytes | Size of each memory; k, m and g are understood. |
//! | `sim.max_alloc` | bytes | The largest allocation. |
//! | `sim.memory_info` | on, off | Whether the device tells how much memory it has. |
//! | `sim.host_visible` | on, off | Whether its memory is the host's, too, so that host memory can be imported. |
//! | `sim.pinned` | on, off | Whether there is a second memory, page-locked on the host. |
//! | `sim.streams` | a number | Streams that may exist at once; 0 = any. |
//! | `sim.dtypes` | dtypes | What operands may be. |
//! | `sim.f64` | on, off | Whether f64 is among them. |
//! | `sim.f16` | on, off | Whether f16 is among them. |
//! | `sim.bf16` | on, off | Whether bf16 is among them. |
//! | `sim.fp8` | on, off | Whether f8_e4m3 and f8_e5m2 are among them. |
//! | `sim.i8` | on, off | Whether i8 is among them. |
//! | `sim.i64` | on, off | Whether i64 is among them, and so among indices. |
//! | `sim.formats` | block formats | Block formats of weights; empty = none. |
//! | `sim.grouped` | on, off | Whether quantised weights may have a scale for each group of channels. |
//! | `sim.max_rank` | 1 to 8 | The highest rank of an operand. |
//! | `sim.strided` | on, off | Whether operands may have gaps; a copy always may. |
//! | `sim.multi_op` | on, off | Whether a plan may have several nodes. |
//! | `sim.one_shot` | on, off | Whether an executor runs once, so that every execution of a plan makes one. |
//! | `sim.k_multiple` | a number | What the inner size of matrix products is a multiple of. |
//! | `sim.weights` | plain, fractal, fractal-only | Layout of constant weights of 8 and 16 bits: as they are, packed where they can be, packed always. |
//! | `sim.kv` | layout:block, ... | Pages of the KV cache that kernels read, e.g. `token_head:128,head_token:16`; block 0 = any size; `any` = all. |
//! | `sim.partial_rope` | on, off | Whether a part of a head may be rotated. |
//! | `sim.event_timing` | on, off | Whether the time between events is told. |
//! | `sim.fill` | on, off | Whether the device fills memory itself; else it is uploaded. |
//! | `sim.alloc_us` | microseconds | What an allocation takes. |
//! | `sim.plan_ms` | milliseconds | What a plan takes to make. |
//! | `sim.accumulate` | f32, f16, bf16 | How wide the sums of matrix products and attention are: in 16 bits they are rounded after every sixteen products. |
//! | `sim.flush` | on, off | Whether numbers below the smallest normal f32 become zeros. |
//! | `sim.fault` | faults | What goes wrong, counted from 1 on each device: `alloc:N` is out of memory, `execute:N` fails behind the call, `hang:N` never ends, `lost:N` loses the device, `corrupt:N` has one wrong element, `short:N` uploads half, `lying-plan`, `lying-second` (a plan runs once), `slow-support:MS`. |
//!
//! Bytes, dtypes and limits of an option stand in place of the preset's. What the plugin can't leave out, since the
//! exporter fills every slot, is not simulated: a chip without event queries answers them here.
//!
//! Modules, from ground to roof: `limits`, `fault`, `numbers`, `fractal`, `presets`, `options`, `place`, `ops`, `memory`,
//! `schedule`, `chip`, `event`, `stream`, `plan`, `device`, `backend`, `child`, `gate`, `export`.
#![deny(unsafe_code)]

mod limits;

mod fault;
mod numbers;

mod fractal;

pub mod presets;

mod options;
mod place;

mod ops;

mod memory;
mod schedule;

mod chip;

mod event;
mod stream;

mod plan;

mod device;

mod backend;

mod child;

mod gate;

mod export;

use std::sync::Arc;

use qiao_core::{Backend, Result};

pub use backend::SimBackend;
pub use child::{ChildBackend, ChildDevice, serve};
pub use device::SimDevice;
pub use fault::Faults;
pub use fractal::{FRACTAL_16, FRACTAL_32};
pub use gate::{GATE, GateTable, gate, interface};
pub use limits::{Accumulate, Limits, Numerics, Weights};
pub use options::{OPTIONS, Row, Settings};
pub use place::{device_program, library};

/// The devices that options ask for: in this process, or each in one of its own.
///
/// # Errors
/// The program of the process is not found.
pub fn open(settings: Settings) -> Result<Arc<dyn Backend>> {
    if settings.child { Ok(Arc::new(ChildBackend::new(settings)?)) } else { Ok(Arc::new(SimBackend::new(settings))) }
}
