//! What a device is.

use crate::abi::{self, ErrorRecord, Sized32, Status};
use crate::export::answer;
use crate::export::fault::{Fault, Result, guard};
use crate::export::handles::Handle;
use crate::export::objects::DEVICES;
use crate::export::wire::OutStruct;

pub(in crate::export) unsafe extern "C" fn info(
    device: *mut abi::Device,
    out: *mut abi::DeviceInfo,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe { tell(device, out, err, |info| Ok(answer::device(info))) }
}

pub(in crate::export) unsafe extern "C" fn memory(
    device: *mut abi::Device,
    memory: u32,
    out: *mut abi::MemoryInfo,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe { tell(device, out, err, |info| at("memory", &info.memories, memory).map(answer::memory)) }
}

pub(in crate::export) unsafe extern "C" fn dtype(
    device: *mut abi::Device,
    index: u32,
    out: *mut abi::DtypeInfo,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe { tell(device, out, err, |info| at("dtype", &info.dtypes, index).map(answer::dtype_info)) }
}

pub(in crate::export) unsafe extern "C" fn kv(
    device: *mut abi::Device,
    index: u32,
    out: *mut abi::KvInfo,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe { tell(device, out, err, |info| at("KV layout", &info.kv, index).map(answer::kv_info)) }
}

/// Fills a struct from what the device says it is.
///
/// # Safety
/// `out` and `err` are NULL, or valid for as many bytes as their `struct_size` says.
unsafe fn tell<T: Sized32>(
    device: *mut abi::Device,
    out: *mut T,
    err: *mut ErrorRecord,
    part: impl FnOnce(&qiao_core::DeviceInfo) -> Result<T>,
) -> Status {
    // SAFETY: as promised.
    unsafe {
        let out = OutStruct::new(out);
        guard(err, || {
            out.check("out")?;
            let object = DEVICES.get(Handle::of(device))?;
            let told = object.chip.call(|| Ok(part(object.device.info())))??;
            out.write("out", &told)
        })
    }
}

/// One thing of a list.
fn at<'a, T>(what: &str, list: &'a [T], index: u32) -> Result<&'a T> {
    list.get(index as usize).ok_or_else(|| {
        Fault::invalid(format!("{what} {index}"), format!("there are {}", list.len()), "use a position below that")
    })
}
