//! The contract: [`Backend`] → [`Device`] → {[`Buffer`], [`Stream`] → [`Event`], [`Plan`]}.
//!
//! Object-safe throughout. Any call may come from any thread; there is no current device. A [`Stream`] runs its
//! commands in order; its first failure is kept and every later command on it answers [`Error::Poisoned`]. Work on
//! different streams is ordered by events alone, and so are two commands on different streams that touch the same
//! bytes.
//!
//! A call whose arguments are refused is no failure: it answers [`Error::Invalid`] or another error, does nothing, and
//! leaves stream and device as they were. Everything may be dropped in any order, with work pending: streams, buffers,
//! events and plans stay usable after the device handle that made them is dropped, and dropping a stream does not
//! cancel what it was given.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::attrs::KvLayout;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::event::{Event, HostEvent};
use crate::graph::Graph;
use crate::shape::TensorDesc;
use crate::support::{NodeSupport, Reason};

/// A way to reach devices: a driver, a library, a plugin.
pub trait Backend: Send + Sync {
    /// The name that stands before the colon of a device name, e.g. `cpu`.
    fn name(&self) -> &str;

    /// The devices of this machine.
    ///
    /// # Errors
    /// [`Error::NotPresent`] where the driver or the chip is not on this machine.
    fn devices(&self) -> Result<Vec<DeviceInfo>>;

    /// Opens the device at this position of [`Backend::devices`].
    ///
    /// # Errors
    /// [`Error::NotPresent`] as above; [`Error::Invalid`] for a position that is not there.
    fn open(&self, ordinal: usize) -> Result<Arc<dyn Device>>;
}

/// What an allocation of a memory is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryKind {
    /// Near the chip.
    pub device_local: bool,
    /// In the same memory as the host, so that copies cost no transfer.
    pub host_visible: bool,
    /// Page-locked.
    pub pinned: bool,
}

/// One memory of a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryInfo {
    /// What it is good for.
    pub kind: MemoryKind,
    /// Bytes in all; 0 = not known.
    pub total_bytes: u64,
    /// Bytes free when asked; 0 = not known.
    pub free_bytes: u64,
    /// Bytes of the largest single allocation; 0 = not known.
    pub max_alloc: u64,
    /// Every allocation starts on a multiple of this, which is a multiple of [`DeviceInfo::tensor_align`].
    pub base_align: usize,
    /// Declared peak in bytes per second; 0 = not declared.
    pub peak_bytes_per_s: f64,
}

/// One dtype of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct DtypeInfo {
    /// The dtype.
    pub dtype: DType,
    /// Whether kernels compute in it, not only store it.
    pub compute: bool,
    /// Declared dense peak in operations per second; 0 = not declared.
    pub peak_ops_per_s: f64,
}

/// One layout of KV cache pages that a device's attention reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvInfo {
    /// The layout.
    pub layout: KvLayout,
    /// Tokens a block; 0 = any.
    pub block_size: usize,
}

/// What a device can do beyond the three required methods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caps {
    /// [`Device::plan`] takes graphs of more than one node.
    pub multi_op: bool,
    /// [`Device::import`] wraps host memory without a copy.
    pub import_host: bool,
    /// Kernels take strided operands.
    pub strided: bool,
    /// Indices may be i64.
    pub index_i64: bool,
    /// The same plan on the same bytes gives the same bytes.
    pub deterministic: bool,
    /// A row of a result depends on its own row of the operands alone, bit for bit: not on how many others there are or on where
    /// it stands. So is a query of attention: it depends on the keys and values that it sees by their positions, not on the other
    /// queries of the call, on pages, or on whether it is decoded or one of a prompt.
    pub batch_invariant: bool,
    /// Subnormal numbers are flushed to zero.
    pub flush_subnormals: bool,
}

/// What a device is, as it declares itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceInfo {
    /// Its name, for people, e.g. the chip's marketing name; never empty.
    pub name: String,
    /// Its maker.
    pub vendor: String,
    /// Its architecture, e.g. `avx512` or `sm_90`.
    pub arch: String,
    /// The driver's version.
    pub driver: String,
    /// Its memories, at least one; the first is where tensors go.
    pub memories: Vec<MemoryInfo>,
    /// Its dtypes, each once.
    pub dtypes: Vec<DtypeInfo>,
    /// Its KV cache layouts, each once, the preferred one first.
    pub kv: Vec<KvInfo>,
    /// What it can do.
    pub caps: Caps,
    /// Every tensor inside a buffer starts on a multiple of this power of two.
    pub tensor_align: usize,
    /// Bytes that must be allocated after every tensor; at most 1 MiB.
    pub tensor_tail_pad: usize,
    /// Where the declared peaks come from; not empty where one is declared.
    pub peak_source: String,
}

/// Memory of a device: an opaque handle, addressed as handle + offset + bytes. Released when the last reference and
/// all queued work that uses it are gone.
pub trait Buffer: Any + Send + Sync {
    /// Its size in bytes: at least what was asked for, and always the same.
    fn bytes(&self) -> usize;
}

impl fmt::Debug for dyn Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes())
    }
}

/// How a backend finds its own buffer behind a handle.
pub trait BufferExt {
    /// The buffer as the backend's own type, if it is one.
    fn downcast<T: Buffer>(&self) -> Option<&T>;
}

impl BufferExt for dyn Buffer {
    fn downcast<T: Buffer>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// A range of a buffer.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The buffer.
    pub buffer: Arc<dyn Buffer>,
    /// The first byte.
    pub offset: usize,
    /// How many bytes.
    pub bytes: usize,
}

impl Binding {
    /// The whole of a buffer.
    pub fn whole(buffer: Arc<dyn Buffer>) -> Self {
        let bytes = buffer.bytes();
        Binding { buffer, offset: 0, bytes }
    }

    /// A part of a buffer.
    pub fn part(buffer: &Arc<dyn Buffer>, offset: usize, bytes: usize) -> Self {
        Binding { buffer: buffer.clone(), offset, bytes }
    }

    /// Checks that the range lies in its buffer and holds at least `need` bytes.
    ///
    /// # Errors
    /// Names `what` and the range.
    pub fn check(&self, what: &str, need: usize) -> Result<()> {
        let end = self.offset.checked_add(self.bytes);
        if end.is_none_or(|end| end > self.buffer.bytes()) {
            let found = format!("bytes {} + {} of a buffer of {}", self.offset, self.bytes, self.buffer.bytes());
            return Err(Error::invalid(format!("binding of '{what}'"), found, "stay within the buffer"));
        }
        if self.bytes < need {
            let found = format!("{} bytes", self.bytes);
            return Err(Error::invalid(format!("binding of '{what}'"), found, format!("give it {need} bytes")));
        }
        Ok(())
    }
}

impl Graph {
    /// Checks count, size and bounds of bindings. Cheap enough for every execute.
    ///
    /// # Errors
    /// The first binding that does not fit.
    pub fn check_bindings(&self, bindings: &[Binding]) -> Result<()> {
        if bindings.len() != self.bound().len() {
            let found = format!("{} were given", bindings.len());
            return Err(Error::invalid(
                "bindings",
                found,
                format!("give {}, one per bound tensor", self.bound().len()),
            ));
        }
        for (&id, binding) in self.bound().iter().zip(bindings) {
            let tensor = self.tensor(id);
            let need = if tensor.desc.layout == 0 { tensor.desc.bytes()? } else { 0 };
            binding.check(&tensor.name, need)?;
        }
        Ok(())
    }
}

/// Host memory that outlives its borrower, such as a mapped file.
pub trait HostMemory: Send + Sync {
    /// The bytes. The same bytes at the same address on every call.
    fn bytes(&self) -> &[u8];

    /// Hears that the borrower has read what it needs of a range for now, so that its pages may leave memory until they
    /// are read again. Default: nothing.
    fn cold(&self, range: std::ops::Range<usize>) {
        let _ = range;
    }
}

/// A chip, opened. Three methods are required; a device with no more runs the device part of the conformance suite.
pub trait Device: Send + Sync {
    /// What it is. Required.
    fn info(&self) -> &DeviceInfo;

    /// Allocates from the memory at this position of [`DeviceInfo::memories`]; what it holds is not defined. 0 bytes are
    /// an allocation like any other. Required.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`]; the device stays usable. [`Error::Invalid`] for a position that is not there.
    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>>;

    /// A new stream. Required.
    ///
    /// # Errors
    /// The driver's.
    fn stream(&self) -> Result<Box<dyn Stream>>;

    /// A new event, not yet recorded. Default: one that synchronises the stream when recorded.
    ///
    /// # Errors
    /// The driver's.
    fn event(&self) -> Result<Arc<dyn Event>> {
        Ok(Arc::new(HostEvent::default()))
    }

    /// Wraps host memory as a read-only buffer without a copy. Default: unsupported, and the caller uploads.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where [`Caps::import_host`] is off.
    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        let _ = (memory, offset, bytes);
        Err(Error::Unsupported { device: self.info().name.clone(), list: Vec::new() })
    }

    /// One answer per node: a pure function of the graph and the device. Default: no kernels.
    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        graph.views().map(|_| NodeSupport::no(Reason::operator())).collect()
    }

    /// Prepares a graph whose every node [`Device::support`] calls native. May take long. Default: no kernels.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with every node that is refused.
    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        Err(refuse(self.info(), graph, &self.support(graph)))
    }

    /// Bytes that a constant tensor takes in a private layout that [`Device::support`] asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a layout that the device did not ask for.
    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        let found = format!("{} has none", self.info().name);
        Err(Error::invalid(format!("private layout {layout:#x} of {tensor}"), found, "ask only for layouts it named"))
    }

    /// Converts a constant tensor into a private layout, in stream order; the source may be dropped afterwards.
    ///
    /// The bytes follow from tensor and layout alone, and a layout's number stands for one order of bytes for good: where the device
    /// can [`import`](Device::import), its plans may be bound to memory that holds what another process got here.
    ///
    /// # Errors
    /// As [`Device::prepack_bytes`].
    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        let _ = (stream, src, dst);
        self.prepack_bytes(tensor, layout).map(|_| ())
    }
}

/// The error that lists every node a device refuses.
pub fn refuse(info: &DeviceInfo, graph: &Graph, answers: &[NodeSupport]) -> Error {
    let list = graph.views().zip(answers).filter_map(|(node, s)| match &s.answer {
        crate::support::Support::No(reason) => {
            Some(crate::error::Unsupported { node: node.index, op: node.kind().name(), reason: reason.clone() })
        }
        _ => None,
    });
    Error::Unsupported { device: info.name.clone(), list: list.collect() }
}

/// A queue of commands that run in order. The first failure is kept: later commands answer [`Error::Poisoned`].
///
/// Ranges may start at any byte and hold any number of bytes, 0 included.
pub trait Stream: Any + Send {
    /// Bounds how long any later call may wait for the device: one that would wait longer answers [`Error::Timeout`], and
    /// the stream stays usable. Without a bound a call waits for as long as it takes. Default: nothing, for streams whose
    /// commands cannot hang.
    fn set_patience(&mut self, limit: Duration) {
        let _ = limit;
    }

    /// Copies host bytes to the start of `dst`, which holds at least as many. Returns when `src` may be reused.
    ///
    /// # Errors
    /// A range outside the buffer, or the stream's first failure.
    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()>;

    /// Fills `dst` from the start of `src`, which holds at least as many bytes, after all earlier commands. Returns when
    /// it is filled.
    ///
    /// # Errors
    /// As [`Stream::upload`].
    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()>;

    /// Copies all of `src` to the start of `dst`, which holds at least as many bytes. Ranges that overlap are copied as if
    /// through the host, or refused. Default: through the host.
    ///
    /// # Errors
    /// As [`Stream::upload`].
    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        src.check("copy source", 0)?;
        dst.check("copy destination", src.bytes)?;
        let mut bytes = vec![0; src.bytes];
        self.download(&mut bytes, src)?;
        self.upload(dst, &bytes)
    }

    /// Sets every byte of a range. Default: an upload.
    ///
    /// # Errors
    /// As [`Stream::upload`].
    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        dst.check("fill", 0)?;
        self.upload(dst, &vec![byte; dst.bytes])
    }

    /// Waits until every earlier command is done, at most this long; no time at all only asks. After a failure, too: once that is
    /// told, nothing that was queued runs any more.
    ///
    /// # Errors
    /// [`Error::Timeout`], after which the stream is as before; the stream's first failure.
    fn sync(&mut self, timeout: Duration) -> Result<()>;

    /// Marks this point of the stream in an event, in place of what it marked before. Default: waits for the stream, then
    /// marks.
    ///
    /// # Errors
    /// The event is of another backend; the stream's first failure, with which the event is marked, too.
    fn record(&mut self, event: &dyn Event) -> Result<()> {
        let result = self.sync(Duration::MAX);
        match (event as &dyn Any).downcast_ref::<HostEvent>() {
            Some(event) => event.mark(result.clone().err()),
            None => {
                return Err(Error::invalid("event", "it is of another device", "record events on their own device"));
            }
        }
        result
    }

    /// Makes later commands wait for the point that an event marks now: recording it again does not move the wait, and
    /// one that was never recorded is no wait. The event may be dropped at once. Default: waits on the host.
    ///
    /// # Errors
    /// The event's own error.
    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        event.sync(Duration::MAX)
    }
}

/// What a plan needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlanInfo {
    /// Bytes of workspace for each execution in flight.
    pub workspace_bytes: usize,
    /// The workspace starts on a multiple of this.
    pub workspace_align: usize,
    /// Bytes that the plan itself holds on the device.
    pub resident_bytes: usize,
}

/// A prepared graph. Any number of executions may be in flight, on different streams with different bindings and
/// workspaces.
pub trait Plan: Any + Send + Sync {
    /// What it needs.
    fn info(&self) -> PlanInfo;

    /// Runs it: one binding per bound tensor of the graph, in order, and the workspace.
    ///
    /// # Errors
    /// Bindings that do not fit; the stream's first failure.
    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()>;
}
