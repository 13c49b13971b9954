//! Weights onto a device: mapped where the device can read host memory, packed where it asks for a private layout, copied
//! otherwise. One tensor at a time, so that memory stays near the size of the weights.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use qiao_core::{Binding, DType, Device, Graph, HostMemory, Stream, TensorDesc};
use qiao_layers::Pack;

use crate::cache::alloc_padded;
use crate::error::{EngineError, Result};
use crate::model::{Constant, ModelGraph, Use};
use crate::weights::{MappedFile, TensorHandle, Weights};

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of weights that are on the device.
    pub done: u64,
    /// Bytes of all weights.
    pub total: u64,
}

impl HostMemory for MappedFile {
    fn bytes(&self) -> &[u8] {
        MappedFile::bytes(self)
    }

    fn cold(&self, range: std::ops::Range<usize>) {
        self.release(range);
    }
}

/// Whether a stored tensor's elements mean what they say, without scales that stand elsewhere.
pub(crate) fn is_weight(dtype: DType) -> bool {
    dtype.is_activation() || dtype == DType::F64
}

/// A weight on the device.
#[derive(Clone, Debug)]
struct Placed {
    binding: Binding,
    /// The private layout it was packed into; 0 = as stored.
    layout: u64,
}

/// The weights of a model on a device, by name and use.
#[derive(Debug, Default)]
pub(crate) struct PlacedWeights {
    placed: HashMap<(String, Use), Placed>,
    bytes: u64,
}

impl PlacedWeights {
    /// Checks names and shapes of every constant of a graph against a checkpoint. Reads headers only.
    ///
    /// # Errors
    /// A missing tensor; one of another shape or of a dtype that no device can be given.
    pub(crate) fn check(weights: &Weights, g: &ModelGraph) -> Result<()> {
        for c in &g.constants {
            let shape = g.graph.desc(g.graph.bound()[c.bound]).shape;
            let tensor = weights.tensor(&c.name)?;
            tensor.require_shape(&shape)?;
            if !is_weight(tensor.dtype) {
                return Err(EngineError::BadTensor {
                    path: tensor.path.to_path_buf(),
                    tensor: c.name.clone(),
                    found: format!("stored as {}, which no weight of a plain checkpoint is", tensor.dtype),
                    mend: "use the checkpoint in f32, f16 or bf16",
                });
            }
        }
        Ok(())
    }

    /// Places every constant of a lowered graph.
    ///
    /// # Errors
    /// As [`PlacedWeights::check`]; the device's own.
    pub(crate) fn place(
        device: &Arc<dyn Device>,
        weights: &Weights,
        g: &ModelGraph,
        packs: &[Pack],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<PlacedWeights> {
        let packs: HashMap<usize, &Pack> = packs.iter().map(|p| (p.bound, p)).collect();
        let mut placer = Placer { device, stream: device.stream()? };
        let bytes = |c: &Constant| weights.info(&c.name).map_or(0, |i| i.byte_len() as u64);
        let total = g.constants.iter().map(bytes).sum();
        // The largest first: while a tensor is packed it is there twice, and then little else is there yet.
        let mut order: Vec<&Constant> = g.constants.iter().collect();
        order.sort_by_key(|c| std::cmp::Reverse(bytes(c)));
        let mut out = PlacedWeights::default();
        let mut done = 0;
        progress(Progress { done, total });
        for (i, c) in order.iter().enumerate() {
            if let Some(next) = order.get(i + 1) {
                weights.will_need(&next.name);
            }
            let handle = weights.handle(&c.name)?;
            let placed = placer.place(&handle, c.usage, packs.get(&c.bound).copied())?;
            out.bytes += placed.binding.bytes as u64;
            out.placed.insert((c.name.clone(), c.usage), placed);
            done += bytes(c);
            progress(Progress { done, total });
        }
        Ok(out)
    }

    /// Tells a graph which of its constants are packed already.
    ///
    /// # Errors
    /// The graph's own.
    pub(crate) fn set_layouts(&self, graph: &mut Graph, constants: &[Constant]) -> Result<()> {
        for c in constants {
            if let Some(placed) = self.get(c).filter(|p| p.layout != 0) {
                let id = graph.bound()[c.bound];
                graph.set_layout(id, placed.layout)?;
            }
        }
        Ok(())
    }

    /// The binding of a constant, if it was placed.
    pub(crate) fn binding(&self, c: &Constant) -> Option<Binding> {
        self.get(c).map(|p| p.binding.clone())
    }

    /// Bytes of all bindings together, those that stay in the mapped files included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn get(&self, c: &Constant) -> Option<&Placed> {
        self.placed.get(&(c.name.clone(), c.usage))
    }
}

struct Placer<'a> {
    device: &'a Arc<dyn Device>,
    stream: Box<dyn Stream>,
}

impl Placer<'_> {
    fn place(&mut self, handle: &TensorHandle, usage: Use, pack: Option<&Pack>) -> Result<Placed> {
        let desc = TensorDesc::new(handle.dtype, &handle.shape)?.as_constant();
        if let Some(pack) = pack {
            let source = match self.import(handle) {
                Some(binding) => binding,
                None => self.upload(handle)?,
            };
            let binding = alloc_padded(&**self.device, pack.bytes)?;
            self.device.prepack(&mut *self.stream, &desc, &source, pack.layout, &binding)?;
            self.stream.sync(Duration::MAX)?;
            handle.release();
            return Ok(Placed { binding, layout: pack.layout });
        }
        // A vector is small and read in every step: it is worth a place of its own, aligned as the device likes it.
        if usage != Use::Vector
            && let Some(binding) = self.import(handle)
        {
            return Ok(Placed { binding, layout: 0 });
        }
        let binding = self.upload(handle)?;
        self.stream.sync(Duration::MAX)?;
        handle.release();
        Ok(Placed { binding, layout: 0 })
    }

    /// The tensor where it lies, if the device can read it there. An address that is no multiple of the element size, as the
    /// format allows, is not offered.
    fn import(&self, handle: &TensorHandle) -> Option<Binding> {
        let bytes = handle.bytes();
        let width = handle.dtype.block_bytes();
        let aligned = width.is_power_of_two() && (bytes.as_ptr() as usize).is_multiple_of(width);
        if !self.device.info().caps.import_host || !aligned || bytes.is_empty() {
            return None;
        }
        let (file, range) = handle.mapping();
        let memory: Arc<dyn HostMemory> = file.clone();
        self.device.import(memory, range.start, range.len()).ok().map(Binding::whole)
    }

    fn upload(&mut self, handle: &TensorHandle) -> Result<Binding> {
        let binding = alloc_padded(&**self.device, handle.bytes().len())?;
        self.stream.upload(&binding, handle.bytes())?;
        Ok(binding)
    }
}
