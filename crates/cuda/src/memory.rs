//! Memory of the card.

use std::sync::Arc;

use qiao_core::{Binding, Buffer, BufferExt, Error, Result};

use crate::context::{Context, Grave};
use crate::sys::CUdeviceptr;

pub(crate) use qiao_launch::ALIGN;

/// Bytes of the card.
pub(crate) struct CudaBuffer {
    context: Arc<Context>,
    /// 0 where there are no bytes.
    address: CUdeviceptr,
    bytes: usize,
}

impl CudaBuffer {
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        let address = if bytes == 0 { 0 } else { context.alloc(bytes)? };
        Ok(CudaBuffer { context: context.clone(), address, bytes })
    }

    /// The address of its first byte; 0 where there are none.
    pub(crate) fn address(&self) -> CUdeviceptr {
        self.address
    }
}

impl Drop for CudaBuffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.context.bury(Grave::Device(self.address));
        }
    }
}

impl Buffer for CudaBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The address of a binding's first byte.
///
/// # Errors
/// The buffer is of another device, or the range is outside it or shorter than `need`.
pub(crate) fn resolve(context: &Context, binding: &Binding, what: &str, need: usize) -> Result<CUdeviceptr> {
    binding.check(what, need)?;
    match binding.buffer.downcast::<CudaBuffer>() {
        Some(buffer) if std::ptr::eq(&*buffer.context, context) => Ok(buffer.address + binding.offset as CUdeviceptr),
        _ => Err(Error::invalid(
            format!("buffer of '{what}'"),
            "it belongs to another device",
            "copy it with download and upload",
        )),
    }
}
