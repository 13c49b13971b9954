//! The simulated library holds whoever calls it to the documented rules: each is broken here once, by direct calls.

mod rig;

use std::ffi::c_void;

use qiao_simascend::{Alone, Kind};

type Handle = *mut c_void;
type Code = i32;
type First2 = unsafe extern "C" fn(*const c_void, *const c_void, *mut u64, *mut Handle) -> Code;
type Second = unsafe extern "C" fn(Handle, u64, Handle, Handle) -> Code;
type FirstMatmul = unsafe extern "C" fn(*const c_void, *const c_void, *const c_void, i8, *mut u64, *mut Handle) -> Code;
type Create = unsafe extern "C" fn(*const i64, u64, i32, *const i64, i64, i32, *const i64, u64, Handle) -> Handle;

/// A program that calls the library by hand, in a context with a stream and some memory.
struct Program<'a> {
    card: &'a Alone<'a>,
    context: Handle,
    stream: Handle,
    memory: Handle,
}

/// Asks for a function of the library and calls it.
macro_rules! call {
    ($p:expr, $name:literal ( $($arg:expr => $ty:ty),* )) => {{
        // SAFETY: the types are those of AscendCL's headers, and pointers lead to live places.
        unsafe { ($p.card.function::<unsafe extern "C" fn($($ty),*) -> Code>($name))($($arg),*) }
    }};
}

impl<'a> Program<'a> {
    fn new(card: &'a Alone<'a>) -> Self {
        let null = std::ptr::null_mut();
        let mut p = Program { card, context: null, stream: null, memory: null };
        call!(p, "aclInit"(std::ptr::null() => *const c_void));
        assert_eq!(call!(p, "aclrtCreateContext"(&mut p.context => *mut Handle, 0 => i32)), 0);
        assert_eq!(call!(p, "aclrtCreateStream"(&mut p.stream => *mut Handle)), 0);
        assert_eq!(call!(p, "aclrtMalloc"(&mut p.memory => *mut Handle, 1 << 16 => usize, 0 => i32)), 0);
        p
    }

    /// A contiguous tensor of these dims, so many bytes into the memory.
    fn tensor(&self, dtype: i32, dims: &[i64], at: usize) -> Handle {
        self.object(dtype, dims, 2, &[dims.iter().product()], at)
    }

    fn object(&self, dtype: i32, dims: &[i64], format: i32, storage: &[i64], at: usize) -> Handle {
        let mut strides = vec![1; dims.len()];
        for i in (1..dims.len()).rev() {
            strides[i - 1] = strides[i] * dims[i];
        }
        // SAFETY: the type is that of the headers; the arrays are as long as is said.
        unsafe {
            let create: Create = self.card.function("aclCreateTensor");
            let (n, m) = (dims.len() as u64, storage.len() as u64);
            create(dims.as_ptr(), n, dtype, strides.as_ptr(), 0, format, storage.as_ptr(), m, self.memory.byte_add(at))
        }
    }

    /// The first phase of `silu`: a code and an executor.
    fn silu(&self, x: Handle, y: Handle) -> (Code, u64, Handle) {
        let (mut size, mut executor) = (0, std::ptr::null_mut());
        // SAFETY: the type is that of the operator's page.
        let code = unsafe {
            let first: First2 = self.card.function("aclnnSiluGetWorkspaceSize");
            first(x, y, &mut size, &mut executor)
        };
        (code, size, executor)
    }

    fn matmul(&self, name: &str, a: Handle, b: Handle, c: Handle) -> (Code, u64, Handle) {
        let (mut size, mut executor) = (0, std::ptr::null_mut());
        // SAFETY: the type is that of the operator's page.
        let code = unsafe {
            let first: FirstMatmul = self.card.function(&format!("{name}GetWorkspaceSize"));
            first(a, b, c, 0, &mut size, &mut executor)
        };
        (code, size, executor)
    }

    fn second(&self, name: &str, workspace: Handle, size: u64, executor: Handle) -> Code {
        // SAFETY: every second phase has this type.
        unsafe { (self.card.function::<Second>(name))(workspace, size, executor, self.stream) }
    }

    fn destroy(&self, tensor: Handle) -> Code {
        call!(self, "aclDestroyTensor"(tensor => *const c_void))
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        call!(self, "aclrtSetCurrentContext"(self.context => Handle));
        call!(self, "aclrtDestroyStream"(self.stream => Handle));
        call!(self, "aclrtFree"(self.memory => Handle));
        call!(self, "aclrtDestroyContext"(self.context => Handle));
    }
}

const NULL: Handle = std::ptr::null_mut();

#[test]
fn an_executor_runs_once_and_with_its_own_second_phase() {
    let card = rig::card().alone();
    let p = Program::new(&card);
    let (x, y) = (p.tensor(0, &[16], 0), p.tensor(0, &[16], 64));
    let (code, size, executor) = p.silu(x, y);
    assert_eq!((code, size), (0, 0));
    assert_eq!(p.second("aclnnSilu", NULL, 0, executor), 0);
    assert_eq!(p.second("aclnnSilu", NULL, 0, executor), 561_000);
    assert!(card.fault().contains("runs once"), "{}", card.fault());
    let (_, _, executor) = p.silu(x, y);
    assert_eq!(p.second("aclnnRelu", NULL, 0, executor), 561_000);
    assert!(card.fault().contains("is of aclnnSilu"), "{}", card.fault());
    assert_eq!([p.destroy(x), p.destroy(y)], [0, 0]);
}

#[test]
fn tensors_start_on_64_bytes_in_one_allocation_and_live_until_the_second_phase() {
    let card = rig::card().alone();
    let p = Program::new(&card);
    let good = p.tensor(0, &[16], 0);
    for (bad, words) in [(p.tensor(0, &[16], 32), "no multiple of 64"), (p.tensor(0, &[1 << 15], 64), "pass the end")] {
        assert_eq!(p.silu(bad, good).0, 161_002);
        assert!(card.fault().contains(words), "{}", card.fault());
        p.destroy(bad);
    }
    let other = p.tensor(0, &[16], 128);
    let (_, _, executor) = p.silu(good, other);
    p.destroy(good);
    assert_eq!(p.second("aclnnSilu", NULL, 0, executor), 561_000);
    assert!(card.fault().contains("destroyed before the second phase"), "{}", card.fault());
    assert_eq!(p.destroy(good), 161_002, "it is destroyed once");
    p.destroy(other);
    assert_eq!(card.live(Kind::Tensors), 0);
}

#[test]
fn a_workspace_is_as_large_as_told_and_starts_on_64_bytes() {
    let card = rig::card().alone();
    let p = Program::new(&card);
    let t = [p.tensor(1, &[2, 32], 0), p.tensor(1, &[32, 32], 1024), p.tensor(1, &[2, 32], 8192)];
    for (at, less, words) in
        [(16384, 1, "were told"), (16384 + 8, 0, "no multiple of 64"), ((1 << 16) - 64, 0, "pass the end")]
    {
        let (code, size, executor) = p.matmul("aclnnMatmul", t[0], t[1], t[2]);
        assert!(code == 0 && size > 64);
        // SAFETY: an address that is only compared.
        let workspace = unsafe { p.memory.byte_add(at) };
        assert_eq!(p.second("aclnnMatmul", workspace, size - less, executor), 561_000);
        assert!(card.fault().contains(words), "{}", card.fault());
    }
    t.into_iter().for_each(|t| assert_eq!(p.destroy(t), 0));
}

#[test]
fn weights_in_blocks_have_the_storage_of_blocks() {
    let card = rig::card().alone();
    let p = Program::new(&card);
    let (a, c) = (p.tensor(1, &[2, 32], 0), p.tensor(1, &[2, 48], 1024));
    let right = p.object(1, &[32, 48], 29, &[3, 2, 16, 16], 8192);
    let wrong = p.object(1, &[32, 48], 29, &[2, 3, 16, 16], 8192);
    let plain = p.tensor(1, &[32, 48], 8192);
    let thin = p.object(1, &[32, 1], 29, &[1, 2, 16, 16], 8192);
    let floats = p.object(0, &[32, 48], 29, &[3, 2, 16, 16], 8192);
    assert_eq!(p.matmul("aclnnMatmulWeightNz", a, right, c).0, 0);
    for bad in [wrong, plain, thin, floats] {
        assert_eq!(p.matmul("aclnnMatmulWeightNz", a, bad, c).0, 161_002, "{}", card.fault());
    }
    assert_eq!(p.matmul("aclnnMatmul", a, right, c).0, 161_002, "the other takes ND");
    [a, c, right, wrong, plain, thin, floats].into_iter().for_each(|t| assert_eq!(p.destroy(t), 0));
    card.forget();
}

#[test]
fn a_thread_without_a_context_and_a_chip_without_bf16_are_refused() {
    let card = rig::card().alone();
    let p = Program::new(&card);
    let code = std::thread::scope(|scope| {
        let alone = scope.spawn(|| {
            let mut memory = NULL;
            call!(Bare { card: rig::card() }, "aclrtMalloc"(&mut memory => *mut Handle, 64 => usize, 0 => i32))
        });
        alone.join().unwrap()
    });
    assert_eq!(code, 107_002);
    let (x, y) = (p.tensor(27, &[16], 0), p.tensor(27, &[16], 64));
    let (code, _, executor) = p.silu(x, y);
    assert_eq!(code, 0);
    assert_eq!(call!(p, "aclDestroyAclOpExecutor"(executor => Handle)), 0);
    card.pretend(qiao_simascend::Soc::Ascend310P3);
    assert_eq!(p.silu(x, y).0, 161_002);
    assert!(card.fault().contains("bf16, which Ascend310P3 lacks"), "{}", card.fault());
    [x, y].into_iter().for_each(|t| assert_eq!(p.destroy(t), 0));
}

/// The library on a thread of its own.
struct Bare {
    card: &'static qiao_simascend::Card,
}

#[test]
fn bytes_around_an_allocation_are_watched() {
    let card = rig::card().alone();
    let p = Program::new(&card);
    let mut memory = NULL;
    assert_eq!(call!(p, "aclrtMalloc"(&mut memory => *mut Handle, 100 => usize, 0 => i32)), 0);
    // SAFETY: the padding of the allocation is there to be read, and this breaks the rule that it is not written.
    unsafe { memory.cast::<u8>().add(100).write(1) };
    assert_eq!(call!(p, "aclrtFree"(memory => Handle)), 107_000);
    assert!(card.fault().contains("bytes around"), "{}", card.fault());
    assert_eq!(call!(p, "aclrtFree"(memory => Handle)), 107_000, "it is freed once");
}
