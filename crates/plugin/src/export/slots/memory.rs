//! Buffers.

use std::ffi::c_void;

use crate::abi::{self, ErrorRecord, Status};
use crate::export::fault::{Fault, catch, guard};
use crate::export::handles::Handle;
use crate::export::objects::{BUFFERS, Borrowed, BufferObject, DEVICES, free};
use crate::export::wire::{Out, size};

pub(in crate::export) unsafe extern "C" fn alloc(
    device: *mut abi::Device,
    memory: u32,
    bytes: u64,
    out: *mut *mut abi::Buffer,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let out = Out::new(out);
        guard(err, || {
            out.check("out")?;
            let object = DEVICES.get(Handle::of(device))?;
            let buffer = object.chip.call(|| {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                object.device.alloc(memory as usize, bytes)
            })?;
            let buffer = BufferObject { buffer, chip: object.chip, borrowed: None };
            out.write("out", BUFFERS.insert(buffer)?.ptr())
        })
    }
}

pub(in crate::export) unsafe extern "C" fn import(
    device: *mut abi::Device,
    host: *const c_void,
    bytes: u64,
    out: *mut *mut abi::Buffer,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call, and the host memory until the buffer is freed, which waits until
    // it is gone.
    unsafe {
        let out = Out::new(out);
        guard(err, || {
            out.check("out")?;
            let object = DEVICES.get(Handle::of(device))?;
            let info = object.device.info();
            if !info.caps.import_host {
                return Err(Fault::unsupported(format!("{} does not read host memory in place; upload it", info.name)));
            }
            let bytes = size("host memory", bytes)?;
            if host.is_null() && bytes > 0 {
                return Err(Fault::invalid("host memory", "NULL", "give a pointer to it"));
            }
            let (memory, gone) = Borrowed::lend(host.cast(), bytes);
            let buffer = object.chip.call(|| object.device.import(memory, 0, bytes))?;
            let buffer = BufferObject { buffer, chip: object.chip, borrowed: Some(gone) };
            out.write("out", BUFFERS.insert(buffer)?.ptr())
        })
    }
}

pub(in crate::export) unsafe extern "C" fn buffer_free(buffer: *mut abi::Buffer) {
    let _ = catch(|| BUFFERS.remove(Handle::of(buffer)).map(free));
}
