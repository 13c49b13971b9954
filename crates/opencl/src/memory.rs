//! Buffers of a device.

use std::sync::Arc;

use opencl3::types::cl_mem;
use qiao_core::{Binding, Buffer, BufferExt, Error, Result};

use crate::context::{Context, Memory};

/// Bytes of a device.
pub(crate) struct OpenClBuffer {
    /// None where there are no bytes.
    memory: Option<Memory>,
}

/// The first byte of a range: a memory object, and bytes behind its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// No object where there are no bytes.
    pub(crate) memory: cl_mem,
    pub(crate) offset: usize,
}

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Start {}

impl OpenClBuffer {
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        let memory = (bytes > 0).then(|| Memory::new(context, bytes)).transpose()?;
        Ok(OpenClBuffer { memory })
    }

    /// Its first byte.
    pub(crate) fn start(&self) -> Start {
        Start { memory: self.memory.as_ref().map_or(std::ptr::null_mut(), |m| m.raw), offset: 0 }
    }
}

impl Buffer for OpenClBuffer {
    fn bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, |m| m.bytes)
    }
}

/// The first byte of a binding.
///
/// # Errors
/// The buffer is of another device, or the range is outside it or shorter than `need`.
pub(crate) fn resolve(context: &Context, binding: &Binding, what: &str, need: usize) -> Result<Start> {
    binding.check(what, need)?;
    let own = binding.buffer.downcast::<OpenClBuffer>();
    match own.filter(|b| b.memory.as_ref().is_none_or(|m| m.is_of(context))) {
        Some(buffer) => Ok(Start { offset: binding.offset, ..buffer.start() }),
        None => Err(Error::invalid(
            format!("buffer of '{what}'"),
            "it belongs to another device",
            "copy it with download and upload",
        )),
    }
}
