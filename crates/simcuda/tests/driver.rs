//! The driver keeps its own rules: what was not waited for is not done, what is not owned is refused, what is asked to fail
//! fails.

mod rig;

use std::ptr::null_mut;

use cudarc::driver::{result, sys};
use qiao_simcuda::{Kind, Knob};
use rig::{Code, Context, Memory, Module, card, compile};

fn check(code: Code) -> Result<(), Code> {
    code.result().map_err(|e| e.0)
}

/// A stream that does not wait for the legacy one.
struct Stream(sys::CUstream);

impl Stream {
    fn new() -> Self {
        Stream(result::stream::create(result::stream::StreamKind::NonBlocking).unwrap())
    }
    fn sync(&self) -> Result<(), Code> {
        // SAFETY: the stream exists.
        unsafe { result::stream::synchronize(self.0) }.map_err(|e| e.0)
    }
    fn query(&self) -> Result<(), Code> {
        // SAFETY: the stream exists.
        check(unsafe { sys::cuStreamQuery(self.0) })
    }
    fn add_one(&self, module: &Module, y: &Memory<f32>, x: &Memory<f32>) {
        let n = y.len as u32;
        module.launch("add_one", (n.div_ceil(256), 1, 1), 256, 0, self.0, params![y.at, x.at, n]).unwrap();
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: the stream is destroyed once.
        let _ = unsafe { result::stream::destroy(self.0) };
    }
}

/// Memory that the driver pinned.
struct Pinned(*mut f32, usize);

impl Pinned {
    fn of(values: &[f32]) -> Self {
        // SAFETY: the memory is as large as the values.
        unsafe {
            let at = result::malloc_host(size_of_val(values), 0).unwrap().cast::<f32>();
            at.copy_from_nonoverlapping(values.as_ptr(), values.len());
            Pinned(at, values.len())
        }
    }
    fn set(&self, value: f32) {
        // SAFETY: all elements belong to this.
        (0..self.1).for_each(|i| unsafe { self.0.add(i).write(value) });
    }
    fn get(&self) -> Vec<f32> {
        // SAFETY: all elements belong to this and were written.
        unsafe { std::slice::from_raw_parts(self.0, self.1) }.to_vec()
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: the memory is freed once.
        unsafe { result::free_host(self.0.cast()) }.unwrap();
    }
}

#[test]
fn work_in_a_stream_is_done_when_it_is_waited_for() {
    let _alone = card().alone();
    let (_context, module, stream) = (Context::new(), Module::new(), Stream::new());
    let (x, y) = (Memory::of(&[1.0f32; 300]), Memory::of(&[0.0f32; 300]));
    stream.add_one(&module, &y, &x);
    assert_eq!(y.read(), [0.0; 300], "a copy that no stream orders comes first");
    stream.sync().unwrap();
    assert_eq!(y.read(), [2.0; 300]);
    assert_eq!(stream.query(), Ok(()));
}

#[test]
fn asking_often_enough_is_waiting() {
    let _alone = card().alone();
    let (_context, module, stream) = (Context::new(), Module::new(), Stream::new());
    let (x, y) = (Memory::of(&[1.0f32; 300]), Memory::of(&[0.0f32; 300]));
    (0..10).for_each(|_| stream.add_one(&module, &y, &x));
    while let Err(code) = stream.query() {
        assert_eq!(code, Code::CUDA_ERROR_NOT_READY);
    }
    assert_eq!(y.read(), [2.0; 300]);
}

#[test]
fn pinned_memory_is_read_when_the_copy_happens() {
    let _alone = card().alone();
    let (_context, stream) = (Context::new(), Stream::new());
    let (x, pinned) = (Memory::of(&[0.0f32; 8]), Pinned::of(&[3.0; 8]));
    // SAFETY: both sides hold as many bytes until the stream is waited for.
    check(unsafe { sys::cuMemcpyHtoDAsync_v2(x.at, pinned.0.cast(), 32, stream.0) }).unwrap();
    pinned.set(4.0);
    stream.sync().unwrap();
    assert_eq!(x.read(), [4.0; 8], "the source was written too early");
    pinned.set(0.0);
    // SAFETY: both sides hold as many bytes until the stream is waited for.
    check(unsafe { sys::cuMemcpyDtoHAsync_v2(pinned.0.cast(), x.at, 32, stream.0) }).unwrap();
    assert_eq!(pinned.get(), [0.0; 8]);
    stream.sync().unwrap();
    assert_eq!(pinned.get(), [4.0; 8]);
}

#[test]
fn a_stream_waits_for_another_only_where_an_event_says_so() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let (first, second) = (Stream::new(), Stream::new());
    let (x, y, z) = (Memory::of(&[1.0f32; 16]), Memory::of(&[0.0f32; 16]), Memory::of(&[0.0f32; 16]));
    first.add_one(&module, &y, &x);
    second.add_one(&module, &z, &y);
    second.sync().unwrap();
    assert_eq!(z.read(), [1.0; 16], "without the event");
    first.sync().unwrap();

    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    first.add_one(&module, &y, &y);
    // SAFETY: event and streams exist.
    unsafe {
        result::event::record(event, first.0).unwrap();
        assert_eq!(check(sys::cuEventQuery(event)), Ok(()), "asking lets work go on");
        result::event::record(event, first.0).unwrap();
        first.add_one(&module, &y, &y);
        result::event::record(event, first.0).unwrap();
        let wait = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        result::stream::wait_event(second.0, event, wait).unwrap();
    }
    first.add_one(&module, &x, &x);
    second.add_one(&module, &z, &y);
    second.sync().unwrap();
    assert_eq!(z.read(), [5.0; 16]);
    assert_eq!(x.read(), [1.0; 16], "what comes after the event is not waited for");
    // SAFETY: the event exists.
    unsafe { result::event::destroy(event) }.unwrap();
}

#[test]
fn times_are_those_of_timed_events_that_are_done() {
    let _alone = card().alone();
    let (_context, module, stream) = (Context::new(), Module::new(), Stream::new());
    let (x, y) = (Memory::of(&[1.0f32; 16]), Memory::of(&[0.0f32; 16]));
    let timed = || result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).unwrap();
    let (start, end) = (timed(), timed());
    let untimed = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    // SAFETY: events and stream exist.
    unsafe {
        let elapsed = |a, b| result::event::elapsed(a, b).map_err(|e| e.0);
        assert_eq!(elapsed(start, end), Err(Code::CUDA_ERROR_INVALID_HANDLE));
        result::event::record(start, stream.0).unwrap();
        stream.add_one(&module, &y, &x);
        result::event::record(end, stream.0).unwrap();
        result::event::record(untimed, stream.0).unwrap();
        assert_eq!(elapsed(start, end), Err(Code::CUDA_ERROR_NOT_READY));
        stream.sync().unwrap();
        assert!(elapsed(start, end).unwrap() > 0.0);
        assert_eq!(elapsed(start, untimed), Err(Code::CUDA_ERROR_INVALID_HANDLE));
        for event in [start, end, untimed] {
            result::event::destroy(event).unwrap();
        }
        assert_eq!(check(sys::cuEventQuery(end)), Err(Code::CUDA_ERROR_INVALID_HANDLE));
    }
}

#[test]
fn memory_has_an_end_and_is_given_back_once() {
    let alone = card().alone();
    let _context = Context::new();
    alone.set(Knob::Memory, 1 << 20);
    // SAFETY: the memory is only named, not used.
    unsafe {
        let alloc = |bytes| result::malloc_sync(bytes).map_err(|e| e.0);
        assert_eq!(alloc(0), Err(Code::CUDA_ERROR_INVALID_VALUE));
        assert_eq!(alloc((1 << 20) + 1), Err(Code::CUDA_ERROR_OUT_OF_MEMORY));
        let half = alloc(1 << 19).unwrap();
        assert_eq!(alloc((1 << 19) + 1), Err(Code::CUDA_ERROR_OUT_OF_MEMORY));
        assert_eq!(result::mem_get_info().unwrap(), (1 << 19, 1 << 20));
        let copy = |to, bytes| check(sys::cuMemcpyHtoD_v2(to, [0u8; 16].as_ptr().cast(), bytes));
        assert_eq!(copy(half + (1 << 19) - 16, 16), Ok(()));
        assert_eq!(copy(half + (1 << 19) - 15, 16), Err(Code::CUDA_ERROR_INVALID_VALUE));
        assert_eq!(copy(half - 1, 16), Err(Code::CUDA_ERROR_INVALID_VALUE));
        result::free_sync(half).unwrap();
        assert_eq!(result::free_sync(half).map_err(|e| e.0), Err(Code::CUDA_ERROR_INVALID_VALUE));
        assert!(alone.fault().unwrap().contains("twice"));
        assert_eq!(copy(half, 16), Err(Code::CUDA_ERROR_INVALID_VALUE));
    }
    assert_eq!((alone.live(Kind::Memory), alone.live(Kind::Bytes)), (0, 0));
}

#[test]
fn freed_memory_is_out_of_a_kernels_reach() {
    let alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let y = Memory::of(&[0.0f32; 32]);
    let x = Memory::of(&[0.0f32; 32]).at;
    assert_eq!(module.run("unwritten", 1, params![y.at, x]), Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
    alone.forget();
}

#[test]
fn a_broken_context_answers_every_call_with_what_broke_it() {
    let alone = card().alone();
    let (_context, module, stream) = (Context::new(), Module::new(), Stream::new());
    module.launch("through_null", (1, 1, 1), 32, 0, stream.0, params![0u64]).unwrap();
    assert_eq!(stream.sync(), Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
    // SAFETY: the call allocates only.
    assert_eq!(unsafe { result::malloc_sync(16) }.map_err(|e| e.0), Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
    assert_eq!(stream.query(), Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
    alone.forget();
    assert_eq!(stream.query(), Ok(()));
}

#[test]
fn calls_fail_and_devices_vanish_on_demand() {
    let alone = card().alone();
    let _context = Context::new();
    // SAFETY: the memory is only named, not used.
    let alloc = || unsafe { result::malloc_sync(16) }.map_err(|e| e.0);
    alone.fail("cuMemAlloc_v2", 1, 2, Code::CUDA_ERROR_OUT_OF_MEMORY as i32);
    let answers = [alloc(), alloc(), alloc(), alloc()];
    assert_eq!(answers.map(|a| a.is_ok()), [true, false, false, true]);
    for at in answers.into_iter().flatten() {
        // SAFETY: allocated above, freed once.
        unsafe { result::free_sync(at) }.unwrap();
    }
    assert_eq!(alone.calls("cuMemAlloc_v2"), 4);
    alone.lose(0, Code::CUDA_ERROR_ECC_UNCORRECTABLE as i32);
    assert_eq!(alloc(), Err(Code::CUDA_ERROR_ECC_UNCORRECTABLE));
    alone.lose(0, 0);
}

#[test]
fn nothing_moves_while_the_card_is_stalled() {
    let alone = card().alone();
    let (_context, module, stream) = (Context::new(), Module::new(), Stream::new());
    let (x, y) = (Memory::of(&[1.0f32; 16]), Memory::of(&[0.0f32; 16]));
    alone.set(Knob::Stalled, 1);
    stream.add_one(&module, &y, &x);
    assert_eq!([stream.query(), stream.query()], [Err(Code::CUDA_ERROR_NOT_READY); 2]);
    alone.set(Knob::Stalled, 0);
    stream.sync().unwrap();
    assert_eq!(y.read(), [2.0; 16]);
}

/// Captures what `work` puts into the stream; how the capture ends.
fn capture(stream: &Stream, work: impl FnOnce()) -> Result<sys::CUgraph, Code> {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream exists.
    unsafe {
        result::stream::begin_capture(stream.0, mode).unwrap();
        work();
        let mut graph = null_mut();
        check(sys::cuStreamEndCapture(stream.0, &mut graph)).map(|()| graph)
    }
}

#[test]
fn what_is_captured_runs_at_each_launch_and_not_before() {
    let alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let (stream, side) = (Stream::new(), Stream::new());
    let (x, y) = (Memory::of(&[1.0f32; 16]), Memory::of(&[0.0f32; 16]));
    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    let flag = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    let graph = capture(&stream, || {
        stream.add_one(&module, &x, &x);
        // SAFETY: event and streams exist.
        unsafe {
            result::event::record(event, stream.0).unwrap();
            result::stream::wait_event(side.0, event, flag).unwrap();
            side.add_one(&module, &y, &x);
            result::event::record(event, side.0).unwrap();
            result::stream::wait_event(stream.0, event, flag).unwrap();
        }
    });
    let graph = graph.unwrap();
    stream.sync().unwrap();
    assert_eq!(x.read(), [1.0; 16]);
    // SAFETY: the graph was captured; each thing is destroyed once.
    unsafe {
        let mut executable = null_mut();
        check(sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0)).unwrap();
        check(sys::cuGraphDestroy(graph)).unwrap();
        for _ in 0..3 {
            check(sys::cuGraphLaunch(executable, stream.0)).unwrap();
        }
        stream.sync().unwrap();
        check(sys::cuGraphExecDestroy(executable)).unwrap();
        assert_eq!(check(sys::cuGraphLaunch(executable, stream.0)), Err(Code::CUDA_ERROR_INVALID_VALUE));
        result::event::destroy(event).unwrap();
    }
    assert_eq!((x.read(), y.read()), (vec![4.0; 16], vec![5.0; 16]));
    assert_eq!((alone.live(Kind::Graphs), alone.live(Kind::Executables), alone.live(Kind::Events)), (0, 0, 0));
}

#[test]
fn a_capture_forbids_what_could_not_be_repeated() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let (stream, side) = (Stream::new(), Stream::new());
    let x = Memory::of(&[1.0f32; 16]);
    let ended = capture(&stream, || assert_eq!(stream.sync(), Err(Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)));
    assert_eq!(ended, Err(Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    let ended = capture(&stream, || {
        // SAFETY: the call allocates only.
        let refused = unsafe { result::malloc_sync(16) }.map_err(|e| e.0);
        assert_eq!(refused, Err(Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED));
    });
    assert_eq!(ended, Err(Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).unwrap();
    let flag = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    let ended = capture(&stream, || {
        // SAFETY: event and streams exist.
        unsafe {
            result::event::record(event, stream.0).unwrap();
            result::stream::wait_event(side.0, event, flag).unwrap();
        }
        side.add_one(&module, &x, &x);
    });
    assert_eq!(ended, Err(Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED));
    // SAFETY: event and streams exist.
    unsafe {
        side.sync().unwrap();
        result::event::record(event, side.0).unwrap();
        let ended = capture(&stream, || {
            let refused = result::stream::wait_event(stream.0, event, flag).map_err(|e| e.0);
            assert_eq!(refused, Err(Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION));
        });
        assert_eq!(ended, Err(Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED));
        result::event::destroy(event).unwrap();
        let mut graph = null_mut();
        assert_eq!(check(sys::cuStreamEndCapture(stream.0, &mut graph)), Err(Code::CUDA_ERROR_ILLEGAL_STATE));
    }
    assert_eq!(x.read(), [1.0; 16], "what was captured in vain did not run");
}

#[test]
fn texts_that_are_wrong_do_not_compile() {
    let _alone = card().alone();
    card();
    for (text, words) in [
        ("#include \"nothing.cuh\"\n", "nothing.cuh"),
        ("KERNEL(32) a() { if (1) { }", "expected a \"}\""),
        ("KERNEL(32) a() { x = (1; }", "unexpected"),
        ("#error no such chip\n", "no such chip"),
    ] {
        let log = compile(text, "--gpu-architecture=sm_80").unwrap_err();
        assert!(log.contains(words), "{log}");
    }
    assert!(compile("// a brace { in a comment\n", "--gpu-architecture=sm_80").is_ok());
    assert!(compile("", "--gpu-architecture=sm_12").is_err());
}

#[test]
fn code_for_another_card_is_refused() {
    let alone = card().alone();
    let _context = Context::new();
    let load = |option: &str| {
        let image = compile(rig::UNIT.text, option).unwrap();
        // SAFETY: the image is the compiler's.
        let module = unsafe { result::module::load_data(image.as_ptr().cast()) }.map_err(|e| e.0)?;
        // SAFETY: the module was loaded now.
        unsafe { result::module::unload(module) }.map_err(|e| e.0)
    };
    assert_eq!(load("--gpu-architecture=sm_90"), Ok(()));
    assert_eq!(load("--gpu-architecture=sm_80"), Err(Code::CUDA_ERROR_NO_BINARY_FOR_GPU));
    alone.set(Knob::Arch, 89);
    assert_eq!(load("--gpu-architecture=sm_80"), Ok(()));
    assert_eq!(load("--gpu-architecture=sm_90a"), Err(Code::CUDA_ERROR_NO_BINARY_FOR_GPU));
    // SAFETY: the bytes end with a zero.
    let junk = unsafe { result::module::load_data(c"no image".as_ptr().cast()) };
    assert_eq!(junk.map_err(|e| e.0), Err(Code::CUDA_ERROR_INVALID_IMAGE));
    assert_eq!(alone.live(Kind::Modules), 0);
}
