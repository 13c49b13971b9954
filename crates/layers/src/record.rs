//! A log of the calls that a device receives, in order, with their sizes.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qiao_core::{
    Binding, Buffer, Device, DeviceInfo, Error, Event, Graph, HostMemory, NodeSupport, Plan, PlanInfo, Result, Stream,
    TensorDesc,
};

/// One call at the contract. Streams and plans are numbered from 0 in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// [`Device::alloc`].
    Alloc {
        /// The memory.
        memory: usize,
        /// Bytes asked for.
        bytes: usize,
    },
    /// [`Device::import`].
    Import {
        /// Bytes wrapped.
        bytes: usize,
    },
    /// [`Device::stream`].
    Stream {
        /// The new stream.
        stream: usize,
    },
    /// [`Device::event`].
    Event,
    /// [`Device::support`].
    Support {
        /// Nodes asked about.
        nodes: usize,
    },
    /// [`Device::plan`].
    Plan {
        /// The new plan.
        plan: usize,
        /// Nodes of its graph.
        nodes: usize,
        /// Bound tensors of its graph.
        bound: usize,
    },
    /// [`Device::prepack`].
    Prepack {
        /// The stream.
        stream: usize,
        /// The private layout.
        layout: u64,
        /// Bytes of the source's binding.
        src: usize,
        /// Bytes of the destination's binding.
        dst: usize,
    },
    /// [`Stream::upload`].
    Upload {
        /// The stream.
        stream: usize,
        /// Bytes.
        bytes: usize,
    },
    /// [`Stream::download`].
    Download {
        /// The stream.
        stream: usize,
        /// Bytes.
        bytes: usize,
    },
    /// [`Stream::copy`].
    Copy {
        /// The stream.
        stream: usize,
        /// Bytes of the source.
        bytes: usize,
    },
    /// [`Stream::fill`].
    Fill {
        /// The stream.
        stream: usize,
        /// Bytes.
        bytes: usize,
        /// The value.
        byte: u8,
    },
    /// [`Stream::sync`].
    Sync {
        /// The stream.
        stream: usize,
    },
    /// [`Stream::record`].
    Record {
        /// The stream.
        stream: usize,
    },
    /// [`Stream::wait`].
    Wait {
        /// The stream.
        stream: usize,
    },
    /// [`Plan::execute`].
    Execute {
        /// The stream.
        stream: usize,
        /// The plan.
        plan: usize,
        /// Bytes of each binding.
        bindings: Vec<usize>,
        /// Bytes of the workspace's binding.
        workspace: usize,
    },
}

/// A call and how it ended.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The call.
    pub call: Call,
    /// The error it returned, if it failed.
    pub error: Option<Error>,
}

#[derive(Default)]
struct Log {
    entries: Mutex<Vec<Entry>>,
    streams: AtomicUsize,
    plans: AtomicUsize,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a call that has returned.
    fn enter<T>(&self, call: Call, result: Result<T>) -> Result<T> {
        self.lock().push(Entry { call, error: result.as_ref().err().cloned() });
        result
    }
}

/// A device that keeps a log of its calls. The log grows until it is taken.
pub struct Record {
    inner: Arc<dyn Device>,
    log: Arc<Log>,
}

impl Record {
    /// Puts a log in front of a device.
    pub fn new(inner: Arc<dyn Device>) -> Arc<Self> {
        Arc::new(Record { inner, log: Arc::default() })
    }

    /// Takes the log: the calls since the last time, in the order in which they returned.
    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.log.lock())
    }

    /// Takes the log, without how calls ended.
    pub fn calls(&self) -> Vec<Call> {
        self.take().into_iter().map(|e| e.call).collect()
    }
}

impl Device for Record {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.log.enter(Call::Alloc { memory, bytes }, self.inner.alloc(memory, bytes))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        let number = self.log.streams.fetch_add(1, Ordering::Relaxed);
        let inner = self.log.enter(Call::Stream { stream: number }, self.inner.stream())?;
        Ok(Box::new(LoggedStream { inner, number, log: self.log.clone() }))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        self.log.enter(Call::Event, self.inner.event())
    }

    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.log.enter(Call::Import { bytes }, self.inner.import(memory, offset, bytes))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let answers = self.inner.support(graph);
        self.log.lock().push(Entry { call: Call::Support { nodes: graph.nodes().len() }, error: None });
        answers
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        let number = self.log.plans.fetch_add(1, Ordering::Relaxed);
        let call = Call::Plan { plan: number, nodes: graph.nodes().len(), bound: graph.bound().len() };
        let inner = self.log.enter(call, self.inner.plan(graph))?;
        Ok(Arc::new(LoggedPlan { inner, number, log: self.log.clone() }))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        self.inner.prepack_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        let stream = own_stream(stream, &self.log)?;
        let call = Call::Prepack { stream: stream.number, layout, src: src.bytes, dst: dst.bytes };
        self.log.enter(call, self.inner.prepack(&mut *stream.inner, tensor, src, layout, dst))
    }
}

fn own_stream<'a>(stream: &'a mut dyn Stream, log: &Arc<Log>) -> Result<&'a mut LoggedStream> {
    match (stream as &mut dyn Any).downcast_mut::<LoggedStream>() {
        Some(own) if Arc::ptr_eq(&own.log, log) => Ok(own),
        _ => Err(Error::invalid("stream", "it is of another device", "make it with Device::stream of this one")),
    }
}

struct LoggedStream {
    inner: Box<dyn Stream>,
    number: usize,
    log: Arc<Log>,
}

impl Stream for LoggedStream {
    fn set_patience(&mut self, limit: Duration) {
        self.inner.set_patience(limit);
    }

    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        let call = Call::Upload { stream: self.number, bytes: src.len() };
        self.log.enter(call, self.inner.upload(dst, src))
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        let call = Call::Download { stream: self.number, bytes: dst.len() };
        self.log.enter(call, self.inner.download(dst, src))
    }

    fn copy(&mut self, dst: &Binding, src: &Binding) -> Result<()> {
        let call = Call::Copy { stream: self.number, bytes: src.bytes };
        self.log.enter(call, self.inner.copy(dst, src))
    }

    fn fill(&mut self, dst: &Binding, byte: u8) -> Result<()> {
        let call = Call::Fill { stream: self.number, bytes: dst.bytes, byte };
        self.log.enter(call, self.inner.fill(dst, byte))
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.log.enter(Call::Sync { stream: self.number }, self.inner.sync(timeout))
    }

    fn record(&mut self, event: &dyn Event) -> Result<()> {
        self.log.enter(Call::Record { stream: self.number }, self.inner.record(event))
    }

    fn wait(&mut self, event: &dyn Event) -> Result<()> {
        self.log.enter(Call::Wait { stream: self.number }, self.inner.wait(event))
    }
}

struct LoggedPlan {
    inner: Arc<dyn Plan>,
    number: usize,
    log: Arc<Log>,
}

impl Plan for LoggedPlan {
    fn info(&self) -> PlanInfo {
        self.inner.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = own_stream(stream, &self.log)?;
        let call = Call::Execute {
            stream: stream.number,
            plan: self.number,
            bindings: bindings.iter().map(|b| b.bytes).collect(),
            workspace: workspace.bytes,
        };
        self.log.enter(call, self.inner.execute(&mut *stream.inner, bindings, workspace))
    }
}
