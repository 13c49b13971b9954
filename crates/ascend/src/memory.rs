//! Memory of the device.

use std::sync::Arc;

use qiao_core::{Binding, Buffer, BufferExt, Error, Result};

use crate::context::{Context, Grave};
use crate::sys::Handle;

/// Every tensor starts on so many bytes: `aclrtMalloc` does, and each segment that is cut from an allocation must.
pub(crate) const ALIGN: usize = 64;

/// Bytes behind every tensor that operators may read: a segment of n bytes takes n rounded up to 32, and 32 more.
pub(crate) const TAIL: usize = 32;

/// Bytes of the device.
pub(crate) struct AscendBuffer {
    context: Arc<Context>,
    /// Null where there are no bytes.
    raw: Handle,
    bytes: usize,
}

// SAFETY: an address of the device, which any thread may pass on.
unsafe impl Send for AscendBuffer {}
// SAFETY: as above.
unsafe impl Sync for AscendBuffer {}

impl AscendBuffer {
    /// # Errors
    /// [`Error::OutOfMemory`]; [`Error::DeviceLost`].
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self> {
        let raw = if bytes == 0 { std::ptr::null_mut() } else { context.alloc(bytes)? };
        Ok(AscendBuffer { context: context.clone(), raw, bytes })
    }

    /// The address of its first byte; 0 where there are none.
    pub(crate) fn address(&self) -> usize {
        self.raw as usize
    }
}

impl Drop for AscendBuffer {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.context.bury(Grave::Device(self.raw));
        }
    }
}

impl Buffer for AscendBuffer {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// The address of a binding's first byte.
///
/// # Errors
/// The buffer is of another device, or the range is outside it or shorter than `need`.
pub(crate) fn resolve(context: &Context, binding: &Binding, what: &str, need: usize) -> Result<usize> {
    binding.check(what, need)?;
    match binding.buffer.downcast::<AscendBuffer>() {
        Some(buffer) if std::ptr::eq(&*buffer.context, context) => Ok(buffer.address() + binding.offset),
        _ => Err(Error::invalid(
            format!("buffer of '{what}'"),
            "it belongs to another device",
            "copy it with download and upload",
        )),
    }
}
