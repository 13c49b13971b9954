//! A plugin in this process that answers as it is told: by a seed, right most of the time and wild in between, or call by call.
//!
//! It keeps what no host can check: pointers are what they seem, and nothing is written behind a struct. Everything else may
//! be anything. Meanwhile it watches over what the host does with what it was given.

#![allow(dead_code, reason = "each test file uses a part")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_void};

use qiao_plugin::abi::{self, Api, ErrorRecord, Sized32, Status};

/// What a plugin answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    /// How many of a thousand draws are wild.
    pub(crate) wildness: u32,
    /// Whether query, init and what a device says of itself are right.
    pub(crate) sane_head: bool,
}

#[derive(Default)]
struct Stage {
    state: u64,
    wildness: u32,
    sane_head: bool,
    next: usize,
    /// Handles that are alive: what they are, and the device or backend that they are made on.
    alive: HashMap<usize, (&'static str, usize)>,
    called: Vec<&'static str>,
    faults: Vec<String>,
    api: Option<Box<Api>>,
    /// Answers of functions that are laid down, the next one first.
    laid: Vec<(&'static str, Status, String)>,
    /// What is changed in the structs that a function fills.
    changes: Vec<(&'static str, Change)>,
    /// Slots that the table does not have.
    without: Vec<&'static str>,
    /// What prepack_size says.
    packed: Option<u64>,
}

/// Changes a struct where it lies.
type Change = Box<dyn Fn(*mut c_void)>;

thread_local! {
    static STAGE: RefCell<Stage> = RefCell::default();
}

fn stage<R>(f: impl FnOnce(&mut Stage) -> R) -> R {
    STAGE.with_borrow_mut(f)
}

/// Begins with another script.
pub(crate) fn play(script: Script) {
    let Script { seed, wildness, sane_head } = script;
    stage(|s| *s = Stage { state: seed | 1, wildness, sane_head, next: 4096, ..Stage::default() });
}

/// What the host did wrong, and what it never gave back.
pub(crate) fn faults() -> Vec<String> {
    stage(|s| {
        let mut faults = std::mem::take(&mut s.faults);
        faults.extend(s.alive.drain().map(|(handle, (kind, _))| format!("{kind} {handle} was not given back")));
        faults
    })
}

/// Lays down what a function answers at its next call that has nothing laid down before.
pub(crate) fn lay(slot: &'static str, status: Status, message: &str) {
    stage(|s| s.laid.push((slot, status, message.into())));
}

/// Changes what a function fills, from now on.
pub(crate) fn change<T: Sized32>(slot: &'static str, change: impl Fn(&mut T) + 'static) {
    // SAFETY: the function fills structs of this type.
    let change: Change = Box::new(move |out| change(unsafe { &mut *out.cast::<T>() }));
    stage(|s| s.changes.push((slot, change)));
}

/// Leaves functions out of the table.
pub(crate) fn without(slots: &[&'static str]) {
    stage(|s| s.without.extend(slots));
}

/// What prepack_size says from now on.
pub(crate) fn packed(bytes: u64) {
    stage(|s| s.packed = Some(bytes));
}

/// How often a function was called.
pub(crate) fn times(slot: &str) -> usize {
    called().iter().filter(|c| **c == slot).count()
}

/// The functions that were called.
pub(crate) fn called() -> Vec<&'static str> {
    stage(|s| s.called.clone())
}

impl Stage {
    fn draw(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Whether this draw is wild.
    fn wild(&mut self) -> bool {
        self.draw() >> 32 & 1023 < u64::from(self.wildness)
    }

    /// A number like those that are hard to bear.
    fn number(&mut self) -> u64 {
        let random = self.draw();
        match self.draw() >> 33 & 7 {
            0 => 0,
            1 => u64::MAX,
            2 => 1 << 63,
            3 => random & 0xff,
            4 => random & 0xffff,
            5 => 1 << (random & 63),
            6 => u64::from(u32::MAX),
            _ => random,
        }
    }
}

/// Fills a struct with anything, but leaves its size and its pointers alone.
fn spoil<T: Sized32>(s: &mut Stage, out: &mut T, pointers: &[usize]) {
    for word in 1..size_of::<T>() / 4 {
        if pointers.iter().any(|p| p / 4 == word || p / 4 + 1 == word) || s.draw() >> 40 & 3 == 0 {
            continue;
        }
        let value = s.number() as u32;
        // SAFETY: the word lies in the struct, of which every bit pattern is a value.
        unsafe { (&raw mut *out).cast::<u32>().add(word).write(value) };
    }
}

/// Changes the size that must stay.
fn resize<T: Sized32>(s: &mut Stage, out: *mut T) -> bool {
    let wild = s.wildness > 100 && s.draw() >> 32 & 1023 < 10;
    if wild {
        let size = s.number() as u32;
        // SAFETY: the caller's struct, which begins with its size.
        unsafe { out.cast::<u32>().write(size) };
        return size as usize != size_of::<T>();
    }
    false
}

/// A status, with a record to it.
fn status(s: &mut Stage, err: *mut ErrorRecord) -> Status {
    let slot = s.called.last().copied().unwrap_or_default();
    if let Some(at) = s.laid.iter().position(|(l, ..)| *l == slot) {
        let (_, status, message) = s.laid.remove(at);
        if status != abi::OK && !err.is_null() {
            // SAFETY: the caller's record.
            put(unsafe { &mut (*err).message }, &message);
        }
        return status;
    }
    if !s.wild() {
        return abi::OK;
    }
    let status = match s.draw() >> 33 & 3 {
        0 => s.number() as i32,
        _ => (s.draw() >> 33) as i32 % 12,
    };
    if status != abi::OK && !err.is_null() && s.draw() >> 40 & 1 == 0 {
        // SAFETY: the caller's record.
        let record = unsafe { &mut *err };
        spoil(s, record, &[]);
    }
    status
}

/// Draws without wildness where the head is to be sane.
fn sane<R>(s: &mut Stage, f: impl FnOnce(&mut Stage) -> R) -> R {
    let wildness = if s.sane_head { std::mem::take(&mut s.wildness) } else { s.wildness };
    let result = f(s);
    s.wildness = wildness;
    result
}

/// Answers with a handle, or with what should be one.
fn handle<T>(s: &mut Stage, kind: &'static str, parent: usize, out: *mut *mut T, status: Status) -> Status {
    let known: Vec<usize> = s.alive.iter().filter(|(_, (k, _))| *k == kind).map(|(h, _)| *h).collect();
    let value = match s.wild().then(|| s.draw() >> 33 & 3) {
        Some(0) => Some(0),
        Some(1) => known.first().copied(),
        Some(2) => None,
        _ => {
            s.next += 8;
            if status == abi::OK {
                s.alive.insert(s.next, (kind, parent));
            }
            Some(s.next)
        }
    };
    if let Some(value) = value {
        // SAFETY: the caller's place for a handle.
        unsafe { *out = std::ptr::without_provenance_mut(value) };
    }
    status
}

/// Takes a handle back.
fn back<T>(slot: &'static str, kind: &'static str, raw: *mut T) {
    stage(|s| {
        s.called.push(slot);
        let number = raw.addr();
        if s.alive.remove(&number).is_none_or(|(k, _)| k != kind) {
            s.faults.push(format!("{slot} of {number}, which is no {kind} that is alive"));
        }
        let left: Vec<_> =
            s.alive.iter().filter(|(_, (_, parent))| *parent == number).map(|(h, (k, _))| (*h, *k)).collect();
        if !left.is_empty() {
            s.faults.push(format!("{slot} of {number} before {left:?}"));
        }
    });
}

/// One call that names a living handle.
fn call<T, R>(slot: &'static str, kind: &'static str, raw: *mut T, f: impl FnOnce(&mut Stage) -> R) -> R {
    stage(|s| {
        s.called.push(slot);
        if s.alive.get(&raw.addr()).is_none_or(|(k, _)| *k != kind) {
            s.faults.push(format!("{slot} names {:#x}, which is no {kind} that is alive", raw.addr()));
        }
        f(s)
    })
}

/// One call that only answers with a status.
fn plain<T>(slot: &'static str, kind: &'static str, raw: *mut T, err: *mut ErrorRecord) -> Status {
    call(slot, kind, raw, |s| status(s, err))
}

/// One call that fills a struct.
fn fill<D, T: Sized32>(
    slot: &'static str,
    raw: *mut D,
    out: *mut T,
    err: *mut ErrorRecord,
    pointers: &[usize],
    right: impl FnOnce(&mut T),
) -> Status {
    call(slot, "device", raw, |s| {
        // SAFETY: the caller's struct.
        let own = unsafe { &mut *out };
        right(own);
        changed(s, slot, out);
        let head = s.sane_head && slot.ends_with("_info");
        if !head && s.wild() {
            spoil(s, own, pointers);
        }
        if !head {
            resize(s, out);
        }
        if head { sane(s, |s| status(s, err)) } else { status(s, err) }
    })
}

/// Makes the changes that were asked for.
fn changed<T: Sized32>(s: &Stage, slot: &str, out: *mut T) {
    s.changes.iter().filter(|(c, _)| *c == slot).for_each(|(_, change)| change(out.cast()));
}

fn put(to: &mut [c_char], text: &str) {
    for (slot, byte) in to.iter_mut().zip(text.bytes()) {
        *slot = byte as c_char;
    }
}

unsafe extern "C" fn backend_init(_: *const abi::Host, out: *mut *mut abi::Backend, err: *mut ErrorRecord) -> Status {
    stage(|s| {
        s.called.push("backend_init");
        sane(s, |s| {
            let status = status(s, err);
            handle(s, "backend", 0, out, status)
        })
    })
}

unsafe extern "C" fn backend_shutdown(backend: *mut abi::Backend) {
    back("backend_shutdown", "backend", backend);
}

unsafe extern "C" fn get_interface(backend: *mut abi::Backend, _: *const c_char) -> *const c_void {
    call("get_interface", "backend", backend, |_| std::ptr::null())
}

unsafe extern "C" fn device_count(backend: *mut abi::Backend, out: *mut u32, err: *mut ErrorRecord) -> Status {
    call("device_count", "backend", backend, |s| {
        let wild = !s.sane_head && s.wild();
        // SAFETY: the caller's place.
        unsafe { *out = if wild { s.number() as u32 } else { 1 } };
        sane(s, |s| status(s, err))
    })
}

unsafe extern "C" fn device_open(
    backend: *mut abi::Backend,
    _: u32,
    out: *mut *mut abi::Device,
    err: *mut ErrorRecord,
) -> Status {
    call("device_open", "backend", backend, |s| {
        sane(s, |s| {
            let status = status(s, err);
            handle(s, "device", backend.addr(), out, status)
        })
    })
}

unsafe extern "C" fn device_close(device: *mut abi::Device) {
    back("device_close", "device", device);
}

unsafe extern "C" fn device_info(device: *mut abi::Device, out: *mut abi::DeviceInfo, err: *mut ErrorRecord) -> Status {
    let ext = std::mem::offset_of!(abi::DeviceInfo, ext);
    fill("device_info", device, out, err, &[ext], |info| {
        put(&mut info.name, "Wild");
        (info.memory_count, info.dtype_count, info.kv_count, info.tensor_align) = (1, 2, 1, 64);
        info.caps = abi::CAP_GRAPH | abi::CAP_IMPORT_HOST | abi::CAP_STRIDED;
    })
}

unsafe extern "C" fn memory_info(
    device: *mut abi::Device,
    _: u32,
    out: *mut abi::MemoryInfo,
    err: *mut ErrorRecord,
) -> Status {
    fill("memory_info", device, out, err, &[], |info| info.base_align = 64)
}

unsafe extern "C" fn dtype_info(
    device: *mut abi::Device,
    index: u32,
    out: *mut abi::DtypeInfo,
    err: *mut ErrorRecord,
) -> Status {
    fill("dtype_info", device, out, err, &[], |info| {
        (info.dtype, info.flags) = (if index == 0 { 0x1_2002 } else { 0x1_1002 }, 3);
    })
}

unsafe extern "C" fn kv_info(device: *mut abi::Device, _: u32, out: *mut abi::KvInfo, err: *mut ErrorRecord) -> Status {
    fill("kv_info", device, out, err, &[], |info| info.block_size = 16)
}

unsafe extern "C" fn buffer_alloc(
    device: *mut abi::Device,
    _: u32,
    _: u64,
    out: *mut *mut abi::Buffer,
    err: *mut ErrorRecord,
) -> Status {
    call("buffer_alloc", "device", device, |s| {
        let status = status(s, err);
        handle(s, "buffer", device.addr(), out, status)
    })
}

unsafe extern "C" fn buffer_import(
    device: *mut abi::Device,
    _: *const c_void,
    _: u64,
    out: *mut *mut abi::Buffer,
    err: *mut ErrorRecord,
) -> Status {
    call("buffer_import", "device", device, |s| {
        let status = status(s, err);
        handle(s, "buffer", device.addr(), out, status)
    })
}

unsafe extern "C" fn buffer_free(buffer: *mut abi::Buffer) {
    back("buffer_free", "buffer", buffer);
}

unsafe extern "C" fn stream_create(
    device: *mut abi::Device,
    _: u32,
    out: *mut *mut abi::Stream,
    err: *mut ErrorRecord,
) -> Status {
    call("stream_create", "device", device, |s| {
        let status = status(s, err);
        handle(s, "stream", device.addr(), out, status)
    })
}

unsafe extern "C" fn stream_destroy(stream: *mut abi::Stream) {
    back("stream_destroy", "stream", stream);
}

unsafe extern "C" fn stream_sync(stream: *mut abi::Stream, _: u64, err: *mut ErrorRecord) -> Status {
    plain("stream_sync", "stream", stream, err)
}

unsafe extern "C" fn upload(
    stream: *mut abi::Stream,
    _: *mut abi::Buffer,
    _: u64,
    _: *const c_void,
    _: u64,
    err: *mut ErrorRecord,
) -> Status {
    plain("upload", "stream", stream, err)
}

unsafe extern "C" fn download(
    stream: *mut abi::Stream,
    dst: *mut c_void,
    _: *mut abi::Buffer,
    _: u64,
    bytes: u64,
    err: *mut ErrorRecord,
) -> Status {
    // SAFETY: the caller's bytes.
    unsafe { std::ptr::write_bytes(dst.cast::<u8>(), 0x5a, bytes as usize) };
    plain("download", "stream", stream, err)
}

unsafe extern "C" fn copy(
    stream: *mut abi::Stream,
    _: *mut abi::Buffer,
    _: u64,
    _: *mut abi::Buffer,
    _: u64,
    _: u64,
    err: *mut ErrorRecord,
) -> Status {
    plain("copy", "stream", stream, err)
}

unsafe extern "C" fn fill_bytes(
    stream: *mut abi::Stream,
    _: *mut abi::Buffer,
    _: u64,
    _: u64,
    _: u32,
    err: *mut ErrorRecord,
) -> Status {
    plain("fill", "stream", stream, err)
}

unsafe extern "C" fn stream_wait(stream: *mut abi::Stream, event: *mut abi::Event, err: *mut ErrorRecord) -> Status {
    call("stream_wait", "event", event, |_| ());
    plain("stream_wait", "stream", stream, err)
}

unsafe extern "C" fn event_create(
    device: *mut abi::Device,
    _: u32,
    out: *mut *mut abi::Event,
    err: *mut ErrorRecord,
) -> Status {
    call("event_create", "device", device, |s| {
        let status = status(s, err);
        handle(s, "event", device.addr(), out, status)
    })
}

unsafe extern "C" fn event_destroy(event: *mut abi::Event) {
    back("event_destroy", "event", event);
}

unsafe extern "C" fn event_record(event: *mut abi::Event, stream: *mut abi::Stream, err: *mut ErrorRecord) -> Status {
    call("event_record", "stream", stream, |_| ());
    plain("event_record", "event", event, err)
}

unsafe extern "C" fn event_sync(event: *mut abi::Event, _: u64, err: *mut ErrorRecord) -> Status {
    plain("event_sync", "event", event, err)
}

unsafe extern "C" fn event_query(event: *mut abi::Event, err: *mut ErrorRecord) -> Status {
    plain("event_query", "event", event, err)
}

unsafe extern "C" fn event_elapsed_ns(
    a: *mut abi::Event,
    b: *mut abi::Event,
    out: *mut u64,
    err: *mut ErrorRecord,
) -> Status {
    call("event_elapsed_ns", "event", b, |_| ());
    call("event_elapsed_ns", "event", a, |s| {
        // SAFETY: the caller's place.
        unsafe { *out = s.number() };
        status(s, err)
    })
}

unsafe extern "C" fn graph_support(
    device: *mut abi::Device,
    graph: *const abi::Graph,
    out: *const *mut abi::Support,
    err: *mut ErrorRecord,
) -> Status {
    call("graph_support", "device", device, |s| {
        // SAFETY: the caller's graph, and as many records as it has operators.
        unsafe {
            for i in 0..(*graph).n_ops as usize {
                let record = &mut **out.add(i);
                let op = &**(*graph).ops.add(i);
                record.level = abi::SUPPORT_NATIVE;
                let packable = (0..(*graph).n_tensors as usize).any(|t| (**(*graph).tensors.add(t)).flags != 0);
                if op.opcode == 48 && packable && (**(*graph).tensors.add(1)).layout == 0 && s.draw() >> 40 & 1 == 0 {
                    (record.level, record.operand, record.layout) = (abi::SUPPORT_RELAYOUT, 2, 77);
                }
                if s.wild() {
                    spoil(s, record, &[]);
                    // A level that is looked into, more often than not.
                    record.level = if s.draw() >> 40 & 3 == 0 { record.level } else { (s.draw() >> 40) as u32 % 3 };
                    record.reason = if s.draw() >> 40 & 3 == 0 { record.reason } else { (s.draw() >> 40) as u32 % 14 };
                    record.rule = if s.draw() >> 40 & 3 == 0 { record.rule } else { (s.draw() >> 40) as u32 % 7 };
                    record.operand = if s.draw() >> 40 & 1 == 0 { record.operand } else { (s.draw() >> 40) as i32 % 8 };
                    record.property =
                        if s.draw() >> 40 & 1 == 0 { record.property } else { (s.draw() >> 40) as u32 % 8 };
                }
                changed(s, "graph_support", &raw mut *record);
                resize(s, record);
            }
        }
        status(s, err)
    })
}

unsafe extern "C" fn plan_create(
    device: *mut abi::Device,
    _: *const abi::Graph,
    out: *mut *mut abi::Plan,
    info: *mut abi::PlanInfo,
    err: *mut ErrorRecord,
) -> Status {
    call("plan_create", "device", device, |s| {
        // SAFETY: the caller's struct.
        let own = unsafe { &mut *info };
        own.workspace_bytes = 64;
        changed(s, "plan_create", info);
        if s.wild() {
            spoil(s, own, &[]);
        }
        resize(s, info);
        let status = status(s, err);
        handle(s, "plan", device.addr(), out, status)
    })
}

unsafe extern "C" fn plan_destroy(plan: *mut abi::Plan) {
    back("plan_destroy", "plan", plan);
}

unsafe extern "C" fn plan_execute(
    plan: *mut abi::Plan,
    stream: *mut abi::Stream,
    bindings: *const abi::Binding,
    count: u32,
    _: *const abi::Binding,
    err: *mut ErrorRecord,
) -> Status {
    call("plan_execute", "plan", plan, |_| ());
    for i in 0..count as usize {
        // SAFETY: the caller gives so many bindings.
        let buffer = unsafe { (*bindings.add(i)).buffer };
        call("plan_execute", "buffer", buffer, |_| ());
    }
    plain("plan_execute", "stream", stream, err)
}

unsafe extern "C" fn prepack_size(
    device: *mut abi::Device,
    _: *const abi::Tensor,
    _: u64,
    out: *mut u64,
    err: *mut ErrorRecord,
) -> Status {
    call("prepack_size", "device", device, |s| {
        let wild = s.wild();
        // SAFETY: the caller's place.
        unsafe { *out = if wild { s.number() } else { s.packed.unwrap_or(1 << 10) } };
        status(s, err)
    })
}

unsafe extern "C" fn prepack(
    stream: *mut abi::Stream,
    _: *const abi::Tensor,
    _: *const abi::Binding,
    _: u64,
    _: *const abi::Binding,
    err: *mut ErrorRecord,
) -> Status {
    plain("prepack", "stream", stream, err)
}

fn whole() -> Api {
    Api {
        struct_size: size_of::<Api>() as u32,
        abi_minor: abi::MINOR,
        backend_init: Some(backend_init),
        backend_shutdown: Some(backend_shutdown),
        get_interface: Some(get_interface),
        device_count: Some(device_count),
        device_open: Some(device_open),
        device_close: Some(device_close),
        device_info: Some(device_info),
        memory_info: Some(memory_info),
        dtype_info: Some(dtype_info),
        kv_info: Some(kv_info),
        buffer_alloc: Some(buffer_alloc),
        buffer_import: Some(buffer_import),
        buffer_free: Some(buffer_free),
        stream_create: Some(stream_create),
        stream_destroy: Some(stream_destroy),
        stream_sync: Some(stream_sync),
        upload: Some(upload),
        download: Some(download),
        copy: Some(copy),
        fill: Some(fill_bytes),
        stream_wait: Some(stream_wait),
        event_create: Some(event_create),
        event_destroy: Some(event_destroy),
        event_record: Some(event_record),
        event_sync: Some(event_sync),
        event_query: Some(event_query),
        event_elapsed_ns: Some(event_elapsed_ns),
        graph_support: Some(graph_support),
        plan_create: Some(plan_create),
        plan_destroy: Some(plan_destroy),
        plan_execute: Some(plan_execute),
        prepack_size: Some(prepack_size),
        prepack: Some(prepack),
    }
}

/// Leaves out one slot of the table, or cuts it short.
fn holes(s: &mut Stage, api: &mut Api) {
    let first = std::mem::offset_of!(Api, backend_init) / 8;
    let count = size_of::<Api>() / 8;
    let slot = first + s.draw() as usize % (count - first);
    // SAFETY: the slot lies in the table, and an empty slot is a value of it.
    unsafe { (&raw mut *api).cast::<u64>().add(slot).write(0) };
    if s.draw() >> 40 & 1 == 0 {
        // No more than there is: a table's size is the one thing of it that must be true.
        api.struct_size = s.number().min(size_of::<Api>() as u64) as u32;
    }
}

/// The query of the wild plugin.
pub(crate) unsafe extern "C" fn query(q: *mut abi::Query, err: *mut ErrorRecord) -> Status {
    stage(|s| {
        // SAFETY: the caller's struct.
        let own = unsafe { &mut *q };
        let mut api = Box::new(whole());
        if !s.sane_head && s.wild() {
            holes(s, &mut api);
        }
        for slot in &s.without {
            let (_, offset, _) = abi::LAYOUT
                .iter()
                .find(|l| l.name == "Api")
                .and_then(|l| l.fields.iter().find(|(name, ..)| name == slot))
                .expect("a slot of the table");
            // SAFETY: the slot lies in the table, and an empty slot is a value of it.
            unsafe { (&raw mut *api).cast::<u8>().add(*offset).cast::<u64>().write(0) };
        }
        (own.plugin_minor, own.api) = (abi::MINOR, &*api);
        put(&mut own.name, "wild");
        s.called.push("query");
        changed(s, "query", q);
        s.api = Some(api);
        if !s.sane_head && s.wild() {
            spoil(s, own, &[std::mem::offset_of!(abi::Query, api)]);
            own.api = if s.draw() >> 40 & 1 == 0 { own.api } else { std::ptr::null() };
        }
        sane(s, |s| status(s, err))
    })
}
