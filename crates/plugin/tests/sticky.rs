//! Failures that stay: the first of a stream, the loss of a device; and what does not stay.

mod wildcard;

use std::sync::Arc;
use std::time::Duration;

use qiao_core::{Backend, Binding, Device, Error, Stream};
use qiao_plugin::abi;
use qiao_plugin::{Options, Plugin};
use wildcard::{Script, lay, times, without};

struct Scene {
    device: Arc<dyn Device>,
    stream: Box<dyn Stream>,
    a: Binding,
    b: Binding,
}

fn scene_without(slots: &[&'static str]) -> Scene {
    wildcard::play(Script { seed: 5, wildness: 0, sane_head: true });
    without(slots);
    // SAFETY: the pointers of this plugin are what they seem.
    let backend = unsafe { Plugin::of_query(wildcard::query, &Options::default()) }.unwrap();
    let device = backend.open(0).unwrap();
    let stream = device.stream().unwrap();
    let (a, b) = (device.alloc(0, 64).unwrap(), device.alloc(0, 64).unwrap());
    Scene { device, stream, a: Binding::whole(a), b: Binding::whole(b) }
}

fn scene() -> Scene {
    scene_without(&[])
}

/// The failure that was first.
fn root(error: &Error) -> &Error {
    match error {
        Error::Poisoned { first } => root(first),
        other => other,
    }
}

#[track_caller]
fn poisoned<T>(result: Result<T, Error>, first: &str) {
    let Err(error) = result else { panic!("it was taken") };
    assert!(matches!(error, Error::Poisoned { .. }), "{error:?}");
    assert_eq!(root(&error).to_string(), first);
}

#[test]
fn the_first_failure_of_a_stream_is_told_by_all_that_follows() {
    let Scene { device, mut stream, a, b } = scene();
    lay("copy", abi::ERR_INTERNAL, "the engine hit a bad word");
    let first = stream.copy(&a, &b).unwrap_err();
    assert_eq!(first.to_string(), "Wild: the engine hit a bad word");
    let first = first.to_string();
    let before = wildcard::called().len();
    poisoned(stream.copy(&a, &b), &first);
    poisoned(stream.fill(&a, 1), &first);
    poisoned(stream.upload(&a, &[1]), &first);
    poisoned(stream.download(&mut [1], &a), &first);
    assert_eq!(stream.sync(Duration::ZERO).unwrap_err().to_string(), first);
    assert_eq!(wildcard::called()[before..], ["stream_sync"], "a sync waits for what runs, and nothing else is asked");
    // Another stream is not concerned.
    device.stream().unwrap().fill(&a, 1).unwrap();
    // What is behind the failure ends in it: an event, and who waits for it.
    let event = device.event().unwrap();
    poisoned(stream.record(&*event), &first);
    poisoned(event.sync(Duration::MAX), &first);
    poisoned(event.is_reached(), &first);
    let mut other = device.stream().unwrap();
    poisoned(other.wait(&*event), &first);
    other.fill(&a, 1).unwrap();
    other.record(&*event).unwrap();
    assert!(event.is_reached().unwrap(), "recorded again it is well");
}

#[test]
fn a_poisoned_answer_asks_the_plugin_which_failure_was_first() {
    let Scene { mut stream, a, .. } = scene();
    lay("fill", abi::ERR_POISONED, "a command before failed");
    lay("stream_sync", abi::ERR_INTERNAL, "the first of all");
    poisoned(stream.fill(&a, 1), "Wild: the first of all");
    poisoned(stream.fill(&a, 1), "Wild: the first of all");
    // One that does not tell has its words taken for it.
    let Scene { mut stream, a, .. } = scene();
    lay("fill", abi::ERR_POISONED, "a command before failed");
    poisoned(stream.fill(&a, 1), "Wild: a command before failed");
}

#[test]
fn a_wait_that_is_refused_is_explained_by_the_stream_that_failed() {
    let Scene { device, mut stream, a, b } = scene();
    let event = device.event().unwrap();
    stream.record(&*event).unwrap();
    lay("copy", abi::ERR_INTERNAL, "the copy of one");
    let first = stream.copy(&a, &b).unwrap_err().to_string();
    // The stream that waits has a failure of its own, which has nothing to do with the event.
    let mut other = device.stream().unwrap();
    lay("stream_wait", abi::ERR_POISONED, "");
    lay("stream_sync", abi::ERR_INTERNAL, "the fill of another");
    poisoned(other.wait(&*event), "Wild: the fill of another");
    poisoned(other.fill(&a, 1), "Wild: the fill of another");
    // It is well or still at work: the event's stream is the one that failed.
    for status in [abi::OK, abi::ERR_TIMEOUT] {
        let mut well = device.stream().unwrap();
        lay("stream_wait", abi::ERR_POISONED, "");
        lay("stream_sync", status, "");
        poisoned(well.wait(&*event), &first);
        well.fill(&a, 1).unwrap();
    }
}

#[test]
fn a_failure_that_comes_out_at_a_sync_is_kept() {
    let Scene { mut stream, a, .. } = scene();
    stream.fill(&a, 1).unwrap();
    lay("stream_sync", abi::ERR_OUT_OF_MEMORY, "no room for scratch");
    assert!(matches!(stream.sync(Duration::MAX), Err(Error::OutOfMemory { .. })));
    assert!(matches!(stream.sync(Duration::MAX), Err(Error::OutOfMemory { .. })));
    let Err(Error::Poisoned { first }) = stream.fill(&a, 1) else { panic!("it was taken") };
    assert!(matches!(*first, Error::OutOfMemory { .. }));
    // An upload waits first, and tells what the wait found.
    let Scene { mut stream, a, .. } = scene();
    lay("stream_sync", abi::ERR_INTERNAL, "late");
    assert_eq!(stream.upload(&a, &[1]).unwrap_err().to_string(), "Wild: late");
    assert_eq!(times("upload"), 0);
}

#[test]
fn what_was_refused_leaves_the_stream_as_it_was() {
    for status in [abi::ERR_INVALID_ARG, abi::ERR_OUT_OF_MEMORY, abi::ERR_TIMEOUT, abi::ERR_ABI] {
        let Scene { mut stream, a, b, .. } = scene();
        lay("copy", status, "not like this");
        let error = stream.copy(&a, &b).unwrap_err();
        assert!(!matches!(error, Error::Poisoned { .. } | Error::Internal { .. }), "{error:?}");
        stream.copy(&a, &b).unwrap();
        stream.sync(Duration::ZERO).unwrap();
    }
    // A status that is none is a failure.
    let Scene { mut stream, a, b, .. } = scene();
    lay("copy", -5, "odd");
    let first = stream.copy(&a, &b).unwrap_err().to_string();
    assert!(first.contains("odd") && first.contains("status -5"), "{first}");
    poisoned(stream.copy(&a, &b), &first);
}

#[test]
fn a_wait_that_ran_out_poisons_nothing() {
    let Scene { device, mut stream, a, .. } = scene();
    lay("stream_sync", abi::ERR_TIMEOUT, "");
    let error = stream.sync(Duration::from_millis(250)).unwrap_err();
    assert!(matches!(&error, Error::Timeout { millis: 250, .. }), "{error:?}");
    stream.sync(Duration::ZERO).unwrap();
    stream.set_patience(Duration::from_millis(40));
    for _ in 0..2 {
        lay("stream_sync", abi::ERR_TIMEOUT, "");
        let error = stream.upload(&a, &[1]).unwrap_err();
        assert!(matches!(&error, Error::Timeout { millis: 40, .. }), "{error:?}");
        lay("stream_sync", abi::ERR_TIMEOUT, "");
        let error = stream.sync(Duration::MAX).unwrap_err();
        assert!(matches!(&error, Error::Timeout { millis: 40, .. }), "{error:?}");
    }
    assert_eq!(times("upload"), 0);
    stream.upload(&a, &[1]).unwrap();
    // An event that is not reached in time can be waited for again.
    let event = device.event().unwrap();
    stream.record(&*event).unwrap();
    lay("event_sync", abi::ERR_TIMEOUT, "");
    assert!(matches!(event.sync(Duration::ZERO), Err(Error::Timeout { millis: 0, .. })));
    lay("event_query", abi::ERR_NOT_READY, "");
    assert!(!event.is_reached().unwrap());
    event.sync(Duration::ZERO).unwrap();
}

#[test]
fn a_lost_device_stays_lost_and_only_takes_back() {
    let Scene { device, mut stream, a, b } = scene();
    let (event, mut other) = (device.event().unwrap(), device.stream().unwrap());
    stream.record(&*event).unwrap();
    lay("copy", abi::ERR_DEVICE_LOST, "it fell off the bus");
    let lost = stream.copy(&a, &b).unwrap_err().to_string();
    assert!(lost.contains("Wild is lost: it fell off the bus"), "{lost}");
    let before = wildcard::called().len();
    let same = |result: Result<(), Error>| {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::DeviceLost { .. }), "{error:?}");
        assert_eq!(error.to_string(), lost);
    };
    same(stream.sync(Duration::ZERO));
    same(other.fill(&a, 1));
    same(other.upload(&a, &[1]));
    same(other.record(&*event));
    same(other.wait(&*event));
    same(event.sync(Duration::MAX));
    same(event.is_reached().map(|_| ()));
    same(device.alloc(0, 1).map(|_| ()));
    same(device.stream().map(|_| ()));
    same(device.event().map(|_| ()));
    same(device.plan(&qiao_core::Graph::new()).map(|_| ()));
    assert_eq!(wildcard::called().len(), before, "the plugin is not asked again");
    drop((device, stream, a, b, event, other));
    for slot in ["buffer_free", "stream_destroy", "event_destroy", "device_close", "backend_shutdown"] {
        assert!(times(slot) > 0, "{slot}");
    }
    assert_eq!(wildcard::faults(), [""; 0]);
}

#[test]
fn another_handle_of_the_device_is_not_lost_with_the_first() {
    wildcard::play(Script { seed: 5, wildness: 0, sane_head: true });
    // SAFETY: the pointers of this plugin are what they seem.
    let backend = unsafe { Plugin::of_query(wildcard::query, &Options::default()) }.unwrap();
    let (one, two) = (backend.open(0).unwrap(), backend.open(0).unwrap());
    lay("buffer_alloc", abi::ERR_DEVICE_LOST, "gone");
    assert!(matches!(one.alloc(0, 1), Err(Error::DeviceLost { .. })));
    assert!(matches!(one.alloc(0, 1), Err(Error::DeviceLost { .. })));
    two.alloc(0, 1).unwrap();
    backend.open(0).unwrap().alloc(0, 1).unwrap();
}

#[test]
fn a_stream_is_waited_for_where_there_are_no_events() {
    let all = [
        "stream_wait",
        "event_create",
        "event_destroy",
        "event_record",
        "event_sync",
        "event_query",
        "event_elapsed_ns",
    ];
    let Scene { device, mut stream, a, .. } = scene_without(&all);
    let event = device.event().unwrap();
    stream.fill(&a, 1).unwrap();
    stream.record(&*event).unwrap();
    assert_eq!(times("stream_sync"), 1);
    assert!(event.is_reached().unwrap());
    let mut other = device.stream().unwrap();
    other.wait(&*event).unwrap();
    // A point that is not reached in time is not marked.
    stream.set_patience(Duration::from_millis(1));
    lay("stream_sync", abi::ERR_TIMEOUT, "");
    assert!(matches!(stream.record(&*event), Err(Error::Timeout { .. })));
    event.sync(Duration::ZERO).unwrap();
    lay("stream_sync", abi::ERR_INTERNAL, "late");
    assert!(stream.record(&*event).is_err());
    assert!(event.is_reached().unwrap_err().to_string().contains("late"));
    assert!(other.wait(&*event).unwrap_err().to_string().contains("late"));
}

#[test]
fn an_event_without_a_query_is_asked_by_a_wait_of_no_time() {
    let Scene { device, mut stream, .. } = scene_without(&["event_query", "event_elapsed_ns"]);
    let event = device.event().unwrap();
    stream.record(&*event).unwrap();
    lay("event_sync", abi::ERR_TIMEOUT, "");
    assert!(!event.is_reached().unwrap());
    assert!(event.is_reached().unwrap());
    assert_eq!(times("event_sync"), 2);
    assert!(event.since(&*event).is_none());
}

#[test]
fn a_copy_or_fill_that_is_declined_goes_through_the_host() {
    let Scene { mut stream, a, b, .. } = scene();
    lay("copy", abi::ERR_UNSUPPORTED, "not between these memories");
    stream.copy(&a, &b).unwrap();
    assert_eq!((times("download"), times("upload")), (1, 1));
    lay("fill", abi::ERR_UNSUPPORTED, "");
    stream.fill(&a, 1).unwrap();
    assert_eq!((times("fill"), times("upload")), (1, 2));
    // Ranges that overlap never reach the plugin's copy.
    let copies = times("copy");
    stream.copy(&Binding::part(&a.buffer, 1, 32), &Binding::part(&a.buffer, 0, 32)).unwrap();
    assert_eq!((times("copy"), times("download")), (copies, 2));
}

#[test]
fn what_is_not_the_devices_own_never_reaches_the_plugin() {
    let Scene { device, mut stream, a, .. } = scene();
    // SAFETY: the pointers of this plugin are what they seem.
    let backend = unsafe { Plugin::of_query(wildcard::query, &Options::default()) }.unwrap();
    let other = backend.open(0).unwrap();
    let (foreign, event) = (Binding::whole(other.alloc(0, 64).unwrap()), other.event().unwrap());
    let mut theirs = other.stream().unwrap();
    let before = wildcard::called().len();
    let refused = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    refused(stream.upload(&foreign, &[1]));
    refused(stream.copy(&a, &foreign));
    refused(stream.copy(&foreign, &a));
    refused(stream.fill(&foreign, 1));
    refused(stream.record(&*event));
    refused(stream.record(&qiao_core::HostEvent::default()));
    refused(stream.fill(&Binding::part(&a.buffer, 60, 5), 1));
    refused(device.alloc(1, 1).map(|_| ()));
    refused(device.prepack(&mut *theirs, &qiao_core::TensorDesc::new(qiao_core::DType::F32, &[1]).unwrap(), &a, 0, &a));
    assert_eq!(wildcard::called().len(), before);
    // An event of another device is waited for on the host.
    stream.wait(&*event).unwrap();
    assert_eq!(times("stream_wait"), 0);
}

struct Host(Vec<u8>);

impl qiao_core::HostMemory for Host {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[test]
fn imported_memory_is_read_only_and_borrowed_until_it_is_given_back() {
    let Scene { device, mut stream, a, .. } = scene();
    let memory = Arc::new(Host(vec![1; 256]));
    let watch = Arc::downgrade(&memory);
    let buffer = Binding::whole(device.import(memory, 64, 128).unwrap());
    assert_eq!(buffer.bytes, 128);
    let refused = |result: Result<(), Error>| assert!(matches!(result, Err(Error::Invalid { .. })), "{result:?}");
    refused(stream.upload(&buffer, &[1]));
    refused(stream.fill(&buffer, 1));
    refused(stream.copy(&buffer, &a));
    assert_eq!(times("upload") + times("fill") + times("copy"), 0);
    stream.download(&mut [0; 64], &buffer).unwrap();
    assert!(watch.upgrade().is_some(), "it is borrowed");
    let before = times("buffer_free");
    drop(buffer);
    assert!(watch.upgrade().is_none() && times("buffer_free") == before + 1);
    // Ranges are looked at here; what the plugin declines is uploaded by the caller.
    let import = |offset, bytes| device.import(Arc::new(Host(vec![1; 256])), offset, bytes).map(|_| ());
    for (offset, bytes) in [(0, 257), (256, 1), (257, 0), (usize::MAX, 2)] {
        refused(import(offset, bytes));
    }
    assert_eq!(times("buffer_import"), 1);
    lay("buffer_import", abi::ERR_UNSUPPORTED, "not at this address");
    assert!(matches!(import(0, 8), Err(Error::Unsupported { .. })));
    let Scene { device, .. } = scene_without(&["buffer_import"]);
    assert!(matches!(device.import(Arc::new(Host(vec![1; 8])), 0, 8), Err(Error::Unsupported { .. })));
}
