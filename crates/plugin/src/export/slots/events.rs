//! Events.

use super::{no_flags, timeout};
use crate::abi::{self, ErrorRecord, Status};
use crate::export::fault::{Fault, catch, first, guard};
use crate::export::handles::Handle;
use crate::export::objects::{DEVICES, EVENTS, EventObject, STREAMS, release};
use crate::export::wire::Out;

pub(in crate::export) unsafe extern "C" fn create(
    device: *mut abi::Device,
    flags: u32,
    out: *mut *mut abi::Event,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let out = Out::new(out);
        guard(err, || {
            out.check("out")?;
            no_flags(flags)?;
            let object = DEVICES.get(Handle::of(device))?;
            let event = object.chip.call(|| object.device.event())?;
            out.write("out", EVENTS.insert(EventObject { event, chip: object.chip })?.ptr())
        })
    }
}

pub(in crate::export) unsafe extern "C" fn destroy(event: *mut abi::Event) {
    let _ = catch(|| {
        if let Some(EventObject { event, chip }) = EVENTS.remove(Handle::of(event)) {
            release(&chip.host, "destroying an event", || drop(event));
        }
    });
}

pub(in crate::export) unsafe extern "C" fn record(
    event: *mut abi::Event,
    stream: *mut abi::Stream,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        guard(err, || {
            let (event, stream) = (EVENTS.get(Handle::of(event))?, STREAMS.get(Handle::of(stream))?);
            stream.chip.check(&event.chip, "event")?;
            stream.command(|s| s.record(&*event.event))
        })
    }
}

pub(in crate::export) unsafe extern "C" fn wait(
    stream: *mut abi::Stream,
    event: *mut abi::Event,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        guard(err, || {
            let (event, stream) = (EVENTS.get(Handle::of(event))?, STREAMS.get(Handle::of(stream))?);
            stream.chip.check(&event.chip, "event")?;
            stream.command(|s| s.wait(&*event.event))
        })
    }
}

pub(in crate::export) unsafe extern "C" fn sync(
    event: *mut abi::Event,
    timeout_ns: u64,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        guard(err, || {
            let object = EVENTS.get(Handle::of(event))?;
            object.chip.call(|| object.event.sync(timeout(timeout_ns)).map_err(first))
        })
    }
}

pub(in crate::export) unsafe extern "C" fn query(event: *mut abi::Event, err: *mut ErrorRecord) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        guard(err, || {
            let object = EVENTS.get(Handle::of(event))?;
            match object.chip.call(|| object.event.is_reached().map_err(first))? {
                true => Ok(()),
                false => Err(Fault::new(abi::ERR_NOT_READY, "the point is not reached yet")),
            }
        })
    }
}

pub(in crate::export) unsafe extern "C" fn elapsed_ns(
    a: *mut abi::Event,
    b: *mut abi::Event,
    out: *mut u64,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: what the caller gives is lent for the call.
    unsafe {
        let out = Out::new(out);
        guard(err, || {
            out.check("out")?;
            let (a, b) = (EVENTS.get(Handle::of(a))?, EVENTS.get(Handle::of(b))?);
            a.chip.check(&b.chip, "event")?;
            let since = a.chip.call(|| Ok(b.event.since(&*a.event)))?;
            let since = since.ok_or_else(|| {
                Fault::unsupported("the device can't tell the time between these events; record both and wait for them")
            })?;
            out.write("out", u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
        })
    }
}
