//! Weights onto a device, or onto the host that it falls back to: mapped where that can read host memory, packed where it asks
//! for a private layout and no file has it packed, converted where the device does not store the dtype, copied otherwise. One
//! tensor at a time, so that memory stays near the size of the weights.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use qiao_core::{Binding, DType, Graph, HostMemory, Stream, TensorDesc};
use qiao_layers::{Home, Lowered, Pack, Policy};

use crate::error::{EngineError, Result};
use crate::form::Companion;
use crate::model::{Constant, ModelGraph, Use};
use crate::prepacked::{Packed, Prepacked};
use crate::sides::{Sides, alloc_padded};
use crate::weights::{MappedFile, TensorHandle, Weights, convert};

/// How far loading has come, over all devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of weights that are where they belong.
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
fn is_weight(dtype: DType, usage: Use) -> bool {
    dtype.is_activation() || dtype == DType::F64 || dtype.is_block() && usage != Use::Vector
}

/// A weight where it lives.
#[derive(Clone, Debug)]
struct Placed {
    binding: Binding,
    home: Home,
    /// The private layout it was packed into; 0 = as it is.
    layout: u64,
    /// The weight before it is packed.
    desc: TensorDesc,
    /// Where it came from, if the host may have to be given a copy of what is packed on the device.
    source: Option<(TensorHandle, DType)>,
}

/// The weights of a model on a device, by name and use.
#[derive(Debug, Default)]
pub(crate) struct PlacedWeights {
    placed: HashMap<(String, Use), Placed>,
    /// Bytes of projections where they live, with their scales, and how many weights they are.
    projections: (u64, u64),
    /// The weights by name, those that are no scales of others: the dtype in which they are stored, and how many they are.
    stored: HashMap<String, (DType, u64)>,
    /// How many of them a file had as the device asks for them.
    mapped: usize,
    /// Why the file that is there was not used.
    refused: Option<EngineError>,
}

impl PlacedWeights {
    /// Checks names and shapes of every constant of a graph against a checkpoint. Reads headers only.
    ///
    /// # Errors
    /// A missing tensor; one of another shape or of a dtype that no device can be given.
    pub(crate) fn check(weights: &Weights, g: &ModelGraph) -> Result<()> {
        for c in &g.constants {
            let shape = g.graph.desc(g.graph.bound()[c.bound]).shape;
            let tensor = weights.handle(&c.name)?;
            tensor.require_shape(&shape)?;
            if !is_weight(tensor.dtype, c.usage) && !weights.is_part(&c.name) {
                return Err(EngineError::BadTensor {
                    path: tensor.path().to_path_buf(),
                    tensor: c.name.clone(),
                    found: format!("stored as {}, which no weight of this kind is", tensor.dtype),
                    mend: "use the checkpoint in f32, f16 or bf16, or quantised in a format that is read",
                });
            }
        }
        no_bias_is_lost(weights, g)
    }

    /// Places every constant of a lowered graph where it lives.
    ///
    /// # Errors
    /// As [`PlacedWeights::check`]; a value beyond the range of the dtype that the device stores; the device's own.
    pub(crate) fn place(
        sides: &Sides,
        weights: &Weights,
        g: &ModelGraph,
        plan: &Lowered,
        prepacked: Option<&Path>,
        done_bytes: &mut dyn FnMut(u64),
    ) -> Result<PlacedWeights> {
        let packs: HashMap<usize, &Pack> = plan.packs.iter().map(|p| (p.bound, p)).collect();
        let mut placer = Placer::new(sides);
        let weight = |c: &Constant| -> Result<Weight> {
            let dtype = plan.graph.desc(plan.graph.bound()[c.bound]).dtype;
            Weight::new(weights.handle(&c.name)?, dtype, c.usage, plan.homes[c.bound])
        };
        let packed = g.constants.iter().filter(|c| plan.homes[c.bound] == Home::Device);
        let packed = packed.filter_map(|c| Some((c, *packs.get(&c.bound)?)));
        let packed = packed.map(|(c, pack)| Ok((weight(c)?, pack))).collect::<Result<Vec<_>>>()?;
        let (prepacked, refused) = match prepacked.filter(|path| path.exists()) {
            Some(path) => checked(path, sides, &packed)?,
            None => (None, None),
        };
        drop(packed);
        placer.prepacked = prepacked;
        let bytes = |c: &Constant| weights.byte_len(&c.name);
        // The largest first: while a tensor is packed it is there twice, and then little else is there yet.
        let mut order: Vec<&Constant> = g.constants.iter().collect();
        order.sort_by_key(|c| std::cmp::Reverse(bytes(c)));
        let mut out = PlacedWeights { refused, ..PlacedWeights::default() };
        let mut done = 0;
        for (i, c) in order.iter().enumerate() {
            if let Some(next) = order.get(i + 1)
                && !placer.has(&weight(next)?, packs.get(&next.bound).copied())
            {
                weights.will_need(&next.name);
            }
            let weight = weight(c)?;
            let shape = weight.handle.shape.clone();
            let pack = packs.get(&c.bound).copied();
            let placed = placer.place(weight, pack)?;
            let is_companion = Companion::is_name(&c.name);
            if let Some(dtype) = weights.stored_dtype(&c.name).filter(|_| !is_companion) {
                out.stored.insert(c.name.clone(), (dtype, shape.iter().product::<usize>() as u64));
            }
            if c.usage == Use::Projection {
                let is_weight = !is_companion;
                out.projections.0 += placed.binding.bytes as u64;
                out.projections.1 += if is_weight { shape.iter().product::<usize>() as u64 } else { 0 };
            }
            out.placed.insert((c.name.clone(), c.usage), placed);
            done += bytes(c);
            done_bytes(done);
        }
        out.mapped = placer.mapped;
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

    /// Gives the host copies of those constants that a plan reads there although they are packed on the device, unless an earlier
    /// plan did.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn unpack(&self, sides: &Sides, plan: &Lowered, constants: &[Constant]) -> Result<()> {
        let Policy::Fallback(fallback) = sides.policy() else { return Ok(()) };
        let mut placer = Placer::new(sides);
        for c in constants.iter().filter(|c| plan.unpacked.contains(&c.bound)) {
            let Some(placed) = self.get(c).filter(|placed| !fallback.has(&placed.binding)) else { continue };
            let Some((handle, dtype)) = placed.source.clone() else { continue };
            let weight = Weight::new(handle, dtype, c.usage, Home::Host)?;
            fallback.keep(&placed.binding, placer.place(weight, None)?.binding);
        }
        Ok(())
    }

    /// The weights that the device has in layouts of its own, in the order of their names.
    pub(crate) fn packed(&self) -> Vec<(Packed<'_>, &Binding)> {
        let on_device = self.placed.iter().filter(|(_, placed)| placed.layout != 0 && placed.home == Home::Device);
        let mut all: Vec<_> = on_device
            .map(|((name, usage), Placed { binding, layout, desc, .. })| {
                (Packed { name, usage: *usage, desc, layout: *layout, bytes: binding.bytes }, binding)
            })
            .collect();
        all.sort_by_key(|(weight, _)| (weight.name, weight.usage == Use::Projection));
        all
    }

    /// How many of these a file had.
    pub(crate) fn mapped(&self) -> usize {
        self.mapped
    }

    /// Why the file that is there was not used.
    pub(crate) fn refused(&self) -> Option<&EngineError> {
        self.refused.as_ref()
    }

    /// The binding of a constant, if it was placed.
    pub(crate) fn binding(&self, c: &Constant) -> Option<Binding> {
        self.get(c).map(|p| p.binding.clone())
    }

    /// Where a constant lives, if it was placed.
    pub(crate) fn home(&self, c: &Constant) -> Option<Home> {
        self.get(c).map(|p| p.home)
    }

    /// Bytes of all bindings of a side together, those that stay in the mapped files included.
    pub(crate) fn bytes(&self, home: Home) -> u64 {
        self.placed.values().filter(|p| p.home == home).map(|p| p.binding.bytes as u64).sum()
    }

    /// Bytes of all bindings but those of tables whose rows are looked up.
    pub(crate) fn whole_bytes(&self) -> u64 {
        let whole = self.placed.iter().filter(|((_, usage), _)| *usage != Use::Table);
        whole.map(|(_, p)| p.binding.bytes as u64).sum()
    }

    /// How many weights are stored in which dtype, the most first; those that several devices have count once.
    pub(crate) fn stored<'a>(all: impl Iterator<Item = &'a PlacedWeights>) -> Vec<(DType, u64)> {
        let by_name: HashMap<&String, &(DType, u64)> = all.flat_map(|weights| &weights.stored).collect();
        let mut sums: Vec<(DType, u64)> = Vec::new();
        for &(dtype, count) in by_name.into_values() {
            match sums.iter_mut().find(|(known, _)| *known == dtype) {
                Some((_, sum)) => *sum += count,
                None => sums.push((dtype, count)),
            }
        }
        sums.sort_by_key(|&(dtype, count)| (std::cmp::Reverse(count), dtype.name()));
        sums
    }

    /// Bytes of projections where they live, their share of scales and padding included, and how many weights they are.
    pub(crate) fn projections(&self) -> (u64, u64) {
        self.projections
    }

    fn get(&self, c: &Constant) -> Option<&Placed> {
        self.placed.get(&(c.name.clone(), c.usage))
    }
}

/// A file of prepacked weights, or why it is of no use.
///
/// # Errors
/// The device's.
fn checked(
    path: &Path,
    sides: &Sides,
    weights: &[(Weight, &Pack)],
) -> Result<(Option<Arc<Prepacked>>, Option<EngineError>)> {
    let weights: Vec<_> = weights.iter().map(|(weight, pack)| weight.packed(pack)).collect();
    let checked = Prepacked::open(path).and_then(|file| {
        file.check(&weights, &**sides.device(), &mut *sides.stream(Home::Device)?)?;
        Ok(file)
    });
    match checked {
        Ok(file) => Ok((Some(Arc::new(file)), None)),
        Err(why @ (EngineError::Malformed { .. } | EngineError::Io { .. })) => Ok((None, Some(why))),
        Err(other) => Err(other),
    }
}

/// Refuses a bias other than zero that a projection has in the checkpoint and not in the graph. Some tools write zeros where the
/// model has none.
fn no_bias_is_lost(weights: &Weights, g: &ModelGraph) -> Result<()> {
    let used: HashSet<&str> = g.constants.iter().map(|c| c.name.as_str()).collect();
    for c in g.constants.iter().filter(|c| c.usage == Use::Projection) {
        let Some(name) = c.name.strip_suffix(".weight").map(|module| format!("{module}.bias")) else { continue };
        let in_sum = weights.form(&c.name).is_some_and(|form| form.has_bias_in_sum())
            && used.contains(Companion::SumBias.of(&c.name).as_str());
        if in_sum || used.contains(name.as_str()) || !weights.contains(&name) {
            continue;
        }
        let bias = weights.handle(&name)?;
        if bias.bytes()?.iter().any(|&b| b != 0) {
            return Err(EngineError::BadTensor {
                path: bias.path().to_path_buf(),
                tensor: name,
                found: "a bias that is not zero, where config.json says that there is none".to_string(),
                mend: "mend config.json (attention_bias, mlp_bias), or use the checkpoint of another tool",
            });
        }
    }
    Ok(())
}

/// A weight on its way.
struct Weight {
    handle: TensorHandle,
    /// As the graph has it.
    desc: TensorDesc,
    usage: Use,
    home: Home,
}

impl Weight {
    fn new(handle: TensorHandle, dtype: DType, usage: Use, home: Home) -> Result<Weight> {
        let desc = TensorDesc::new(dtype, &handle.shape)?.as_constant();
        Ok(Weight { handle, desc, usage, home })
    }

    fn packed(&self, pack: &Pack) -> Packed<'_> {
        let Weight { handle, desc, usage, .. } = self;
        Packed { name: &handle.name, usage: *usage, desc, layout: pack.layout, bytes: pack.bytes }
    }

    /// The elements in the dtype of the graph.
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        contents(&self.handle, self.desc.dtype, || self.handle.bytes())
    }
}

/// A tensor's elements, which `stored` gives, in the dtype in which a device is given them.
///
/// # Errors
/// A value that the dtype does not reach; what `stored` refuses.
pub(crate) fn contents<'a>(
    tensor: &TensorHandle,
    to: DType,
    stored: impl FnOnce() -> Result<Cow<'a, [u8]>>,
) -> Result<Cow<'a, [u8]>> {
    let (name, path, from) = (&tensor.name, tensor.path(), tensor.dtype);
    if from == to {
        return stored();
    }
    if to.is_activation()
        && let Some(floats) = tensor.dequantised(to)?
    {
        return Ok(floats.into());
    }
    let bytes = stored()?;
    let refuse = |found: String| {
        let mend = "load it onto a device that stores the checkpoint's own dtype";
        Err(EngineError::BadTensor { path: path.to_path_buf(), tensor: name.clone(), found, mend })
    };
    let mut out = Vec::new();
    if from.is_block() && convert::blocks(from, &bytes, to, &mut out) {
        return Ok(out.into());
    }
    if let Some(value) = convert::first_overflow(from, &bytes, to) {
        return refuse(format!("its value {value} is beyond the range of {to}, in which the device is given it"));
    }
    match convert::floats(from, &bytes, to, &mut out) {
        true => Ok(out.into()),
        false => refuse(format!("stored as {from}, which is not converted to {to}")),
    }
}

/// Refuses blocks whose scale is no number. A table is not looked at: its rows are read as they are asked for.
fn scales_are_numbers(weight: &Weight) -> Result<()> {
    let (handle, dtype) = (&weight.handle, weight.handle.dtype);
    if !dtype.is_block() || weight.usage == Use::Table {
        return Ok(());
    }
    let Some(block) = qiao_quant::first_bad_scale(dtype, &handle.bytes()?) else { return Ok(()) };
    let columns = handle.shape.last().map_or(1, |&k| (k / dtype.block_elems()).max(1));
    let (row, first) = (block / columns, block % columns * dtype.block_elems());
    Err(EngineError::BadTensor {
        path: handle.path().to_path_buf(),
        tensor: handle.name.clone(),
        found: format!("the scale of row {row}, from element {first} on, is NaN or infinite"),
        mend: "the file is damaged, or its model was: download or quantise it again",
    })
}

struct Placer<'a> {
    sides: &'a Sides,
    /// Of the device and of the host, made when first needed.
    streams: [Option<Box<dyn Stream>>; 2],
    /// Weights that the device need not pack.
    prepacked: Option<Arc<Prepacked>>,
    /// How many of them were found.
    mapped: usize,
}

impl<'a> Placer<'a> {
    fn new(sides: &'a Sides) -> Placer<'a> {
        Placer { sides, streams: [None, None], prepacked: None, mapped: 0 }
    }

    /// Whether a file has the weight packed.
    fn has(&self, weight: &Weight, pack: Option<&Pack>) -> bool {
        let (Some(file), Some(pack), Home::Device) = (&self.prepacked, pack, weight.home) else { return false };
        file.has(&weight.packed(pack), self.sides.device().info())
    }

    fn place(&mut self, weight: Weight, pack: Option<&Pack>) -> Result<Placed> {
        let (home, desc) = (weight.home, weight.desc.clone());
        let Some(pack) = pack else {
            scales_are_numbers(&weight)?;
            // A vector is small and read in every step: it is worth a place of its own, aligned as the device likes it.
            if weight.usage != Use::Vector
                && let Some(binding) = self.import(&weight)
            {
                return Ok(Placed { binding, home, layout: 0, desc, source: None });
            }
            let binding = self.upload(&weight)?;
            self.sync(home)?;
            weight.handle.release();
            return Ok(Placed { binding, home, layout: 0, desc, source: None });
        };
        let kept = self.prepacked.as_ref().filter(|_| home == Home::Device);
        let binding = match kept.and_then(|file| file.binding(&weight.packed(pack), &**self.sides.device())) {
            Some(binding) => {
                self.mapped += 1;
                binding
            }
            None => {
                scales_are_numbers(&weight)?;
                self.pack(&weight, pack)?
            }
        };
        let may_unpack = home == Home::Device && self.sides.policy().host().is_some();
        let source = may_unpack.then(|| (weight.handle.clone(), desc.dtype));
        Ok(Placed { binding, home, layout: pack.layout, desc, source })
    }

    /// The weight in a layout of the device's own.
    fn pack(&mut self, weight: &Weight, pack: &Pack) -> Result<Binding> {
        let source = match self.import(weight) {
            Some(binding) => binding,
            None => self.upload(weight)?,
        };
        let device = self.sides.of(weight.home).clone();
        let binding = alloc_padded(&*device, pack.bytes)?;
        device.prepack(self.stream(weight.home)?, &weight.desc, &source, pack.layout, &binding)?;
        self.sync(weight.home)?;
        weight.handle.release();
        Ok(binding)
    }

    /// The tensor where it lies, if the device can read it there. An address that is no multiple of the element size, as the
    /// format allows, is not offered.
    fn import(&self, weight: &Weight) -> Option<Binding> {
        let (handle, device) = (&weight.handle, self.sides.of(weight.home));
        let (file, range) = handle.mapping()?;
        let bytes = &file.bytes()[range.clone()];
        // A block is read byte by byte.
        let width = if handle.dtype.is_block() { 1 } else { handle.dtype.block_bytes() };
        let aligned = (bytes.as_ptr() as usize).is_multiple_of(width.max(1));
        let as_stored = handle.dtype == weight.desc.dtype;
        if !device.info().caps.import_host || !aligned || bytes.is_empty() || !as_stored {
            return None;
        }
        let memory: Arc<dyn HostMemory> = file.clone();
        device.import(memory, range.start, range.len()).ok().map(Binding::whole)
    }

    fn upload(&mut self, weight: &Weight) -> Result<Binding> {
        let device = self.sides.of(weight.home).clone();
        let bytes = weight.bytes()?;
        let binding = alloc_padded(&*device, bytes.len())?;
        self.stream(weight.home)?.upload(&binding, &bytes)?;
        Ok(binding)
    }

    fn sync(&mut self, home: Home) -> Result<()> {
        let patience = self.sides.patience();
        Ok(self.stream(home)?.sync(patience)?)
    }

    fn stream(&mut self, home: Home) -> Result<&mut dyn Stream> {
        let stream = &mut self.streams[usize::from(home == Home::Host)];
        if stream.is_none() {
            *stream = Some(self.sides.stream(home)?);
        }
        Ok(&mut **stream.as_mut().expect("it was made above"))
    }
}
