//! The run time: devices, contexts, memory, streams, events.

use std::ffi::{c_char, c_void};

use crate::codes::{
    Code, INVALID_DEVICE, INVALID_HANDLE, OUT_OF_MEMORY, PARAM_INVALID, REPEATED_INIT, STREAM_CONTEXT, SUCCESS,
};
use crate::memory::{Home, padded};
use crate::streams::{Command, Event, Stream};
use crate::world::{Refused, SOCS, World, call, current, message, refused, set_current, world};

macro_rules! calls {
    ($($(#[$doc:meta])* fn $name:ident($($arg:ident: $ty:ty),*) |$w:ident| $body:block)*) => {$(
        $(#[$doc])*
        /// # Safety
        /// Pointers lead where the documented interface says.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> Code {
            call(stringify!($name), |$w| $body)
        }
    )*};
}

/// Writes through a pointer of the caller.
fn put<T>(at: *mut T, value: T, what: &str) -> Result<(), Refused> {
    let at = World::some(at, what)?;
    // SAFETY: it is not null, and the caller's.
    unsafe { at.write(value) };
    Ok(())
}

/// A stream of the current context that has not failed, unless failure is asked for as well.
fn stream(w: &mut World, handle: *mut c_void) -> Result<&mut Stream, Refused> {
    w.device()?;
    let here = current();
    let Some(stream) = w.streams.get_mut(&(handle as usize)) else { return refused(INVALID_HANDLE, "no stream") };
    if stream.context != here {
        return refused(STREAM_CONTEXT, "the stream is of another context");
    }
    match stream.failed.filter(|_| stream.stops) {
        Some(code) => refused(code, "the stream failed before"),
        None => Ok(stream),
    }
}

fn new_context(w: &mut World, device: i32) -> Result<usize, Refused> {
    let Some(device) = usize::try_from(device).ok().filter(|d| (*d as u64) < w.knobs.devices) else {
        return refused(INVALID_DEVICE, format!("device {device} of {}", w.knobs.devices));
    };
    if let Some(&code) = w.lost.get(&device) {
        return refused(code, format!("device {device} is lost"));
    }
    let context = w.handle();
    w.contexts.insert(context, device);
    Ok(context)
}

calls! {
    fn aclInit(_config: *const c_char) |w| {
        if w.initialised {
            return refused(REPEATED_INIT, "it was initialised before");
        }
        w.initialised = true;
        Ok(())
    }

    fn aclrtGetDeviceCount(count: *mut u32) |w| {
        let devices = w.knobs.devices as u32;
        put(count, devices, "the count")
    }

    fn aclrtCreateContext(context: *mut *mut c_void, device: i32) |w| {
        let made = new_context(w, device)?;
        set_current(made);
        put(context, made as *mut c_void, "the context")
    }

    fn aclrtDestroyContext(context: *mut c_void) |w| {
        let at = context as usize;
        if w.contexts.remove(&at).is_none() {
            return refused(INVALID_HANDLE, "no context");
        }
        if w.streams.values().any(|s| s.context == at) {
            return refused(PARAM_INVALID, "a stream of it is left");
        }
        Ok(())
    }

    fn aclrtSetCurrentContext(context: *mut c_void) |w| {
        if !w.contexts.contains_key(&(context as usize)) {
            return refused(INVALID_HANDLE, "no context");
        }
        set_current(context as usize);
        Ok(())
    }

    fn aclrtGetCurrentContext(context: *mut *mut c_void) |w| {
        if !w.contexts.contains_key(&current()) {
            return refused(crate::codes::CONTEXT_NULL, "no context is current to this thread");
        }
        put(context, current() as *mut c_void, "the context")
    }

    fn aclrtGetMemInfo(_attr: i32, free: *mut usize, total: *mut usize) |w| {
        let device = w.device()?;
        let taken = w.taken.get(&device).copied().unwrap_or(0);
        put(free, w.knobs.memory.saturating_sub(taken) as usize, "free")?;
        put(total, w.knobs.memory as usize, "total")
    }

    fn aclrtMalloc(address: *mut *mut c_void, bytes: usize, _policy: i32) |w| {
        let device = w.device()?;
        if bytes == 0 {
            return refused(PARAM_INVALID, "0 bytes");
        }
        let taken = w.taken.get(&device).copied().unwrap_or(0);
        let need = padded(bytes) as u64;
        if taken.saturating_add(need) > w.knobs.memory {
            return refused(OUT_OF_MEMORY, format!("{need} bytes of {}", w.knobs.memory - taken));
        }
        let Some(at) = w.memory.alloc(bytes, Home::Device(device)) else { return refused(OUT_OF_MEMORY, "the host") };
        *w.taken.entry(device).or_default() += need;
        put(address, at as *mut c_void, "the address")
    }

    fn aclrtFree(address: *mut c_void) |w| {
        w.contexts.get(&current()).ok_or_else(|| (crate::codes::CONTEXT_NULL, "no context".to_string()))?;
        match w.memory.free(address as usize).map_err(|why| (PARAM_INVALID, why))? {
            (bytes, Home::Device(device)) => {
                let taken = w.taken.entry(device).or_default();
                *taken = taken.saturating_sub(padded(bytes) as u64);
                Ok(())
            }
            _ => refused(PARAM_INVALID, "it is memory of the host"),
        }
    }

    fn aclrtMallocHost(address: *mut *mut c_void, bytes: usize) |w| {
        w.device()?;
        let Some(at) = w.memory.alloc(bytes, Home::Host) else { return refused(OUT_OF_MEMORY, "the host") };
        w.pinned += 1;
        put(address, at as *mut c_void, "the address")
    }

    fn aclrtFreeHost(address: *mut c_void) |w| {
        match w.memory.free(address as usize).map_err(|why| (PARAM_INVALID, why))? {
            (_, Home::Host) => {
                w.pinned -= 1;
                Ok(())
            }
            _ => refused(PARAM_INVALID, "it is memory of a device"),
        }
    }

    fn aclrtCreateStream(handle: *mut *mut c_void) |w| {
        let device = w.device()?;
        let made = w.handle();
        let new = Stream { context: current(), device, queue: Default::default(), failed: None, stops: false };
        w.streams.insert(made, new);
        put(handle, made as *mut c_void, "the stream")
    }

    fn aclrtSetStreamFailureMode(handle: *mut c_void, mode: u64) |w| {
        stream(w, handle)?.stops = mode == 1;
        Ok(())
    }

    fn aclrtDestroyStream(handle: *mut c_void) |w| {
        while w.knobs.stalled == 0 && w.streams.contains_key(&(handle as usize)) && !w.is_idle(handle as usize) {}
        match w.streams.remove(&(handle as usize)) {
            Some(_) => Ok(()),
            None => refused(INVALID_HANDLE, "no stream"),
        }
    }

    fn aclrtStreamQuery(handle: *mut c_void, status: *mut i32) |w| {
        stream(w, handle)?;
        let idle = w.is_idle(handle as usize);
        stream(w, handle)?;
        put(status, i32::from(!idle), "the status")
    }

    fn aclrtSynchronizeStreamWithTimeout(handle: *mut c_void, _millis: i32) |w| {
        stream(w, handle)?;
        let mut looks = 0;
        while !w.is_idle(handle as usize) {
            w.advance_others(handle as usize);
            looks += 1;
            if looks > 100_000 || w.knobs.stalled != 0 {
                return refused(507_046, "it did not end in time");
            }
        }
        let s = stream(w, handle)?;
        match s.failed {
            Some(code) => refused(code, "a command failed"),
            None => Ok(()),
        }
    }

    fn aclrtCreateEventWithFlag(handle: *mut *mut c_void, _flag: u32) |w| {
        let device = w.device()?;
        let made = w.handle();
        w.events.insert(made, Event { device, recorded: 0, reached: 0, at: 0 });
        put(handle, made as *mut c_void, "the event")
    }

    fn aclrtDestroyEvent(handle: *mut c_void) |w| {
        match w.events.remove(&(handle as usize)) {
            Some(_) => Ok(()),
            None => refused(INVALID_HANDLE, "no event"),
        }
    }

    fn aclrtRecordEvent(event: *mut c_void, handle: *mut c_void) |w| {
        let device = stream(w, handle)?.device;
        let Some(e) = w.events.get_mut(&(event as usize)).filter(|e| e.device == device) else {
            return refused(INVALID_HANDLE, "no event of this device");
        };
        e.recorded += 1;
        let point = e.recorded;
        stream(w, handle)?.queue.push_back(Command::Record(event as usize, point));
        Ok(())
    }

    fn aclrtQueryEventStatus(event: *mut c_void, status: *mut i32) |w| {
        w.device()?;
        if !w.events.contains_key(&(event as usize)) {
            return refused(INVALID_HANDLE, "no event");
        }
        let reached = w.is_reached(event as usize);
        put(status, i32::from(reached), "the status")
    }

    fn aclrtStreamWaitEvent(handle: *mut c_void, event: *mut c_void) |w| {
        let Some(point) = w.events.get(&(event as usize)).map(|e| e.recorded) else { return refused(INVALID_HANDLE, "no event") };
        stream(w, handle)?.queue.push_back(Command::Wait(event as usize, point));
        Ok(())
    }

    fn aclrtEventElapsedTime(millis: *mut f32, start: *mut c_void, end: *mut c_void) |w| {
        let at = |e: *mut c_void| w.events.get(&(e as usize)).filter(|e| e.reached == e.recorded).map(|e| e.at);
        let (Some(from), Some(to)) = (at(start), at(end)) else { return refused(507_006, "an event is not reached") };
        put(millis, (to as f32 - from as f32) * 1e-3, "the time")
    }

    fn aclrtMemsetAsync(address: *mut c_void, most: usize, value: i32, count: usize, handle: *mut c_void) |w| {
        if count > most {
            return refused(PARAM_INVALID, format!("{count} bytes of {most}"));
        }
        let at = address as usize;
        let work = move |memory: &mut crate::memory::Memory| {
            memory.write(at, count)?.fill(value as u8);
            Ok(())
        };
        stream(w, handle)?.queue.push_back(Command::Run("memset", Box::new(work)));
        Ok(())
    }

    fn aclrtMemcpyAsync(dst: *mut c_void, most: usize, src: *const c_void, count: usize, kind: i32, handle: *mut c_void) |w| {
        let device = stream(w, handle)?.device;
        if count > most {
            return refused(PARAM_INVALID, format!("{count} bytes into {most}"));
        }
        let (to, from) = (dst as usize, src as usize);
        let homes = match kind {
            1 => [Home::Device(device), Home::Host],
            2 => [Home::Host, Home::Device(device)],
            3 => [Home::Device(device), Home::Device(device)],
            _ => return refused(PARAM_INVALID, format!("kind {kind}")),
        };
        for (at, home) in [to, from].into_iter().zip(homes) {
            match w.memory.around(at) {
                Some((start, bytes, found)) if found == home && at + count <= start + bytes => {}
                Some(_) => return refused(PARAM_INVALID, format!("{at:#x} is not {count} bytes in {home:?}")),
                None => return refused(PARAM_INVALID, format!("{at:#x} lies in no allocation: an asynchronous copy needs page-locked memory")),
            }
        }
        let work = move |memory: &mut crate::memory::Memory| {
            let bytes = memory.read(from, count)?.to_vec();
            memory.write(to, count)?.copy_from_slice(&bytes);
            Ok(())
        };
        stream(w, handle)?.queue.push_back(Command::Run("copy", Box::new(work)));
        Ok(())
    }
}

/// The name of the chip; null where no context is current.
///
/// # Safety
/// None is asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetSocName() -> *const c_char {
    let w = world();
    if !w.initialised {
        return std::ptr::null();
    }
    SOCS.get(w.knobs.soc as usize).map_or(std::ptr::null(), |name| name.as_ptr())
}

/// The last message of this thread.
///
/// # Safety
/// None is asked for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclGetRecentErrMsg() -> *const c_char {
    message()
}

/// The interface's version.
///
/// # Safety
/// The numbers have places.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn aclrtGetVersion(major: *mut i32, minor: *mut i32, patch: *mut i32) -> Code {
    for (at, value) in [(major, 1), (minor, 17), (patch, 0)] {
        if put(at, value, "a number").is_err() {
            return PARAM_INVALID;
        }
    }
    SUCCESS
}

/// Makes a stream's next look find that a kernel of it raised an exception.
pub(crate) fn break_kernels(w: &mut World) {
    for s in w.streams.values_mut() {
        let why = "a kernel raised an exception, as asked".to_string();
        s.queue.push_back(Command::Run("kernel", Box::new(move |_| Err(why))));
    }
}
