//! x
#![deny(unsafe_code)]
mod limits;
mod fault;
mod numbers;
mod fractal;
pub mod presets;
mod options;
mod ops;
mod memory;
mod schedule;
mod chip;
mod event;
mod stream;
mod plan;
mod device;
mod backend;
pub use backend::SimBackend;
pub use device::SimDevice;
pub use fault::Faults;
pub use fractal::{FRACTAL_16, FRACTAL_32};
pub use limits::{Accumulate, Limits, Numerics, Weights};
pub use options::{OPTIONS, Row, Settings};
