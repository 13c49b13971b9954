//! The life of backends and of what is made on them.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use qiao_plugin::abi::{self, Binding, DeviceInfo, DtypeInfo, KvInfo, MemoryInfo, Query, Sized32};
use qiao_plugin::export;

use crate::graphs::{Sketch, text};
use crate::host::{Session, api, call, get, host, slot};
use crate::toy::{ALIVE, Toy, WHEELS};

#[test]
fn the_query_is_pure_and_says_who_is_there() {
    static TABLE: abi::Api = export::table::<Toy>();
    for _ in 0..100 {
        let mut query = Query { host_minor: 40, host_min_minor: 1, ..Query::sized() };
        // SAFETY: a query of its own size.
        call(|err| unsafe { export::answer_query::<Toy>(&TABLE, &raw mut query, err) }).unwrap();
        assert_eq!(
            (text(&query.vendor), text(&query.name), text(&query.version)),
            ("Toys".into(), "toy".into(), "1.2.3".into())
        );
        assert_eq!((query.plugin_minor, query.plugin_min_host_minor, query.sanitizer), (abi::MINOR, 1, 0));
        assert_eq!((query.host_minor, query.host_min_minor, query.struct_size), (40, 1, 136), "what came in stays");
        assert_eq!(query.api, &raw const TABLE);
    }
    // SAFETY: as above.
    let asked = |mut query: Query| call(|err| unsafe { export::answer_query::<Toy>(&TABLE, &raw mut query, err) });
    let old = asked(Query::sized()).unwrap_err();
    assert_eq!(old.code, abi::ERR_ABI);
    assert!(
        old.message.contains("speaks ABI 0.1 and needs a host of 0.1 or newer; this host speaks 0.0"),
        "{}",
        old.message
    );
    assert_eq!(asked(Query { struct_size: 40, host_minor: 1, ..Query::sized() }).unwrap_err().code, abi::ERR_ABI);
    assert_eq!(asked(Query { host_flags: 1, host_minor: 1, ..Query::sized() }).unwrap_err().code, abi::ERR_ABI);
}

#[test]
fn every_slot_of_the_table_is_there() {
    let table = std::ptr::from_ref(api()).cast::<usize>();
    let slots = (size_of::<abi::Api>() - 8) / 8;
    // SAFETY: behind two numbers the table is pointers.
    assert!((1..=slots).all(|i| unsafe { *table.add(i) } != 0));
}

#[test]
fn a_device_says_what_it_is() {
    let session = Session::new(&[]);
    let info = get(DeviceInfo::sized(), |out, err| slot!(device_info(session.device, out, err))).unwrap();
    assert_eq!(
        (text(&info.name), text(&info.arch), text(&info.driver)),
        ("玩具".into(), "wood".into(), "hands".into())
    );
    assert_eq!((info.memory_count, info.dtype_count, info.kv_count), (1, 1, 1));
    assert_eq!((info.tensor_align, info.tensor_tail_pad), (64, 32));
    assert_eq!(info.caps, abi::CAP_IMPORT_HOST | abi::CAP_DETERMINISTIC);
    let memory = |i| get(MemoryInfo::sized(), |out, err| slot!(memory_info(session.device, i, out, err)));
    assert_eq!((memory(0).unwrap().total_bytes, memory(0).unwrap().free_bytes), (1 << 20, 7));
    assert_eq!(memory(1).unwrap_err().code, abi::ERR_INVALID_ARG);
    let dtype = get(DtypeInfo::sized(), |out, err| slot!(dtype_info(session.device, 0, out, err))).unwrap();
    assert_eq!((dtype.dtype, dtype.flags, dtype.peak_ops_per_s), (0x1_2002, 3, 1_000_000_000));
    let kv = get(KvInfo::sized(), |out, err| slot!(kv_info(session.device, 0, out, err))).unwrap();
    assert_eq!((kv.layout, kv.block_size), (1, 16));
    // A host of an older header has a smaller struct.
    let mut small = DeviceInfo { struct_size: 16, ..DeviceInfo::sized() };
    call(|err| slot!(device_info(session.device, &raw mut small, err))).unwrap();
    assert_eq!((small.struct_size, small.caps, small.memory_count), (16, info.caps, 0));
}

#[test]
fn backends_with_other_options_stand_beside_each_other() {
    let (good, bad) = (Session::new(&[]), Session::with_fault("alloc panics"));
    let alloc = |s: &Session| get(null_mut(), |out, err| slot!(buffer_alloc(s.device, 0, 8, out, err)));
    assert_eq!(alloc(&bad).unwrap_err().code, abi::ERR_INTERNAL);
    let buffer = alloc(&good).unwrap();
    // What is of one backend is not of the other.
    let foreign = call(|err| slot!(fill(bad.stream, buffer, 0, 8, 1, err))).unwrap_err();
    assert!(foreign.message.contains("is of another device"), "{}", foreign.message);
    drop(bad);
    good.upload(buffer, 0, &[1; 8]).unwrap();
    assert_eq!(good.services.lines.lock().unwrap().as_slice(), ["3 a toy is opened"]);
}

#[test]
fn an_absent_driver_is_not_present_and_a_panic_is_internal() {
    for (fault, code, words) in
        [("absent", abi::ERR_NOT_PRESENT, "the box is empty"), ("open panics", abi::ERR_INTERNAL, "no key")]
    {
        let (host, _) = host(&[("fault", fault)]);
        let failed = get(null_mut(), |out, err| slot!(backend_init(&host, out, err))).unwrap_err();
        assert_eq!(failed.code, code);
        assert!(failed.message.contains(words), "{}", failed.message);
    }
}

#[test]
fn extras_are_found_by_name() {
    let session = Session::new(&[]);
    let extra = |id: &std::ffi::CStr| slot!(get_interface(session.backend, id.as_ptr()));
    assert_eq!(extra(c"toy.wheels/1"), (&raw const WHEELS).cast());
    assert!(extra(c"toy.doors/1").is_null() && extra(c"\xff").is_null());
    assert!(slot!(get_interface(session.backend, std::ptr::null())).is_null());
    assert!(slot!(get_interface(null_mut(), c"toy.wheels/1".as_ptr())).is_null());
}

#[test]
fn a_shutdown_takes_along_what_the_host_forgot() {
    let alive = || ALIVE[1].load(Ordering::SeqCst);
    let session = Session::new(&[("count", "1")]);
    let buffer = session.alloc(32);
    let (plan, _) = Sketch::copy(4).plan(&session).unwrap();
    let event = get(null_mut(), |out, err| slot!(event_create(session.device, 0, out, err))).unwrap();
    let (device, stream) = (session.device, session.stream);
    assert_eq!(alive(), 1);
    slot!(backend_shutdown(session.backend));
    assert_eq!(alive(), 0);
    let part = Binding { buffer, offset: 0, bytes: 16 };
    let codes = [
        call(|err| slot!(stream_sync(stream, 0, err))),
        call(|err| slot!(event_query(event, err))),
        get(null_mut(), |out, err| slot!(buffer_alloc(device, 0, 8, out, err))).map(|_| ()),
        session.execute(plan, &[part, part]),
        get(0, |out, err| slot!(device_count(session.backend, out, err))).map(|_| ()),
    ];
    for failed in codes.map(Result::unwrap_err) {
        assert_eq!(failed.code, abi::ERR_INVALID_ARG);
        assert!(failed.message.contains("was given back already"), "{}", failed.message);
    }
    // Given back again, one by one, as a host does that does not know better.
    slot!(plan_destroy(plan));
    slot!(event_destroy(event));
    slot!(buffer_free(buffer));
}

#[test]
fn what_is_in_use_outlives_its_handle() {
    let session = Session::new(&[("count", "2")]);
    let (plan, _) = Sketch::copy(4).plan(&session).unwrap();
    let buffer = session.alloc(32);
    slot!(device_close(session.device));
    session.upload(buffer, 0, &[5; 16]).unwrap();
    let part = |offset| Binding { buffer, offset, bytes: 16 };
    session.execute(plan, &[part(0), part(16)]).unwrap();
    assert_eq!(session.download(buffer, 16, 16).unwrap(), [5; 16]);
    assert_eq!(ALIVE[2].load(Ordering::SeqCst), 1);
    slot!(plan_destroy(plan));
    slot!(buffer_free(buffer));
    drop(session);
    assert_eq!(ALIVE[2].load(Ordering::SeqCst), 0);
}

#[test]
fn imported_memory_is_read_in_place_and_let_go_before_the_buffer_is_freed() {
    let session = Session::new(&[]);
    let mut memory: Vec<u8> = (0..64).collect();
    let import = |at: *const u8, bytes: u64| {
        let host: *const c_void = at.cast();
        get(null_mut(), |out, err| slot!(buffer_import(session.device, host, bytes, out, err)))
    };
    assert_eq!(import(std::ptr::null(), 8).unwrap_err().code, abi::ERR_INVALID_ARG);
    import(std::ptr::null(), 0).expect("no bytes lie anywhere");
    assert_eq!(import(memory.as_ptr(), u64::MAX).unwrap_err().code, abi::ERR_INVALID_ARG);
    let buffer = import(memory.as_ptr(), 64).unwrap();
    // The toy's stream keeps what it read until it is next waited for: freeing sees to that.
    assert_eq!(session.download(buffer, 8, 4).unwrap(), [8, 9, 10, 11]);
    slot!(buffer_free(buffer));
    memory.fill(0xEE);
    let failed = session.download(buffer, 8, 4).unwrap_err();
    assert!(failed.message.contains("given back"), "{}", failed.message);
}

#[test]
fn events_mark_points_and_tell_the_time_between_them() {
    let session = Session::new(&[]);
    let create = || get(null_mut(), |out, err| slot!(event_create(session.device, 0, out, err))).unwrap();
    let (a, b) = (create(), create());
    let elapsed = || get(0, |out, err| slot!(event_elapsed_ns(a, b, out, err)));
    assert_eq!(elapsed().unwrap_err().code, abi::ERR_UNSUPPORTED);
    call(|err| slot!(event_query(a, err))).expect("an event never recorded is reached");
    let begun = Instant::now();
    call(|err| slot!(event_record(a, session.stream, err))).unwrap();
    std::thread::sleep(Duration::from_millis(2));
    call(|err| slot!(event_record(b, session.stream, err))).unwrap();
    assert!((2_000_000..=begun.elapsed().as_nanos() as u64).contains(&elapsed().unwrap()));
    call(|err| slot!(event_sync(b, abi::WAIT_FOREVER, err))).unwrap();
    call(|err| slot!(stream_wait(session.stream, b, err))).unwrap();
    slot!(event_destroy(a));
    assert!(elapsed().unwrap_err().message.contains("event handle"));
}

#[test]
fn threads_may_share_a_device_and_even_a_stream() {
    let session = Session::new(&[]);
    let (plan, _) = Sketch::copy(64).plan(&session).unwrap();
    let handles = (plan as usize, session.device as usize, session.stream as usize);
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            scope.spawn(move || {
                let (plan, device, shared) = (handles.0 as *mut abi::Plan, handles.1 as *mut abi::Device, handles.2);
                let own = get(null_mut(), |out, err| slot!(stream_create(device, 0, out, err))).unwrap();
                for i in 0..200 {
                    // Half of the calls break the rule that a stream is one thread's at a time.
                    let stream = if i % 2 == 0 { own } else { shared as *mut abi::Stream };
                    let buffer = get(null_mut(), |out, err| slot!(buffer_alloc(device, 0, 512, out, err))).unwrap();
                    let src = [thread; 256];
                    call(|err| slot!(upload(stream, buffer, 0, src.as_ptr().cast(), 256, err))).unwrap();
                    let list = [0, 256].map(|offset| Binding { buffer, offset, bytes: 256 });
                    call(|err| slot!(plan_execute(plan, stream, list.as_ptr(), 2, std::ptr::null(), err))).unwrap();
                    let mut to = [0xFFu8; 256];
                    call(|err| slot!(download(stream, to.as_mut_ptr().cast(), buffer, 256, 256, err))).unwrap();
                    assert_eq!(to, src);
                    slot!(buffer_free(buffer));
                }
                slot!(stream_destroy(own));
            });
        }
    });
}
