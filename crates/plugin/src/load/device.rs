//! A device of a plugin, as the contract wants it.

use std::any::Any;
use std::sync::Arc;

use qiao_core::{
    Binding, Buffer, Device, DeviceInfo, Error, Event, Graph, HostEvent, HostMemory, NodeSupport, Plan, Reason, Result,
    Stream, Support, TensorDesc, device::refuse,
};

use super::arena::Arena;
use super::calls::{Padded, whole};
use super::event::DeviceEvent;
use super::failure::{Answer, Asked, Failure};
use super::opened::{Memory, Opened};
use super::plan::DevicePlan;
use super::slots::{Graphs, Prepack};
use super::stream::DeviceStream;
use super::support;
use crate::abi::{self, Sized32};
use crate::export::Level;

/// A device of a plugin.
pub(super) struct PluginDevice(pub(super) Arc<Opened>);

impl PluginDevice {
    /// The plugin's records for a graph.
    fn ask(&self, slots: &Graphs, arena: &Arena, count: usize) -> Answer<Vec<abi::Support>> {
        let mut records: Vec<_> = (0..count).map(|_| Padded::new(abi::Support::sized())).collect();
        let places: Vec<*mut abi::Support> = records.iter_mut().map(Padded::place).collect();
        let answer = self.0.session.calls.call("graph_support", |err| {
            // SAFETY: the device is open; arena and records are alive for the call; there is a record per operator.
            unsafe { (slots.graph_support)(self.0.raw(), arena.graph(), places.as_ptr(), err) }
        });
        let records = records.iter().map(|record| whole("graph_support", "a record", record)).collect::<Answer<_>>()?;
        answer.map(|()| records)
    }

    /// One record per node of the graph, or why there is none.
    fn records(&self, slots: &Graphs, graph: &Graph) -> Vec<Result<abi::Support, String>> {
        let count = graph.nodes().len();
        if count == 1 || self.0.info.caps.multi_op {
            let asked = Arena::of_graph(graph).map_err(|e| e.to_string());
            return match asked.and_then(|arena| self.ask(slots, &arena, count).map_err(|f| self.trouble(&f))) {
                Ok(records) => records.into_iter().map(Ok).collect(),
                Err(why) => vec![Err(why); count],
            };
        }
        let one = |index| -> Result<abi::Support, String> {
            let arena = Arena::of_node(graph, index, self.0.info.tensor_align).map_err(|e| e.to_string())?;
            let records = self.ask(slots, &arena, 1).map_err(|f| self.trouble(&f))?;
            records.into_iter().next().ok_or_else(|| "no record".into())
        };
        (0..count).map(one).collect()
    }

    /// Why graph_support gave no answer; a device that it lost stays lost.
    fn trouble(&self, failure: &Failure) -> String {
        format!("graph_support failed: {}", self.0.error(failure, Asked::default()))
    }

    fn group_p(&self, tensor: &TensorDesc, layout: u64) -> Result<&Prepack> {
        self.0.present()?;
        let slots = self.0.session.slots.prepack.as_ref().filter(|_| layout != 0);
        slots.ok_or_else(|| self.no_layout(tensor, layout, "it has none"))
    }

    fn no_layout(&self, tensor: &TensorDesc, layout: u64, why: &str) -> Error {
        let found = format!("{}: {why}", self.0.name());
        Error::invalid(format!("private layout {layout:#x} of {tensor}"), found, "ask only for layouts it named")
    }

    /// Bytes of a tensor in a private layout; `tensor` is as it was before.
    fn packed_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        let slots = self.group_p(tensor, layout)?;
        let plain = Arena::of_tensor(&TensorDesc { layout: 0, ..tensor.clone() })?;
        let bytes = self.0.session.calls.number("prepack_size", |out, err| {
            // SAFETY: the device is open; the tensor is borrowed for the call; the out-pointers are the call's.
            unsafe { (slots.prepack_size)(self.0.raw(), &plain, layout, out, err) }
        });
        let bytes = bytes.map_err(|failure| match failure.status {
            abi::ERR_UNSUPPORTED | abi::ERR_INVALID_ARG => self.no_layout(tensor, layout, &failure.words()),
            _ => self.0.error(&failure, Asked::default()),
        })?;
        let whole = self.0.info.memories[0].total_bytes;
        let most = if whole == 0 { isize::MAX as u64 } else { whole };
        if bytes > most || bytes == 0 && tensor.elements() > 0 {
            let why = format!("prepack_size says {bytes} bytes; the device has {most}");
            return Err(self.no_layout(tensor, layout, &why));
        }
        Ok(bytes as usize)
    }
}

impl Device for PluginDevice {
    fn info(&self) -> &DeviceInfo {
        &self.0.info
    }

    fn alloc(&self, memory: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        Ok(Arc::new(Memory::alloc(&self.0, memory, bytes)?))
    }

    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(DeviceStream::new(&self.0)?))
    }

    fn event(&self) -> Result<Arc<dyn Event>> {
        match self.0.session.slots.events {
            Some(slots) => Ok(Arc::new(DeviceEvent::new(&self.0, slots)?)),
            None => self.0.present().map(|()| Arc::new(HostEvent::default()) as Arc<dyn Event>),
        }
    }

    fn import(&self, memory: Arc<dyn HostMemory>, offset: usize, bytes: usize) -> Result<Arc<dyn Buffer>> {
        Ok(Arc::new(Memory::import(&self.0, memory, offset, bytes)?))
    }

    fn support(&self, graph: &Graph) -> Vec<NodeSupport> {
        let slots = self.0.session.slots.graphs.filter(|_| !graph.nodes().is_empty());
        let Some(slots) = slots else {
            return graph.views().map(|_| NodeSupport::no(Reason::operator())).collect();
        };
        if let Err(lost) = self.0.present() {
            return graph.views().map(|_| support::refused(&lost.to_string())).collect();
        }
        let can_prepack = self.0.session.slots.prepack.is_some();
        let records = self.records(&slots, graph);
        let answers = graph.views().zip(records).map(|(node, record)| {
            record.and_then(|r| support::answer(&r, &node, can_prepack)).unwrap_or_else(|why| {
                self.0.session.note(Level::Error, format!("graph_support of {}: {why}", node.kind()));
                support::refused(&why)
            })
        });
        answers.collect()
    }

    fn plan(&self, graph: &Graph) -> Result<Arc<dyn Plan>> {
        self.0.present()?;
        let count = graph.nodes().len();
        if count == 0 {
            return Err(Error::invalid("plan", "the graph has no operator", "plan a graph that computes something"));
        }
        let answers = self.support(graph);
        // What was lost while it was asked refuses nothing.
        self.0.present()?;
        if answers.iter().any(|a| matches!(a.answer, Support::No(_))) {
            return Err(refuse(&self.0.info, graph, &answers));
        }
        for (node, answer) in graph.views().zip(&answers) {
            if let Support::Relayout { operand, layout } = answer.answer {
                let found = format!("operand {operand} is not in private layout {layout:#x}");
                return Err(Error::invalid(format!("plan of {}", node.kind()), found, "prepack it first"));
            }
        }
        if count > 1 && !self.0.info.caps.multi_op {
            let found = format!("{} plans one operator at a time", self.0.name());
            return Err(Error::invalid(format!("plan of {count} operators"), found, "lower the graph first"));
        }
        let slots = self.0.session.slots.graphs.ok_or_else(|| refuse(&self.0.info, graph, &answers))?;
        let packed = |tensor: &TensorDesc| self.packed_bytes(tensor, tensor.layout);
        Ok(Arc::new(DevicePlan::new(&self.0, slots, graph, packed)?))
    }

    fn prepack_bytes(&self, tensor: &TensorDesc, layout: u64) -> Result<usize> {
        if tensor.layout != 0 {
            return Err(self.no_layout(tensor, layout, "it is in one already"));
        }
        self.packed_bytes(tensor, layout)
    }

    fn prepack(
        &self,
        stream: &mut dyn Stream,
        tensor: &TensorDesc,
        src: &Binding,
        layout: u64,
        dst: &Binding,
    ) -> Result<()> {
        let bytes = self.prepack_bytes(tensor, layout)?;
        let slots = self.group_p(tensor, layout)?;
        let own = (stream as &mut dyn Any).downcast_mut::<DeviceStream>();
        let Some(stream) = own.filter(|s| Arc::ptr_eq(&s.device, &self.0)) else {
            let found = format!("it is not of {}", self.0.name());
            return Err(Error::invalid("stream of a prepack", found, "use a stream of the same device handle"));
        };
        let from = self.0.own(src, "prepack source", tensor.bytes()?)?;
        let to = self.0.own_writable(dst, "prepack destination", bytes)?;
        let apart = from.raw.get() != to.raw.get()
            || src.offset + src.bytes <= dst.offset
            || dst.offset + dst.bytes <= src.offset;
        let align = self.0.info.tensor_align;
        if !apart || !from.is_aligned(src.offset, align) || !to.is_aligned(dst.offset, align) {
            let found = format!("bytes {} + {} to bytes {} + {}", src.offset, src.bytes, dst.offset, dst.bytes);
            return Err(Error::invalid(
                "ranges of a prepack",
                found,
                format!("start each on a multiple of {align}, apart"),
            ));
        }
        let plain = Arena::of_tensor(tensor)?;
        let (src, dst) = (from.range(src), to.range(dst));
        stream.execute(|stream| {
            self.0.session.calls.call("prepack", |err| {
                // SAFETY: stream and buffers are alive, and nobody else names the stream at the moment; the ranges hold the
                // tensor and its packed form; structs are borrowed for the call.
                unsafe { (slots.prepack)(stream, &plain, &src, layout, &dst, err) }
            })
        })
    }
}
