//! Arguments that are none: NULL, handles of others and of the past, ranges outside, structs of no size.

use std::ptr::{dangling_mut, null, null_mut};

use qiao_plugin::abi::{self, Binding, DeviceInfo, ErrorRecord, Sized32, Status};

use crate::graphs::Sketch;
use crate::host::{Failed, Session, call, get, slot};

fn refused(failed: Failed, words: &str) {
    assert_eq!(failed.code, abi::ERR_INVALID_ARG, "{}", failed.message);
    assert!(failed.message.contains(words), "{}", failed.message);
}

#[test]
fn null_is_refused_everywhere_but_where_things_are_given_back() {
    let s = Session::new(&[]);
    let buffer = s.alloc(16);
    let (plan, _) = Sketch::copy(4).plan(&s).unwrap();
    let event = get(null_mut(), |out, err| slot!(event_create(s.device, 0, out, err))).unwrap();
    let mut bytes = [0u8; 4];
    let at: *mut std::ffi::c_void = bytes.as_mut_ptr().cast();
    let (no_device, no_stream) = (null_mut::<abi::Device>(), null_mut::<abi::Stream>());
    type Slot<'a> = &'a dyn Fn(*mut ErrorRecord) -> Status;
    let slots: &[Slot<'_>] = &[
        &|e| slot!(backend_init(null(), &mut null_mut(), e)),
        &|e| slot!(device_count(null_mut(), &mut 0, e)),
        &|e| slot!(device_count(s.backend, null_mut(), e)),
        &|e| slot!(device_open(s.backend, 0, null_mut(), e)),
        &|e| slot!(device_info(no_device, &mut DeviceInfo::sized(), e)),
        &|e| slot!(device_info(s.device, null_mut(), e)),
        &|e| slot!(memory_info(s.device, 0, null_mut(), e)),
        &|e| slot!(dtype_info(s.device, 0, null_mut(), e)),
        &|e| slot!(kv_info(s.device, 0, null_mut(), e)),
        &|e| slot!(buffer_alloc(s.device, 0, 8, null_mut(), e)),
        &|e| slot!(buffer_alloc(no_device, 0, 8, &mut null_mut(), e)),
        &|e| slot!(buffer_import(s.device, at, 4, null_mut(), e)),
        &|e| slot!(stream_create(s.device, 0, null_mut(), e)),
        &|e| slot!(stream_sync(no_stream, 0, e)),
        &|e| slot!(upload(no_stream, buffer, 0, at, 4, e)),
        &|e| slot!(upload(s.stream, null_mut(), 0, at, 4, e)),
        &|e| slot!(upload(s.stream, buffer, 0, null(), 4, e)),
        &|e| slot!(download(s.stream, null_mut(), buffer, 0, 4, e)),
        &|e| slot!(download(s.stream, at, null_mut(), 0, 4, e)),
        &|e| slot!(copy(s.stream, buffer, 0, null_mut(), 0, 4, e)),
        &|e| slot!(fill(s.stream, null_mut(), 0, 4, 0, e)),
        &|e| slot!(stream_wait(s.stream, null_mut(), e)),
        &|e| slot!(event_create(s.device, 0, null_mut(), e)),
        &|e| slot!(event_record(event, no_stream, e)),
        &|e| slot!(event_record(null_mut(), s.stream, e)),
        &|e| slot!(event_sync(null_mut(), 0, e)),
        &|e| slot!(event_query(null_mut(), e)),
        &|e| slot!(event_elapsed_ns(event, null_mut(), &mut 0, e)),
        &|e| slot!(event_elapsed_ns(event, event, null_mut(), e)),
        &|e| slot!(graph_support(s.device, null(), null(), e)),
        &|e| slot!(plan_create(s.device, null(), &mut null_mut(), &mut abi::PlanInfo::sized(), e)),
        &|e| Sketch::copy(4).with(|g| slot!(plan_create(s.device, g, &mut null_mut(), null_mut(), e))),
        &|e| Sketch::copy(4).with(|g| slot!(plan_create(s.device, g, null_mut(), &mut abi::PlanInfo::sized(), e))),
        &|e| slot!(plan_execute(null_mut(), s.stream, null(), 0, null(), e)),
        &|e| slot!(plan_execute(plan, s.stream, null(), 2, null(), e)),
        &|e| slot!(prepack_size(s.device, null(), 1, &mut 0, e)),
        &|e| slot!(prepack(s.stream, null(), null(), 1, null(), e)),
    ];
    for (i, slot) in slots.iter().enumerate() {
        let failed = call(slot).unwrap_err();
        assert_eq!(failed.code, abi::ERR_INVALID_ARG, "{i}: {}", failed.message);
        assert_eq!(slot(null_mut()), abi::ERR_INVALID_ARG, "{i}: without a record");
    }
    slot!(backend_shutdown(null_mut()));
    slot!(device_close(null_mut()));
    slot!(buffer_free(null_mut()));
    slot!(stream_destroy(null_mut()));
    slot!(event_destroy(null_mut()));
    slot!(plan_destroy(null_mut()));
}

#[test]
fn handles_of_the_past_of_others_and_of_another_kind_are_told_apart() {
    let s = Session::new(&[]);
    let buffer = s.alloc(16);
    slot!(buffer_free(buffer));
    slot!(buffer_free(buffer));
    refused(s.upload(buffer, 0, &[1]).unwrap_err(), "was given back already");
    let next = s.alloc(16);
    assert_ne!(next, buffer, "the place is used again under another name");
    refused(s.upload(buffer, 0, &[1]).unwrap_err(), "was given back already");
    refused(s.upload(s.stream.cast(), 0, &[1]).unwrap_err(), "is a stream");
    refused(s.upload(dangling_mut(), 0, &[1]).unwrap_err(), "is no handle of this plugin");
    let local = 0u64;
    refused(s.upload((&raw const local).cast_mut().cast(), 0, &[1]).unwrap_err(), "is no handle of this plugin");
    // Giving back what is not of the kind does nothing.
    slot!(stream_destroy(next.cast()));
    slot!(device_close(next.cast()));
    s.upload(next, 0, &[1]).unwrap();
}

#[test]
fn ranges_stay_within_their_buffers() {
    let s = Session::new(&[]);
    let buffer = s.alloc(16);
    let mut byte = 0u8;
    let at: *mut std::ffi::c_void = (&raw mut byte).cast();
    for (offset, bytes) in [(16, 1), (0, 17), (u64::MAX, 1), (1, u64::MAX), (u64::MAX, u64::MAX)] {
        let words = |failed: Failed| assert_eq!(failed.code, abi::ERR_INVALID_ARG, "{}", failed.message);
        words(call(|e| slot!(upload(s.stream, buffer, offset, at, bytes, e))).unwrap_err());
        words(call(|e| slot!(download(s.stream, at, buffer, offset, bytes, e))).unwrap_err());
        words(call(|e| slot!(fill(s.stream, buffer, offset, bytes, 0, e))).unwrap_err());
        words(call(|e| slot!(copy(s.stream, buffer, 0, buffer, offset, bytes, e))).unwrap_err());
        words(call(|e| slot!(copy(s.stream, buffer, offset, buffer, 0, bytes, e))).unwrap_err());
    }
    // No bytes need no memory, and lie anywhere within.
    call(|e| slot!(upload(s.stream, buffer, 16, null(), 0, e))).unwrap();
    call(|e| slot!(download(s.stream, null_mut(), buffer, 0, 0, e))).unwrap();
    s.sync().unwrap();
}

#[test]
fn bindings_are_counted_measured_and_named() {
    let s = Session::new(&[]);
    let buffer = s.alloc(32);
    let (plan, _) = Sketch::copy(4).plan(&s).unwrap();
    let part = |offset, bytes| Binding { buffer, offset, bytes };
    let good = part(0, 16);
    s.execute(plan, &[good, part(16, 16)]).unwrap();
    refused(s.execute(plan, &[good]).unwrap_err(), "give 2, one per bound tensor");
    refused(s.execute(plan, &[good, part(16, 17)]).unwrap_err(), "stay within the buffer");
    refused(s.execute(plan, &[part(0, 15), part(16, 16)]).unwrap_err(), "give it 16 bytes");
    refused(
        s.execute(plan, &[good, Binding { buffer: null_mut(), ..good }]).unwrap_err(),
        "binding 1: buffer handle: NULL",
    );
    let other = Session::new(&[]);
    let foreign = Binding { buffer: other.alloc(32), ..good };
    refused(s.execute(plan, &[foreign, good]).unwrap_err(), "binding 0: buffer: it is of another device");
    // A call that is refused does nothing to the stream.
    s.execute(plan, &[good, part(16, 16)]).unwrap();
}

#[test]
fn things_of_two_chips_are_not_used_together() {
    let s = Session::new(&[]);
    let open = |ordinal| get(null_mut(), |out, err| slot!(device_open(s.backend, ordinal, out, err))).unwrap();
    let alloc = |device| get(null_mut(), |out, err| slot!(buffer_alloc(device, 0, 8, out, err))).unwrap();
    let (again, second) = (alloc(open(0)), alloc(open(1)));
    s.upload(again, 0, &[1]).expect("two handles to one chip");
    refused(s.upload(second, 0, &[1]).unwrap_err(), "is of another device");
}

#[test]
fn unknown_flags_are_unsupported_and_structs_without_a_size_are_no_structs() {
    let s = Session::new(&[]);
    let code = |failed: Failed| failed.code;
    let stream = get(null_mut(), |out, err| slot!(stream_create(s.device, 1, out, err))).map(|_| ());
    let event = get(null_mut(), |out, err| slot!(event_create(s.device, 1, out, err))).map(|_| ());
    assert_eq!([stream, event].map(|r| code(r.unwrap_err())), [abi::ERR_UNSUPPORTED; 2]);
    let info = DeviceInfo { struct_size: 0, ..DeviceInfo::sized() };
    let failed = get(info, |out, err| slot!(device_info(s.device, out, err)));
    assert_eq!(failed.err().map(code), Some(abi::ERR_ABI));
    let mut sketch = Sketch::copy(4);
    sketch.tensors[0].flags = 1 << 20;
    assert_eq!(code(sketch.support(&s).unwrap_err()), abi::ERR_ABI);
    let mut sketch = Sketch::copy(4);
    sketch.ops[0].flags = 1;
    assert_eq!(code(sketch.support(&s).unwrap_err()), abi::ERR_ABI);
    let mut sketch = Sketch::copy(4);
    sketch.tensors[1].struct_size = 3;
    assert_eq!(code(sketch.support(&s).unwrap_err()), abi::ERR_ABI);
}
