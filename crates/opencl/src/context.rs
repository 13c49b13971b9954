//! A device's context, which all who opened it share: lost at most once, the count of its memory, and the keeper of host bytes
//! whose stream is gone before the device read or wrote them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use opencl3::command_queue::{CL_QUEUE_PROFILING_ENABLE, create_command_queue, release_command_queue};
use opencl3::context::context::{create_context, release_context};
use opencl3::device::{CL_DEVICE_GLOBAL_MEM_SIZE, CL_DEVICE_MAX_MEM_ALLOC_SIZE};
use opencl3::error_codes::{
    CL_DEVICE_NOT_AVAILABLE, CL_INVALID_BUFFER_SIZE, CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_HOST_MEMORY,
    CL_OUT_OF_RESOURCES,
};
use opencl3::event::{CL_EVENT_COMMAND_EXECUTION_STATUS, get_event_info, release_event};
use opencl3::memory::{CL_MEM_READ_WRITE, create_buffer, release_mem_object};
use opencl3::types::{cl_command_queue, cl_context, cl_event, cl_int, cl_mem};
use qiao_core::{Error, Result};

use crate::compile::Programs;
use crate::paths::Paths;
use crate::sys::{Found, describe};
use crate::tuning::Tuning;

/// How long the last one out waits for transfers that were queued.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// What a driver answers that gave up its context (cl_khr_terminate_context).
const CONTEXT_TERMINATED: cl_int = -1121;

/// A context of one device.
pub(crate) struct Context {
    pub(crate) found: Found,
    /// The device's name, for errors.
    pub(crate) name: String,
    pub(crate) paths: Paths,
    pub(crate) tuning: Tuning,
    pub(crate) programs: Programs,
    pub(crate) raw: cl_context,
    lost: OnceLock<String>,
    used: AtomicU64,
    orphans: Mutex<Vec<Transfer>>,
}

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Context {}
// SAFETY: as above; what changes stands behind locks.
unsafe impl Sync for Context {}

/// An in-order queue of the driver.
pub(crate) struct Queue(pub(crate) cl_command_queue);

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Queue {}

/// A point in a queue.
pub(crate) struct Mark(pub(crate) cl_event);

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Mark {}
// SAFETY: as above.
unsafe impl Sync for Mark {}

/// A memory object, counted among what its device has given.
pub(crate) struct Memory {
    context: Arc<Context>,
    pub(crate) raw: cl_mem,
    pub(crate) bytes: usize,
}

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Host bytes that the device reads or writes until a point is reached.
pub(crate) struct Transfer {
    pub(crate) done: Arc<Mark>,
    pub(crate) bytes: Vec<u8>,
}

impl Context {
    /// A context of a device.
    ///
    /// # Errors
    /// [`Error::NotPresent`] with the driver's words; what the environment asks for and the device lacks.
    pub(crate) fn new(found: Found, name: String, tuning: Tuning) -> Result<Arc<Context>> {
        let paths = Paths::of(&found, &name)?;
        let raw = create_context(&[found.device.0], std::ptr::null(), None, std::ptr::null_mut())
            .map_err(|code| Error::not_present(&*name, format!("it can't be opened: {}", describe(code))))?;
        Ok(Arc::new(Context {
            found,
            name,
            paths,
            tuning,
            programs: Programs::default(),
            raw,
            lost: OnceLock::new(),
            used: AtomicU64::new(0),
            orphans: Mutex::default(),
        }))
    }

    fn orphans(&self) -> MutexGuard<'_, Vec<Transfer>> {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// [`Error::DeviceLost`] once the device is lost.
    pub(crate) fn alive(&self) -> Result<()> {
        match self.lost.get() {
            None => Ok(()),
            Some(why) => Err(Error::DeviceLost { device: self.name.clone(), why: why.clone() }),
        }
    }

    /// The error of a code; some of them lose the device.
    pub(crate) fn fault(&self, what: &str, code: cl_int) -> Error {
        if matches!(code, CL_DEVICE_NOT_AVAILABLE | CONTEXT_TERMINATED) {
            let why = self.lost.get_or_init(|| format!("{what}: {}", describe(code))).clone();
            return Error::DeviceLost { device: self.name.clone(), why };
        }
        match code {
            CL_MEM_OBJECT_ALLOCATION_FAILURE | CL_OUT_OF_HOST_MEMORY => self.full(0),
            _ => Error::internal(format!("{what} on {}", self.name), describe(code)),
        }
    }

    /// The answer as a result.
    ///
    /// # Errors
    /// That of the code.
    pub(crate) fn check<T>(&self, what: &str, answer: std::result::Result<T, cl_int>) -> Result<T> {
        answer.map_err(|code| self.fault(what, code))
    }

    fn full(&self, asked: usize) -> Error {
        Error::OutOfMemory { device: self.name.clone(), asked: asked as u64, free: self.free() }
    }

    /// Bytes of the device that were not given yet: OpenCL has no other way to know.
    pub(crate) fn free(&self) -> u64 {
        self.found.number(CL_DEVICE_GLOBAL_MEM_SIZE).saturating_sub(self.used.load(Ordering::Relaxed))
    }

    /// A new queue.
    ///
    /// # Errors
    /// The driver's.
    pub(crate) fn queue(&self) -> Result<Queue> {
        // SAFETY: the device is that of the context.
        let queue = unsafe { create_command_queue(self.raw, self.found.device.0, CL_QUEUE_PROFILING_ENABLE) };
        self.check("making a stream", queue).map(Queue)
    }

    /// Keeps transfers that a stream left behind until the device is done with them.
    pub(crate) fn adopt(&self, transfers: impl Iterator<Item = Transfer>) {
        self.orphans().extend(transfers);
        self.reap();
    }

    /// Gives back the bytes of transfers that are done; how many are not.
    pub(crate) fn reap(&self) -> usize {
        let mut orphans = self.orphans();
        orphans.retain(|t| matches!(t.done.is_reached(), Ok(false)));
        orphans.len()
    }
}

impl Memory {
    /// Bytes of a device, at least one.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] with what can be had; [`Error::DeviceLost`].
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Memory> {
        context.alive()?;
        context.reap();
        let most = context.found.number(CL_DEVICE_MAX_MEM_ALLOC_SIZE);
        if most > 0 && bytes as u64 > most {
            let device = format!("{}, in one allocation", context.name);
            return Err(Error::OutOfMemory { device, asked: bytes as u64, free: most });
        }
        if bytes as u64 > context.free() {
            return Err(context.full(bytes));
        }
        // SAFETY: no host memory is given.
        match unsafe { create_buffer(context.raw, CL_MEM_READ_WRITE, bytes, std::ptr::null_mut()) } {
            Ok(raw) => {
                context.used.fetch_add(bytes as u64, Ordering::Relaxed);
                Ok(Memory { context: context.clone(), raw, bytes })
            }
            Err(
                CL_MEM_OBJECT_ALLOCATION_FAILURE | CL_OUT_OF_HOST_MEMORY | CL_OUT_OF_RESOURCES | CL_INVALID_BUFFER_SIZE,
            ) => Err(context.full(bytes)),
            Err(code) => Err(context.fault("allocating", code)),
        }
    }

    /// Whether it is of this context.
    pub(crate) fn is_of(&self, context: &Context) -> bool {
        std::ptr::eq(&*self.context, context)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.context.used.fetch_sub(self.bytes as u64, Ordering::Relaxed);
        // SAFETY: released once. The driver keeps it until commands that were queued with it are done.
        unsafe { release_mem_object(self.raw) }.ok();
    }
}

impl Mark {
    /// Whether the point is reached.
    ///
    /// # Errors
    /// The code of a command that failed.
    pub(crate) fn is_reached(&self) -> std::result::Result<bool, cl_int> {
        match cl_int::from(get_event_info(self.0, CL_EVENT_COMMAND_EXECUTION_STATUS)?) {
            0 => Ok(true),
            1.. => Ok(false),
            failed => Err(failed),
        }
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        // SAFETY: released once.
        unsafe { release_event(self.0) }.ok();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: released once. The driver runs what is queued.
        unsafe { release_command_queue(self.0) }.ok();
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        let start = Instant::now();
        while self.reap() > 0 {
            if self.lost.get().is_some() || start.elapsed() > LAST_WAIT {
                // What hangs keeps its bytes: the device may still write them.
                std::mem::take(&mut *self.orphans()).into_iter().for_each(std::mem::forget);
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.programs.clear();
        // SAFETY: released once.
        unsafe { release_context(self.raw) }.ok();
    }
}
