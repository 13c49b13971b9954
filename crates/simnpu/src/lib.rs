//! x
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
pub use backend::SimBackend;
pub use child::{ChildBackend, ChildDevice, serve};
pub use device::SimDevice;
pub use fault::Faults;
pub use fractal::{FRACTAL_16, FRACTAL_32};
pub use gate::{GATE, GateTable, gate, interface};
pub use limits::{Accumulate, Limits, Numerics, Weights};
pub use options::{OPTIONS, Row, Settings};
pub use place::{device_program, library};
use std::sync::Arc;
use qiao_core::{Backend, Result};
/// The devices that options ask for: in this process, or each in one of its own.
///
/// # Errors
/// The program of the process is not found.
pub fn open(settings: Settings) -> Result<Arc<dyn Backend>> {
    if settings.child { Ok(Arc::new(ChildBackend::new(settings)?)) } else { Ok(Arc::new(SimBackend::new(settings))) }
}
