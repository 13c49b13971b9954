//! Many threads on one plugin: calls that name the same event or plan are made one after the other (R6), and a long wait
//! keeps nobody else from an event.

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use qiao_core::{Backend, Binding, DType, Device, Error, Graph, NoAttrs, Op, TensorDesc};
use qiao_plugin::abi::{self, Api, ErrorRecord, Status};
use qiao_plugin::{Options, Plugin};

/// Whether the points that were recorded are reached.
static REACHED: AtomicBool = AtomicBool::new(false);
/// Calls that name the event, and the plan, at the moment.
static ON_EVENT: AtomicUsize = AtomicUsize::new(0);
static ON_PLAN: AtomicUsize = AtomicUsize::new(0);
/// Calls that met another one.
static CLASHES: AtomicUsize = AtomicUsize::new(0);
static EXECUTED: AtomicUsize = AtomicUsize::new(0);

fn alone<R>(on: &AtomicUsize, f: impl FnOnce() -> R) -> R {
    if on.fetch_add(1, SeqCst) != 0 {
        CLASHES.fetch_add(1, SeqCst);
    }
    let result = f();
    on.fetch_sub(1, SeqCst);
    result
}

fn handle<T>(out: *mut *mut T) -> Status {
    static NEXT: AtomicUsize = AtomicUsize::new(4096);
    // SAFETY: the caller's place for a handle.
    unsafe { *out = std::ptr::without_provenance_mut(NEXT.fetch_add(16, SeqCst)) };
    abi::OK
}

unsafe extern "C" fn init(_: *const abi::Host, out: *mut *mut abi::Backend, _: *mut ErrorRecord) -> Status {
    handle(out)
}
unsafe extern "C" fn gone<T>(_: *mut T) {}
unsafe extern "C" fn count(_: *mut abi::Backend, out: *mut u32, _: *mut ErrorRecord) -> Status {
    // SAFETY: the caller's place for a number.
    unsafe { *out = 1 };
    abi::OK
}
unsafe extern "C" fn open(_: *mut abi::Backend, _: u32, out: *mut *mut abi::Device, _: *mut ErrorRecord) -> Status {
    handle(out)
}
unsafe extern "C" fn info(_: *mut abi::Device, out: *mut abi::DeviceInfo, _: *mut ErrorRecord) -> Status {
    // SAFETY: the caller's struct.
    unsafe { ((*out).name[0], (*out).memory_count) = (b'T' as _, 1) };
    abi::OK
}
unsafe extern "C" fn memory(_: *mut abi::Device, _: u32, out: *mut abi::MemoryInfo, _: *mut ErrorRecord) -> Status {
    // SAFETY: the caller's struct.
    unsafe { (*out).base_align = 1 };
    abi::OK
}
unsafe extern "C" fn alloc(
    _: *mut abi::Device,
    _: u32,
    _: u64,
    out: *mut *mut abi::Buffer,
    _: *mut ErrorRecord,
) -> Status {
    handle(out)
}
unsafe extern "C" fn stream(_: *mut abi::Device, _: u32, out: *mut *mut abi::Stream, _: *mut ErrorRecord) -> Status {
    handle(out)
}
unsafe extern "C" fn sync(_: *mut abi::Stream, _: u64, _: *mut ErrorRecord) -> Status {
    abi::OK
}
unsafe extern "C" fn upload(
    _: *mut abi::Stream,
    _: *mut abi::Buffer,
    _: u64,
    _: *const c_void,
    _: u64,
    _: *mut ErrorRecord,
) -> Status {
    abi::OK
}
unsafe extern "C" fn download(
    _: *mut abi::Stream,
    _: *mut c_void,
    _: *mut abi::Buffer,
    _: u64,
    _: u64,
    _: *mut ErrorRecord,
) -> Status {
    abi::OK
}
unsafe extern "C" fn wait(_: *mut abi::Stream, _: *mut abi::Event, _: *mut ErrorRecord) -> Status {
    alone(&ON_EVENT, || abi::OK)
}
unsafe extern "C" fn event(_: *mut abi::Device, _: u32, out: *mut *mut abi::Event, _: *mut ErrorRecord) -> Status {
    handle(out)
}
unsafe extern "C" fn record(_: *mut abi::Event, _: *mut abi::Stream, _: *mut ErrorRecord) -> Status {
    alone(&ON_EVENT, || abi::OK)
}
unsafe extern "C" fn event_sync(_: *mut abi::Event, timeout_ns: u64, _: *mut ErrorRecord) -> Status {
    alone(&ON_EVENT, || {
        let (start, most) = (Instant::now(), Duration::from_nanos(timeout_ns));
        while !REACHED.load(SeqCst) {
            if start.elapsed() >= most {
                return abi::ERR_TIMEOUT;
            }
            thread::sleep(Duration::from_micros(100));
        }
        abi::OK
    })
}
unsafe extern "C" fn support(
    _: *mut abi::Device,
    _: *const abi::Graph,
    out: *const *mut abi::Support,
    _: *mut ErrorRecord,
) -> Status {
    // SAFETY: the caller's record.
    unsafe { (**out).level = abi::SUPPORT_NATIVE };
    abi::OK
}
unsafe extern "C" fn plan(
    _: *mut abi::Device,
    _: *const abi::Graph,
    out: *mut *mut abi::Plan,
    _: *mut abi::PlanInfo,
    _: *mut ErrorRecord,
) -> Status {
    handle(out)
}
unsafe extern "C" fn execute(
    _: *mut abi::Plan,
    _: *mut abi::Stream,
    _: *const abi::Binding,
    _: u32,
    _: *const abi::Binding,
    _: *mut ErrorRecord,
) -> Status {
    alone(&ON_PLAN, || {
        thread::yield_now();
        EXECUTED.fetch_add(1, SeqCst);
        abi::OK
    })
}

static TABLE: Api = Api {
    struct_size: size_of::<Api>() as u32,
    abi_minor: abi::MINOR,
    backend_init: Some(init),
    backend_shutdown: Some(gone),
    get_interface: None,
    device_count: Some(count),
    device_open: Some(open),
    device_close: Some(gone),
    device_info: Some(info),
    memory_info: Some(memory),
    dtype_info: None,
    kv_info: None,
    buffer_alloc: Some(alloc),
    buffer_import: None,
    buffer_free: Some(gone),
    stream_create: Some(stream),
    stream_destroy: Some(gone),
    stream_sync: Some(sync),
    upload: Some(upload),
    download: Some(download),
    copy: None,
    fill: None,
    stream_wait: Some(wait),
    event_create: Some(event),
    event_destroy: Some(gone),
    event_record: Some(record),
    event_sync: Some(event_sync),
    event_query: None,
    event_elapsed_ns: None,
    graph_support: Some(support),
    plan_create: Some(plan),
    plan_destroy: Some(gone),
    plan_execute: Some(execute),
    prepack_size: None,
    prepack: None,
};

unsafe extern "C" fn query(q: *mut abi::Query, _: *mut ErrorRecord) -> Status {
    // SAFETY: the caller's struct.
    let q = unsafe { &mut *q };
    (q.plugin_minor, q.api) = (abi::MINOR, &TABLE);
    for (slot, byte) in q.name.iter_mut().zip(b"turns") {
        *slot = *byte as _;
    }
    abi::OK
}

fn device() -> Arc<dyn Device> {
    // SAFETY: the table keeps to the header.
    unsafe { Plugin::of_query(query, &Options::default()) }.unwrap().open(0).unwrap()
}

#[test]
fn executions_of_one_plan_are_told_one_by_one() {
    let device = device();
    let mut g = Graph::new();
    let desc = TensorDesc::new(DType::F32, &[4]).unwrap();
    let (x, y) = (g.bind("x", desc.clone()), g.bind("y", desc));
    g.add_into(Op::Silu(NoAttrs {}), &[Some(x)], &[y]).unwrap();
    let plan = device.plan(&g).unwrap();
    thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| {
                let mut stream = device.stream().unwrap();
                let room = || Binding::whole(device.alloc(0, 16).unwrap());
                let (bindings, scratch) = ([room(), room()], room());
                for _ in 0..500 {
                    plan.execute(&mut *stream, &bindings, &scratch).unwrap();
                }
            });
        }
    });
    assert_eq!((EXECUTED.load(SeqCst), CLASHES.load(SeqCst)), (4000, 0));
}

#[test]
fn a_long_wait_for_an_event_keeps_nobody_from_it() {
    let device = device();
    let (event, mut stream) = (device.event().unwrap(), device.stream().unwrap());
    stream.record(&*event).unwrap();
    thread::scope(|s| {
        let wait = s.spawn(|| event.sync(Duration::from_secs(60)));
        thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        for _ in 0..10 {
            // Those who wait have the event again.
            thread::sleep(Duration::from_millis(2));
            assert!(!event.is_reached().unwrap());
            stream.record(&*event).unwrap();
            stream.wait(&*event).unwrap();
        }
        // Waits that held the event to their end would have kept the first of these for a minute.
        assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
        let short = event.sync(Duration::from_millis(5)).unwrap_err();
        assert!(matches!(short, Error::Timeout { .. }), "{short}");
        REACHED.store(true, SeqCst);
        wait.join().unwrap().unwrap();
    });
    assert!(event.is_reached().unwrap());
    assert_eq!(CLASHES.load(SeqCst), 0, "two calls at once on one event");
}
