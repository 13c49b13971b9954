//! What tests turn and read, behind C functions of this library's own.

use std::ffi::{CStr, c_char};

use crate::codes::Code;
use crate::runtime::break_kernels;
use crate::world::{Failing, Object, world};

/// # Safety
/// The name ends with a zero byte.
unsafe fn text<'a>(name: *const c_char) -> &'a str {
    // SAFETY: as the caller says.
    unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default()
}

/// Sets a knob and tells what it was; 0 where there is none of that name.
///
/// # Safety
/// The name ends with a zero byte; `before` has a place.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simascend_set(name: *const c_char, value: u64, before: *mut u64) -> i32 {
    let mut w = world();
    let knobs = &mut w.knobs;
    // SAFETY: as the caller says.
    let knob = match unsafe { text(name) } {
        "devices" => &mut knobs.devices,
        "memory" => &mut knobs.memory,
        "soc" => &mut knobs.soc,
        "stalled" => &mut knobs.stalled,
        "late" => &mut knobs.late,
        _ => return 0,
    };
    // SAFETY: as the caller says.
    unsafe { *before = std::mem::replace(knob, value) };
    1
}

/// Lets a call fail so many times after so many that do not.
///
/// # Safety
/// The name ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simascend_fail(name: *const c_char, after: u64, times: u64, code: Code) {
    // SAFETY: as the caller says.
    let name = unsafe { text(name) }.to_string();
    world().failing.insert(name, Failing { after, times, code });
}

/// Loses a device with a code, or finds it again with 0.
#[unsafe(no_mangle)]
pub extern "C" fn simascend_lose(device: i32, code: Code) {
    let mut w = world();
    match code {
        0 => w.lost.remove(&(device as usize)),
        code => w.lost.insert(device as usize, code),
    };
}

/// Lets a kernel of every stream raise an exception, behind the calls that are queued.
#[unsafe(no_mangle)]
pub extern "C" fn simascend_break_kernels() {
    break_kernels(&mut world());
}

/// How often a call was made.
///
/// # Safety
/// The name ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simascend_calls(name: *const c_char) -> u64 {
    // SAFETY: as the caller says.
    world().calls.get(unsafe { text(name) }).copied().unwrap_or(0)
}

/// How many things of a kind there are.
///
/// # Safety
/// The name ends with a zero byte.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simascend_live(kind: *const c_char) -> u64 {
    let w = world();
    let objects = |is: fn(&Object) -> bool| w.objects.values().filter(|o| is(o)).count() as u64;
    // SAFETY: as the caller says.
    match unsafe { text(kind) } {
        "bytes" => w.taken.values().sum(),
        "pinned" => w.pinned,
        "streams" => w.streams.len() as u64,
        "events" => w.events.len() as u64,
        "contexts" => w.contexts.len() as u64,
        "tensors" => objects(|o| matches!(o, Object::Tensor(_))),
        "lists" => objects(|o| matches!(o, Object::List(_))),
        "scalars" => objects(|o| matches!(o, Object::Scalar(_))),
        "arrays" => objects(|o| matches!(o, Object::Ints(_))),
        "executors" => w.executors.len() as u64,
        _ => u64::MAX,
    }
}

/// Forgets failures that were asked for, lost devices, counts and the last fault.
#[unsafe(no_mangle)]
pub extern "C" fn simascend_forget() {
    let mut w = world();
    w.failing.clear();
    w.lost.clear();
    w.calls.clear();
    w.fault.clear();
}

/// The last fault in words; how long they are.
///
/// # Safety
/// The buffer is as long as is said.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn simascend_fault(buffer: *mut c_char, len: usize) -> usize {
    let w = world();
    let bytes = w.fault.as_bytes();
    let n = bytes.len().min(len.saturating_sub(1));
    // SAFETY: as the caller says.
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.cast(), n);
        buffer.add(n).write(0);
    }
    n
}
