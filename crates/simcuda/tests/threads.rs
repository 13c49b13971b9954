//! Threads of a block do together what a device's do, and what no device would forgive is an error.

mod rig;

use rig::{Code, Context, Memory, Module, card};

fn floats(n: usize) -> Vec<f32> {
    (0..n).map(|i| i as f32 * 0.5 - 7.0).collect()
}

/// What a broken launch answers, and what the card says of it.
fn broken(name: &str, params: &mut [*mut std::ffi::c_void]) -> (Code, String) {
    let module = Module::new();
    let code = module.run(name, 1, params).unwrap_err();
    (code, card().fault().unwrap_or_default())
}

#[test]
fn every_thread_of_every_block_runs_once() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    for n in [1usize, 255, 256, 257, 5000] {
        let (x, y) = (Memory::of(&floats(n)), Memory::<f32>::empty(n));
        module.run("add_one", n.div_ceil(256) as u32, params![y.at, x.at, n as u32]).unwrap();
        let expected: Vec<f32> = floats(n).iter().map(|v| v + 1.0).collect();
        assert_eq!(y.read(), expected);
    }
}

#[test]
fn a_barrier_shows_what_all_threads_wrote() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let values: Vec<u32> = (0..2560).map(|i| i * 77).collect();
    let (x, y) = (Memory::of(&values), Memory::<u32>::empty(2560));
    module.run("turn_round", 10, params![y.at, x.at]).unwrap();
    let expected: Vec<u32> = values.chunks(256).flat_map(|c| c.iter().rev().copied()).collect();
    assert_eq!(y.read(), expected);
}

#[test]
fn lanes_exchange_within_their_group_of_32() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let (y, sums) = (Memory::<u32>::empty(96 * 4), Memory::<f32>::empty(96 * 3));
    module.run("lanes", 1, params![y.at, sums.at]).unwrap();
    let (y, sums) = (y.read(), sums.read());
    let value = |thread: usize| thread as u32 * 3 + 1;
    let total: f32 = (0..96).map(|t| value(t) as f32).sum();
    for t in 0..96 {
        let first = t / 32 * 32;
        assert_eq!(y[t * 4], value(t ^ 5), "exchange of thread {t}");
        assert_eq!(y[t * 4 + 1], value(first + 7), "broadcast to thread {t}");
        let ballot: u32 = (0..32).map(|lane| u32::from(lane % 3 == t / 32) << lane).sum();
        assert_eq!(y[t * 4 + 2], ballot, "ballot of thread {t}");
        assert_eq!(y[t * 4 + 3], value(first + (t + 1) % 32), "64 bits to thread {t}");
        assert_eq!(sums[t * 3], (0..32).map(|l| value(first + l) as f32).sum::<f32>(), "sum of the group of {t}");
        assert_eq!(sums[t * 3 + 1], total + 96.0, "sum of the block in thread {t}");
        assert_eq!(sums[t * 3 + 2], -1.0, "maximum of the block in thread {t}");
    }
}

#[test]
fn parameters_of_every_letter_arrive() {
    #[repr(C)]
    #[derive(Clone)]
    struct Scale {
        by: f32,
        from: u32,
        offset: u64,
    }
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let y = Memory::<f32>::empty(1);
    let scale = Scale { by: 2.0, from: 10, offset: 1 << 20 };
    module.run("letters", 1, params![y.at, scale, -5i32, 7u32, 1u64 << 33, 0.5f32]).unwrap();
    assert_eq!(y.read(), [2.0 * ((10u64 + (1 << 20)) as f32) - 5.0 + 7.0 + (1u64 << 33) as f32 + 0.5]);
}

#[test]
fn blocks_that_count_themselves_know_the_last() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let (counter, y) = (Memory::of(&[0u32]), Memory::of(&[0u32]));
    let stream = std::ptr::null_mut();
    module.launch("last_block", (50, 7, 1), 64, 0, stream, params![counter.at, y.at]).unwrap();
    assert_eq!((counter.read()[0], y.read()[0]), (350, 350));
}

#[test]
fn a_group_of_which_some_lanes_wait_elsewhere_is_an_error() {
    let alone = card().alone();
    let _context = Context::new();
    let y = Memory::<f32>::empty(64);
    let (code, why) = broken("half_at_a_shuffle", params![y.at]);
    assert_eq!(code, Code::CUDA_ERROR_LAUNCH_FAILED);
    assert!(why.contains("half_at_a_shuffle") && why.contains("16 lanes"), "{why}");
    alone.forget();
    let (code, why) = broken("some_end_before_a_shuffle", params![y.at]);
    assert_eq!(code, Code::CUDA_ERROR_LAUNCH_FAILED);
    assert!(why.contains("threads 32 to 63") && why.contains("31 lanes"), "{why}");
    alone.forget();
}

#[test]
fn a_barrier_waits_for_threads_that_live() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let y = Memory::of(&[0.0f32; 64]);
    module.run("some_end_before_a_barrier", 1, params![y.at]).unwrap();
    assert_eq!(y.read().iter().sum::<f32>(), 32.0);
}

#[test]
fn accesses_out_of_bounds_are_errors() {
    let alone = card().alone();
    let _context = Context::new();
    let y = Memory::<f32>::empty(64);
    let (code, why) = broken("through_null", params![0u64]);
    assert_eq!(code, Code::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(why.contains("illegal access"), "{why}");
    alone.forget();
    let (code, why) = broken("beyond", params![y.at, 40u32]);
    assert_eq!(code, Code::CUDA_ERROR_ILLEGAL_ADDRESS);
    assert!(why.contains("kernel beyond") && why.contains("0 bytes after the end"), "{why}");
    alone.forget();
    let (code, why) = broken("beyond_shared", params![y.at]);
    assert_eq!(code, Code::CUDA_ERROR_LAUNCH_FAILED);
    assert!(why.contains("end of a shared array"), "{why}");
    alone.forget();
    let (_, why) = broken("much_shared", params![y.at]);
    assert!(why.contains("80000 bytes"), "{why}");
    alone.forget();
    let (code, why) = broken("deep", params![y.at]);
    assert_eq!(code, Code::CUDA_ERROR_ILLEGAL_ADDRESS, "{why}");
    alone.forget();
}

#[test]
fn a_launch_that_no_card_takes_is_refused_at_once() {
    let alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let (x, y) = (Memory::of(&floats(8)), Memory::<f32>::empty(8));
    let stream = std::ptr::null_mut();
    let launch =
        |grid, threads, shared| module.launch("add_one", grid, threads, shared, stream, params![y.at, x.at, 8u32]);
    assert_eq!(launch((1, 65536, 1), 256, 0), Err(Code::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch((0, 1, 1), 256, 0), Err(Code::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch((1, 1, 1), 1056, 0), Err(Code::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch((1, 1, 1), 288, 0), Err(Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
    assert_eq!(launch((1, 1, 1), 256, 50 << 10), Err(Code::CUDA_ERROR_INVALID_VALUE));
    assert_eq!(launch((1, 1, 1), 256, 48 << 10), Ok(()));
    alone.forget();
}

#[test]
fn what_nobody_wrote_is_not_a_number() {
    let _alone = card().alone();
    let (_context, module) = (Context::new(), Module::new());
    let (x, y) = (Memory::<f32>::empty(32), Memory::<f32>::empty(32));
    module.run("unwritten", 1, params![y.at, x.at]).unwrap();
    assert!(y.read().iter().all(|v| v.is_nan()));
}
