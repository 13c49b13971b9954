//! A whole backend in Rust: copy it, rename it, and put your driver's calls where the comments say YOUR DRIVER.
//!
//! The chip here is the host's own memory and processor, and every command is done when its call returns. That is enough to
//! be right; queues that run by themselves, private layouts, more operators and dtypes are added one at a time.
//!
//! - `memory`: buffers and the stream.
//! - `ops`: the table of kernels, which says what the chip runs and runs it, and the plan.
//! - `device`: what the chip is, and the way to all of it.
//!
//! `cargo test` holds it to the conformance suite; `cargo build` makes the plugin that Qiao loads.
#![forbid(unsafe_code)]

mod memory;

mod ops;

mod device;

use std::sync::Arc;

use qiao_core::{Backend, Device, DeviceInfo, Error, Result};

pub use device::Chip;

qiao_plugin::export! { vendor: "ACME", name: "acme", version: env!("CARGO_PKG_VERSION"), open: open_backend }

/// Starts the driver. YOUR DRIVER: open its library here, with dlopen; where it is not on this machine, answer
/// [`Error::NotPresent`]. `host.option("key")` is what the user gave as `key=value`.
fn open_backend(_: &qiao_plugin::Host) -> Result<Arc<dyn Backend>> {
    Ok(Arc::new(Chips))
}

/// The chips of this machine.
#[derive(Clone, Copy, Debug)]
pub struct Chips;

impl Backend for Chips {
    fn name(&self) -> &str {
        "acme"
    }

    fn devices(&self) -> Result<Vec<DeviceInfo>> {
        Ok(vec![device::info()])
    }

    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>> {
        match ordinal {
            0 => Ok(Arc::new(Chip::new())),
            n => Err(Error::invalid(format!("device {n}"), "there is one", "open 0")),
        }
    }
}

/// The first chip, for the suite.
///
/// # Errors
/// As [`Backend::open`].
pub fn open() -> Result<Arc<dyn Device>> {
    Chips.open(0)
}
