//! Backends: from `backend_init` to `backend_shutdown`.

use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use crate::abi::{self, ErrorRecord, Status};
use crate::export::Plugin;
use crate::export::fault::{Fault, catch, guard};
use crate::export::handles::Handle;
use crate::export::host::Host;
use crate::export::objects::{BACKENDS, BackendObject, Chip, DEVICES, DeviceObject, release, shut_down};
use crate::export::wire::{In, Out, extensions};

pub(in crate::export) unsafe extern "C" fn init<P: Plugin>(
    host: *const abi::Host,
    out: *mut *mut abi::Backend,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call; the host struct lives until the shutdown.
    unsafe {
        let (host, out) = (In::new(host), Out::new(out));
        guard(err, || {
            out.check("out")?;
            let host = host.read("host")?;
            extensions(host.ext, "host")?;
            let host = Host::new(&host);
            let opened = catch(|| P::open(&host)).and_then(|opened| opened);
            match opened
                .map_err(Fault::from)
                .and_then(|backend| BACKENDS.insert(Arc::new(BackendObject { backend, host: host.clone() })))
            {
                Ok(handle) => out.write("out", handle.ptr()),
                Err(fault) => {
                    host.revoke();
                    Err(fault)
                }
            }
        })
    }
}

pub(in crate::export) unsafe extern "C" fn shutdown(backend: *mut abi::Backend) {
    let _ = catch(|| shut_down(Handle::of(backend)));
}

pub(in crate::export) unsafe extern "C" fn interface<P: Plugin>(
    backend: *mut abi::Backend,
    id: *const c_char,
) -> *const c_void {
    let found = catch(|| {
        BACKENDS.get(Handle::of(backend)).ok()?;
        if id.is_null() {
            return None;
        }
        // SAFETY: the name ends in NUL and is lent for the call.
        let id = unsafe { CStr::from_ptr(id) };
        id.to_str().ok().map(P::interface)
    });
    found.ok().flatten().unwrap_or(std::ptr::null())
}

pub(in crate::export) unsafe extern "C" fn device_count(
    backend: *mut abi::Backend,
    out: *mut u32,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let out = Out::new(out);
        guard(err, || {
            out.check("out")?;
            let devices = BACKENDS.get(Handle::of(backend))?.backend.devices()?;
            out.write("out", devices.len() as u32)
        })
    }
}

pub(in crate::export) unsafe extern "C" fn device_open(
    backend: *mut abi::Backend,
    ordinal: u32,
    out: *mut *mut abi::Device,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let out = Out::new(out);
        guard(err, || {
            out.check("out")?;
            let handle = Handle::of(backend);
            let backend = BACKENDS.get(handle)?;
            let device = backend.backend.open(ordinal as usize)?;
            let chip = Arc::new(Chip::new(backend.host.clone(), handle, ordinal));
            out.write("out", DEVICES.insert(DeviceObject { device, chip })?.ptr())
        })
    }
}

pub(in crate::export) unsafe extern "C" fn device_close(device: *mut abi::Device) {
    let _ = catch(|| {
        if let Some(DeviceObject { device, chip }) = DEVICES.remove(Handle::of(device)) {
            release(&chip.host, "closing a device", || drop(device));
        }
    });
}
