//! Streams and their commands on bytes.

use std::ffi::c_void;
use std::sync::Arc;

use qiao_core::Binding;

use super::{no_flags, timeout};
use crate::abi::{self, ErrorRecord, Status};
use crate::export::fault::{Result, catch, guard};
use crate::export::handles::Handle;
use crate::export::objects::{BUFFERS, DEVICES, STREAMS, StreamObject, release};
use crate::export::wire::{Bytes, BytesMut, Out, size};

pub(in crate::export) unsafe extern "C" fn create(
    device: *mut abi::Device,
    flags: u32,
    out: *mut *mut abi::Stream,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let out = Out::new(out);
        guard(err, || {
            out.check("out")?;
            no_flags(flags)?;
            let object = DEVICES.get(Handle::of(device))?;
            let stream = object.chip.call(|| object.device.stream())?;
            out.write("out", STREAMS.insert(Arc::new(StreamObject::new(object, stream)))?.ptr())
        })
    }
}

pub(in crate::export) unsafe extern "C" fn destroy(stream: *mut abi::Stream) {
    let _ = catch(|| {
        if let Some(stream) = STREAMS.remove(Handle::of(stream)) {
            let host = stream.chip.host.clone();
            release(&host, "destroying a stream", || drop(stream));
        }
    });
}

pub(in crate::export) unsafe extern "C" fn sync(
    stream: *mut abi::Stream,
    timeout_ns: u64,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe { guard(err, || STREAMS.get(Handle::of(stream))?.sync(timeout(timeout_ns))) }
}

/// A range of a buffer of this stream's device, within its bounds.
pub(super) fn range(
    stream: &StreamObject,
    buffer: *mut abi::Buffer,
    offset: u64,
    bytes: u64,
    what: &str,
) -> Result<Binding> {
    let object = BUFFERS.get(Handle::of(buffer)).map_err(|f| f.of(what))?;
    stream.chip.check(&object.chip, what)?;
    let offset = usize::try_from(offset).unwrap_or(usize::MAX);
    let binding = Binding { buffer: object.buffer, offset, bytes: size(what, bytes)? };
    binding.check(what, 0)?;
    Ok(binding)
}

pub(in crate::export) unsafe extern "C" fn upload(
    stream: *mut abi::Stream,
    dst: *mut abi::Buffer,
    offset: u64,
    src: *const c_void,
    bytes: u64,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let src = Bytes::new(src);
        guard(err, || {
            let stream = STREAMS.get(Handle::of(stream))?;
            let dst = range(&stream, dst, offset, bytes, "upload")?;
            let src = src.slice("src", dst.bytes)?;
            stream.command(|s| s.upload(&dst, src))
        })
    }
}

pub(in crate::export) unsafe extern "C" fn download(
    stream: *mut abi::Stream,
    dst: *mut c_void,
    src: *mut abi::Buffer,
    offset: u64,
    bytes: u64,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let mut dst = BytesMut::new(dst);
        guard(err, || {
            let stream = STREAMS.get(Handle::of(stream))?;
            let src = range(&stream, src, offset, bytes, "download")?;
            let dst = dst.slice("dst", src.bytes)?;
            stream.command(|s| s.download(dst, &src))
        })
    }
}

pub(in crate::export) unsafe extern "C" fn copy(
    stream: *mut abi::Stream,
    dst: *mut abi::Buffer,
    dst_offset: u64,
    src: *mut abi::Buffer,
    src_offset: u64,
    bytes: u64,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        guard(err, || {
            let stream = STREAMS.get(Handle::of(stream))?;
            let dst = range(&stream, dst, dst_offset, bytes, "copy destination")?;
            let src = range(&stream, src, src_offset, bytes, "copy source")?;
            stream.command(|s| s.copy(&dst, &src))
        })
    }
}

pub(in crate::export) unsafe extern "C" fn fill(
    stream: *mut abi::Stream,
    dst: *mut abi::Buffer,
    offset: u64,
    bytes: u64,
    byte: u32,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        guard(err, || {
            let stream = STREAMS.get(Handle::of(stream))?;
            let dst = range(&stream, dst, offset, bytes, "fill")?;
            stream.command(|s| s.fill(&dst, byte as u8))
        })
    }
}
