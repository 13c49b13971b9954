//! A chip that refuses what the tests choose, with memory of its own that no other device reads, and a log of what moves.
#![allow(dead_code, reason = "every test binary uses a part")]

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use qiao_core::*;
use qiao_layers::Home;
use qiao_layers::Lowered;
use qiao_reference::ReferenceDevice;

/// What crossed the border, and what the chip was told to do.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) down: AtomicU64,
    pub(crate) up: AtomicU64,
    pub(crate) downloads: AtomicU64,
    pub(crate) uploads: AtomicU64,
    pub(crate) plans: AtomicU64,
    /// Uploads, downloads and waits.
    pub(crate) commands: AtomicU64,
    /// Commands hang: waits end when patience does.
    pub(crate) hangs: AtomicBool,
    /// Milliseconds that every wait takes.
    pub(crate) slow: AtomicU64,
}

impl Log {
    /// Bytes down and up since the last call.
    pub(crate) fn take(&self) -> (u64, u64) {
        (self.down.swap(0, Ordering::Relaxed), self.up.swap(0, Ordering::Relaxed))
    }
}

pub(crate) struct Chip {
    pub(crate) info: DeviceInfo,
    inner: ReferenceDevice,
    pub(crate) refused: Vec<OpKind>,
    pub(crate) log: Arc<Log>,
}

impl Chip {
    pub(crate) fn new(refused: &[OpKind], multi_op: bool) -> Chip {
        let inner = ReferenceDevice::default();
        let mut info =
            DeviceInfo { name: "chip".into(), tensor_align: 64, tensor_tail_pad: 16, ..inner.info().clone() };
        info.memories[0].base_align = 64;
        info.caps.multi_op = multi_op;
        Chip { info, inner, refused: refused.to_vec(), log: Arc::default() }
    }
}

/// Memory of the chip.
struct Own(Arc<dyn Buffer>);

impl Buffer for Own {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

fn inside(binding: &Binding) -> Result<Binding> {
    let own = binding.buffer.downcast::<Own>();
    let own = own.ok_or_else(|| Error::invalid("buffer", "it is not of the chip", "move it there"))?;
    Ok(Binding { buffer: own.0.clone(), ..binding.clone() })
}

impl Device for Chip {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        Ok(Arc::new(Own(self.inner.alloc(memory, bytes)?)))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(ChipStream { inner: self.inner.stream()?, log: self.log.clone(), patience: Duration::MAX }))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let refuse = |node: NodeView<'_>| self.refused.contains(&node.kind());
        let answer = |(node, answer)| if refuse(node) { NodeSupport::no(Reason::operator()) } else { answer };
        graph.views().zip(self.inner.support(graph)).map(answer).collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        assert!(self.info.caps.multi_op || graph.nodes().len() == 1, "it plans single operators");
        self.log.plans.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(ChipPlan(self.inner.plan(graph)?)))
    }
}

struct ChipPlan(Arc<dyn Plan>);

impl Plan for ChipPlan {
    fn info(&self) -> PlanInfo {
        self.0.info()
    }

    fn execute(&self, stream: &mut dyn Stream, bindings: &[Binding], workspace: &Binding) -> Result<()> {
        let stream = (stream as &mut dyn Any).downcast_mut::<ChipStream>().expect("a stream of the chip");
        let bindings = bindings.iter().map(inside).collect::<Result<Vec<_>>>()?;
        self.0.execute(&mut *stream.inner, &bindings, &inside(workspace)?)
    }
}

struct ChipStream {
    inner: Box<dyn Stream>,
    log: Arc<Log>,
    patience: Duration,
}

impl ChipStream {
    /// A command that waits: without end where the chip hangs, but for the patience.
    fn respond(&self) -> Result<()> {
        self.log.commands.fetch_add(1, Ordering::Relaxed);
        if self.log.hangs.load(Ordering::Relaxed) {
            assert!(self.patience < Duration::MAX, "this wait would never end");
            return Err(Error::Timeout { what: "chip".into(), millis: self.patience.as_millis() as u64 });
        }
        Ok(())
    }
}

impl Stream for ChipStream {
    fn set_patience(&mut self, limit: Duration) {
        self.patience = limit;
    }

    fn upload(&mut self, dst: &Binding, src: &[u8]) -> Result<()> {
        self.respond()?;
        self.log.up.fetch_add(src.len() as u64, Ordering::Relaxed);
        self.log.uploads.fetch_add(1, Ordering::Relaxed);
        self.inner.upload(&inside(dst)?, src)
    }

    fn download(&mut self, dst: &mut [u8], src: &Binding) -> Result<()> {
        self.respond()?;
        self.log.down.fetch_add(dst.len() as u64, Ordering::Relaxed);
        self.log.downloads.fetch_add(1, Ordering::Relaxed);
        self.inner.download(dst, &inside(src)?)
    }

    fn sync(&mut self, timeout: Duration) -> Result<()> {
        self.respond()?;
        std::thread::sleep(Duration::from_millis(self.log.slow.load(Ordering::Relaxed)));
        self.inner.sync(timeout)
    }
}

/// A chip with the three required methods and nothing else.
pub(crate) struct Bare(pub(crate) Chip);

impl Device for Bare {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        self.0.alloc(memory, bytes)
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.0.stream()
    }
}

/// A lowered graph with everything bound where it lives.
pub(crate) struct Bound<'a> {
    pub(crate) lowered: &'a Lowered,
    pub(crate) bindings: Vec<Binding>,
    workspace: Binding,
    pub(crate) stream: Box<dyn Stream>,
    host: Box<dyn Stream>,
}

impl<'a> Bound<'a> {
    /// Binds these bytes to the bound tensors.
    pub(crate) fn new(
        device: &Arc<dyn Device>,
        host: &Arc<dyn Device>,
        lowered: &'a Lowered,
        data: &[Vec<u8>],
    ) -> Bound<'a> {
        let (mut stream, mut own) = (device.stream().unwrap(), host.stream().unwrap());
        let mut bindings = Vec::new();
        for (bytes, home) in data.iter().zip(&lowered.homes) {
            let (device, stream) = match home {
                Home::Device => (device, &mut stream),
                Home::Host => (host, &mut own),
            };
            let buffer = device.alloc(0, bytes.len() + device.info().tensor_tail_pad).unwrap();
            let binding = Binding::part(&buffer, 0, bytes.len());
            stream.upload(&binding, bytes).unwrap();
            bindings.push(binding);
        }
        for pack in &lowered.packs {
            let (device, stream) = match pack.home {
                Home::Device => (device, &mut stream),
                Home::Host => (host, &mut own),
            };
            let buffer = device.alloc(0, pack.bytes + device.info().tensor_tail_pad).unwrap();
            let packed = Binding::part(&buffer, 0, pack.bytes);
            device.prepack(&mut **stream, &pack.tensor, &bindings[pack.bound], pack.layout, &packed).unwrap();
            bindings[pack.bound] = packed;
        }
        let workspace = Binding::whole(device.alloc(0, lowered.info().workspace_bytes).unwrap());
        Bound { lowered, bindings, workspace, stream, host: own }
    }

    pub(crate) fn execute(&mut self) -> Result<()> {
        self.lowered.execute(&mut *self.stream, &self.bindings, &self.workspace)
    }

    /// The bytes of a bound tensor.
    pub(crate) fn read(&mut self, position: usize) -> Vec<u8> {
        let binding = &self.bindings[position];
        let mut bytes = vec![0; binding.bytes];
        let stream = match self.lowered.homes[position] {
            Home::Device => &mut self.stream,
            Home::Host => &mut self.host,
        };
        stream.download(&mut bytes, binding).unwrap();
        bytes
    }
}
