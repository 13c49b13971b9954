//! Two phases: the first checks and makes an executor, the second queues it, once.

use std::ffi::c_void;

use crate::codes::{Code, NN_INNER, NN_INVALID, NN_NULL, STREAM_CONTEXT};
use crate::streams::{Command, Work};
use crate::tensors::Shared;
use crate::world::{Object, Refused, World, call, refused};

/// What a first phase leaves for the second.
pub(crate) struct Executor {
    of: String,
    workspace: u64,
    work: Work,
    /// Tensors that must live until the second phase.
    uses: Vec<usize>,
    /// Addresses of their storage, which must lie on one device.
    device: usize,
}

/// What an operator does with its operands: its workspace and its work.
pub(crate) struct Prepared {
    pub(crate) workspace: u64,
    pub(crate) work: Work,
}

impl Prepared {
    /// Work that needs no workspace.
    pub(crate) fn new(
        work: impl FnOnce(&mut crate::memory::Memory) -> Result<(), String> + Send + 'static,
    ) -> Prepared {
        Prepared { workspace: 0, work: Box::new(work) }
    }
}

/// The operands of a first phase, taken by their handles.
pub(crate) struct Operands<'w> {
    pub(crate) world: &'w mut World,
    pub(crate) device: usize,
    uses: Vec<usize>,
}

impl Operands<'_> {
    /// A tensor that must be given, checked against the rules for all.
    ///
    /// # Errors
    /// There is none, or it breaks a rule.
    pub(crate) fn tensor(&mut self, handle: *const c_void, what: &str) -> Result<Shared, Refused> {
        if handle.is_null() {
            return refused(NN_NULL, format!("{what} is null"));
        }
        let Some(Object::Tensor(tensor)) = self.world.objects.get(&(handle as usize)) else {
            return refused(NN_INVALID, format!("{what} is no tensor; was it destroyed?"));
        };
        let tensor = tensor.clone();
        self.uses.push(handle as usize);
        let invalid = |why: String| (NN_INVALID, format!("{what}: {why}"));
        tensor.check().map_err(invalid)?;
        let bytes = tensor.storage_bytes();
        if bytes == 0 {
            return Ok(tensor);
        }
        if !tensor.data.is_multiple_of(64) {
            return refused(NN_INVALID, format!("{what} starts at {:#x}, which is no multiple of 64", tensor.data));
        }
        self.world.memory.read(tensor.data, bytes).map_err(invalid)?;
        match self.world.memory.around(tensor.data) {
            Some((_, _, crate::memory::Home::Device(d))) if d == self.device => Ok(tensor),
            _ => refused(NN_INVALID, format!("{what} is not in memory of device {}", self.device)),
        }
    }

    /// A tensor that may be left out.
    ///
    /// # Errors
    /// As [`Operands::tensor`].
    pub(crate) fn optional(&mut self, handle: *const c_void, what: &str) -> Result<Option<Shared>, Refused> {
        if handle.is_null() { Ok(None) } else { self.tensor(handle, what).map(Some) }
    }

    /// The tensors of a list.
    ///
    /// # Errors
    /// As [`Operands::tensor`].
    pub(crate) fn list(&mut self, handle: *const c_void, what: &str) -> Result<Vec<Shared>, Refused> {
        let Some(Object::List(list)) = self.world.objects.get(&(handle as usize)) else {
            return refused(NN_INVALID, format!("{what} is no list of tensors"));
        };
        let list = list.clone();
        list.into_iter().map(|t| self.tensor(t as *const c_void, what)).collect()
    }

    /// A scalar.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn scalar(&mut self, handle: *const c_void, what: &str) -> Result<f64, Refused> {
        match self.world.objects.get(&(handle as usize)) {
            Some(Object::Scalar(value)) => Ok(*value),
            _ => refused(NN_INVALID, format!("{what} is no scalar")),
        }
    }

    /// Integers of the host.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn ints(&mut self, handle: *const c_void, what: &str) -> Result<Vec<i64>, Refused> {
        match self.world.objects.get(&(handle as usize)) {
            Some(Object::Ints(list)) => Ok(list.clone()),
            _ => refused(NN_INVALID, format!("{what} is no array of integers")),
        }
    }
}

/// The first phase of an operator.
pub(crate) fn first(
    name: &str,
    size: *mut u64,
    executor: *mut *mut c_void,
    prepare: impl FnOnce(&mut Operands<'_>) -> Result<Prepared, Refused>,
) -> Code {
    call(name, |w| {
        if size.is_null() || executor.is_null() {
            return refused(NN_NULL, "the size or the executor has no place");
        }
        let device = w.device()?;
        let mut operands = Operands { world: w, device, uses: Vec::new() };
        let prepared = prepare(&mut operands)?;
        let uses = operands.uses;
        let handle = w.handle();
        let of = name.trim_end_matches("GetWorkspaceSize").to_string();
        w.executors.insert(handle, Executor { of, workspace: prepared.workspace, work: prepared.work, uses, device });
        // SAFETY: both are not null, and the caller's.
        unsafe {
            *size = prepared.workspace;
            *executor = handle as *mut c_void;
        }
        Ok(())
    })
}

/// The second phase of an operator.
pub(crate) fn second(
    name: &'static str,
    workspace: *mut c_void,
    size: u64,
    executor: *mut c_void,
    stream: *mut c_void,
) -> Code {
    call(name, |w| {
        let device = w.device()?;
        let Some(e) = w.executors.remove(&(executor as usize)) else {
            return refused(
                NN_INNER,
                "the executor is none; one runs once, and a repeated call needs a new first phase",
            );
        };
        if e.of != name {
            return refused(NN_INNER, format!("the executor is of {}", e.of));
        }
        if e.device != device {
            return refused(NN_INNER, "the executor is of another device");
        }
        if let Some(gone) = e.uses.iter().find(|t| !w.objects.contains_key(t)) {
            return refused(NN_INNER, format!("tensor {gone:#x} was destroyed before the second phase"));
        }
        let Some(s) = w.streams.get(&(stream as usize)) else { return refused(NN_INNER, "the stream is none") };
        if s.context != crate::world::current() {
            return refused(STREAM_CONTEXT, "the stream is of another context");
        }
        if let Some(code) = s.failed.filter(|_| s.stops) {
            return refused(code, "the stream failed before");
        }
        let at = workspace as usize;
        if e.workspace > 0 {
            if size < e.workspace {
                return refused(NN_INNER, format!("a workspace of {size} bytes, and {} were told", e.workspace));
            }
            if !at.is_multiple_of(64) || at == 0 {
                return refused(NN_INNER, "the workspace starts on no multiple of 64");
            }
            w.memory.read(at, size as usize).map_err(|why| (NN_INNER, format!("the workspace: {why}")))?;
        }
        let (work, bytes) = (e.work, e.workspace as usize);
        let scribbled: Work = Box::new(move |memory| {
            // The workspace is the operator's to spoil.
            memory.write(at, bytes).map_err(|why| format!("the workspace: {why}"))?.fill(0xA5);
            work(memory)
        });
        let s = w.streams.get_mut(&(stream as usize)).expect("it was there just now");
        s.queue.push_back(Command::Run(name, scribbled));
        Ok(())
    })
}
