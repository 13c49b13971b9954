//! The one line that a vendor writes, on the CPU.

use std::sync::Arc;

use qiao_core::{Device, Result};

fn open() -> Result<Arc<dyn Device>> {
    Ok(Arc::new(qiao_cpu::CpuDevice::with(&qiao_cpu::CpuOptions::default())?))
}

qiao_conformance::suite!(open, profile = LlmServing);
