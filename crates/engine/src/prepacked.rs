//! Weights in the layouts that a device asks for, kept in a file: the next process maps it where it would have packed them.
//!
//! A safetensors file for each checkpoint and kind of device, whose name ends with a sum over all that its content follows from. Its
//! tensors are bytes, each a number of whole pages, named by weight, use, dtype and layout. A layout's number stands for one order
//! of bytes; where a device breaks that, probes find it out: a few rows of each kind, packed when the file was written and again
//! when it is opened. What the engine makes of packed checkpoints is in the sum by samples.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use qiao_core::{Binding, Device, DeviceInfo, Error, HostMemory, Stream, TensorDesc};
use qiao_layers::Home;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{EngineError, Result};
use crate::fingerprint::Fingerprint;
use crate::model::Use;
use crate::pending::Pending;
use crate::runner::LoadedModel;
use crate::sides::{Sides, alloc_padded};
use crate::weights::{MappedFile, Weights, tensors_of};

/// Goes up when what the engine hands to a device of one and the same checkpoint changes.
const REVISION: u32 = 1;

/// Bytes of a page: tensors begin and end at multiples of it. A device that wants more keeps no files.
const PAGE: usize = 4096;

/// Bytes that are written at once.
const PIECE: usize = 16 << 20;

/// Rows of a probe.
const PROBE_ROWS: usize = 64;

/// Bytes of a checkpoint's name in that of its file.
const NAME: usize = 80;

/// What the files of a checkpoint are: [`Fingerprint::weights`], the times at which they were written last, and samples of what is
/// unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The checkpoint's own, for whoever reads the folder.
    name: String,
    sum: [u8; 32],
}

impl Source {
    /// Nothing for a checkpoint that is part of the program, or lies where files have no times.
    pub(crate) fn of(weights: &Weights, fingerprint: &Fingerprint) -> Option<Source> {
        let mut sum = Sha256::new();
        sum.update(fingerprint.weights);
        for file in weights.mapped() {
            let since = file.modified()?.duration_since(UNIX_EPOCH).ok()?;
            sum.update(since.as_nanos().to_le_bytes());
        }
        for name in weights.samples() {
            sum.update(weights.bytes(name).ok()?);
        }
        let root = weights.root().canonicalize().ok()?;
        let name = if root.is_file() { root.file_stem()? } else { root.file_name()? }.to_string_lossy();
        let mut name = name.replace(|c: char| !c.is_alphanumeric() && !"._-".contains(c), "_");
        name.truncate((0..=NAME).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0));
        Some(Source { name, sum: sum.finalize().into() })
    }

    /// Where the packed weights of these files for a device are kept in a folder.
    pub(crate) fn place(&self, folder: &Path, device: &DeviceInfo) -> PathBuf {
        let DeviceInfo { vendor, name, arch, .. } = device;
        let of_device = format!("{} {REVISION} {vendor:?} {name:?} {arch:?}", env!("CARGO_PKG_VERSION"));
        let sum = Sha256::new().chain_update(of_device).chain_update(self.sum).finalize();
        let sum: String = sum[..16].iter().map(|b| format!("{b:02x}")).collect();
        folder.join(format!("{}-{sum}.safetensors", self.name))
    }
}

/// One weight in a private layout, by all that its bytes follow from beside the checkpoint and the device.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packed<'a> {
    pub(crate) name: &'a str,
    pub(crate) usage: Use,
    /// The weight before it is packed.
    pub(crate) desc: &'a TensorDesc,
    pub(crate) layout: u64,
    /// Bytes in the layout.
    pub(crate) bytes: usize,
}

impl Packed<'_> {
    fn entry(&self) -> String {
        format!("{} {:?} {} {:#x}", self.name, self.usage, self.desc.dtype, self.layout)
    }

    /// Bytes in the file, with those behind that a device may read.
    fn padded(&self, device: &DeviceInfo) -> Option<usize> {
        padded(self.bytes, device)
    }
}

/// Whether a device can use weights where a file has them.
///
/// # Errors
/// Why not.
pub(crate) fn require_mapping(device: &DeviceInfo) -> Result<(), String> {
    match device {
        _ if !device.caps.import_host => Err(format!("{} does not read files where they are mapped", device.name)),
        _ if device.tensor_align > PAGE => {
            Err(format!("{} aligns weights to {} bytes, more than a page", device.name, device.tensor_align))
        }
        _ => Ok(()),
    }
}

fn padded(bytes: usize, device: &DeviceInfo) -> Option<usize> {
    bytes.checked_add(device.tensor_tail_pad)?.checked_next_multiple_of(PAGE)
}

/// Made-up bytes in the shape of each kind's first rows, as a device packs them, by the names of their entries. A kind is a layout,
/// a dtype and a shape of rows.
///
/// # Errors
/// The device's.
fn probes<'a>(
    weights: impl IntoIterator<Item = &'a Packed<'a>>,
    device: &dyn Device,
    stream: &mut dyn Stream,
) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut all = BTreeMap::new();
    for Packed { desc, layout, .. } in weights {
        let desc = probed(desc, *layout, device)?;
        if let Entry::Vacant(place) = all.entry(format!("probe {} {layout:#x} {:?}", desc.dtype, desc.shape)) {
            place.insert(probe(&desc, *layout, device, stream)?);
        }
    }
    Ok(all)
}

/// The first rows of a weight; the whole of it where a device packs no less.
fn probed(weight: &TensorDesc, layout: u64, device: &dyn Device) -> Result<TensorDesc> {
    let mut shape = weight.shape.to_vec();
    if let Some(rows) = shape.first_mut() {
        *rows = PROBE_ROWS.min(*rows);
    }
    let few = TensorDesc::new(weight.dtype, &shape)?.as_constant();
    Ok(if device.prepack_bytes(&few, layout).is_ok() { few } else { weight.clone() })
}

fn probe(desc: &TensorDesc, layout: u64, device: &dyn Device, stream: &mut dyn Stream) -> Result<Vec<u8>> {
    let bytes: Vec<u8> = (0..desc.bytes()?).map(|i| (i * 37 % 251) as u8).collect();
    let source = alloc_padded(device, bytes.len())?;
    stream.upload(&source, &bytes)?;
    let packed = alloc_padded(device, device.prepack_bytes(desc, layout)?)?;
    device.prepack(stream, desc, &source, layout, &packed)?;
    let mut bytes = vec![0; packed.bytes];
    stream.download(&mut bytes, &packed)?;
    Ok(bytes)
}

/// A file of packed weights.
#[derive(Debug)]
pub(crate) struct Prepacked {
    file: Arc<MappedFile>,
    tensors: HashMap<String, Range<usize>>,
}

impl Prepacked {
    /// # Errors
    /// It can't be read, or is not such a file.
    pub(crate) fn open(path: &Path) -> Result<Prepacked> {
        let file = MappedFile::open(path)?;
        let tensors = tensors_of(&file).map_err(|error| match error {
            EngineError::Malformed { found, .. } | EngineError::BadTensor { found, .. } => unusable(path, found),
            other => other,
        })?;
        if let Some((_, at)) = tensors.iter().find(|(_, at)| !at.start.is_multiple_of(PAGE)) {
            return Err(unusable(path, format!("a tensor begins at byte {}, within a page", at.start)));
        }
        Ok(Prepacked { file: Arc::new(file), tensors: tensors.into_iter().collect() })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    fn place(&self, weight: &Packed<'_>, device: &DeviceInfo) -> Option<Range<usize>> {
        let at = self.tensors.get(&weight.entry())?;
        (Some(at.len()) == weight.padded(device)).then(|| at.clone())
    }

    /// Whether the weight is here.
    pub(crate) fn has(&self, weight: &Packed<'_>, device: &DeviceInfo) -> bool {
        self.place(weight, device).is_some()
    }

    /// The weight where it lies; nothing if it is not here, or the device can't read it there.
    pub(crate) fn binding(&self, weight: &Packed<'_>, device: &dyn Device) -> Option<Binding> {
        let at = self.place(weight, device.info())?;
        self.file.will_need(at.clone());
        let memory: Arc<dyn HostMemory> = self.file.clone();
        let buffer = device.import(memory, at.start, at.len()).ok()?;
        Some(Binding::part(&buffer, 0, weight.bytes))
    }

    /// Refuses a file whose probes are not what the device makes of them now.
    ///
    /// # Errors
    /// Others in the file, or none; the device's own.
    pub(crate) fn check(&self, weights: &[Packed<'_>], device: &dyn Device, stream: &mut dyn Stream) -> Result<()> {
        for (entry, now) in probes(weights, device, stream)? {
            let Some(at) = self.tensors.get(&entry) else {
                return Err(unusable(self.path(), format!("there is no {entry}")));
            };
            if self.file.bytes()[at.clone()].get(..now.len()) != Some(&now[..]) {
                return Err(unusable(self.path(), format!("{entry} is not what the device packs")));
            }
        }
        Ok(())
    }
}

fn unusable(path: &Path, found: String) -> EngineError {
    EngineError::malformed(path, "prepacked weights", found, "run `qiao prepack` on the model again")
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrepackedFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
}

/// Where the weights came from that devices have in layouts of their own, over all devices of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedWeights {
    /// How many were packed while the model was loaded.
    pub packed: usize,
    /// How many a file had.
    pub mapped: usize,
    /// Why files that are there were not used, a text for each.
    pub refused: Vec<String>,
}

impl LoadedModel {
    /// Writes the weights that devices have in layouts of their own to a file in a folder, one for each kind of device:
    /// [`LoadOptions::prepacked`](crate::runner::LoadOptions::prepacked) finds it there. Each is there whole, or what was there
    /// before is there still. Nothing where `stop` said so on the way.
    ///
    /// # Errors
    /// A model that is part of the program, or whose files have no times; devices that pack nothing, do not read files where they
    /// are mapped, or align weights to more than a page; a file that can't be written, as on a full disk; the devices' own.
    pub fn prepack(self: &Arc<Self>, folder: &Path, stop: &dyn Fn() -> bool) -> Result<Option<Vec<PrepackedFile>>> {
        let refuse = |found: String| Error::invalid("prepacked weights", found, "load the model as it is");
        let source = self.source().ok_or_else(|| refuse("the model lies in no files that have times".into()))?;
        let stages = self.stages();
        let mut files: BTreeMap<PathBuf, BTreeMap<String, Placed<'_>>> = BTreeMap::new();
        for stage in &stages {
            let info = stage.device().info();
            require_mapping(info).map_err(refuse)?;
            let packed = stage.weights().packed().into_iter();
            let packed = packed.map(|(weight, binding)| (weight.entry(), (weight, binding, stage.sides())));
            files.entry(source.place(folder, info)).or_default().extend(packed);
        }
        files.retain(|_, weights| !weights.is_empty());
        if files.is_empty() {
            return Err(refuse("the device has every weight as it is stored".into()).into());
        }
        let mut written = Vec::new();
        for (path, weights) in files {
            let weights: Vec<_> = weights.into_values().collect();
            let Some(bytes) = write(&path, &weights, stop)? else { return Ok(None) };
            written.push(PrepackedFile { path, bytes });
        }
        Ok(Some(written))
    }

    /// Where the weights came from that devices have in layouts of their own.
    pub fn packed_weights(self: &Arc<Self>) -> PackedWeights {
        let mut all = PackedWeights::default();
        for stage in self.stages() {
            let (weights, mapped) = (stage.weights().packed().len(), stage.weights().mapped());
            (all.packed, all.mapped) = (all.packed + weights - mapped, all.mapped + mapped);
            all.refused.extend(stage.weights().refused().map(ToString::to_string));
        }
        all
    }
}

/// A packed weight, where it is, and on which device.
type Placed<'a> = (Packed<'a>, &'a Binding, &'a Sides);

/// What is written to a file one after the other, each from page to page.
#[derive(Default)]
struct Header {
    entries: BTreeMap<String, Value>,
    end: usize,
}

impl Header {
    fn add(&mut self, entry: String, bytes: Option<usize>) -> Result<()> {
        let begin = self.end;
        let end = bytes.and_then(|bytes| begin.checked_add(bytes)).ok_or_else(|| too_large(&entry))?;
        self.entries.insert(entry, json!({ "dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end] }));
        self.end = end;
        Ok(())
    }

    /// The bytes before the first tensor: up to a page.
    fn bytes(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(&self.entries).expect("names and numbers are JSON");
        text.resize((8 + text.len()).next_multiple_of(PAGE) - 8, b' ');
        [&(text.len() as u64).to_le_bytes()[..], &text].concat()
    }
}

/// Writes weights that are on devices of one kind; how many bytes, or nothing where it was stopped.
fn write(path: &Path, weights: &[Placed<'_>], stop: &dyn Fn() -> bool) -> Result<Option<u64>> {
    let Some((_, _, sides)) = weights.first() else { return Ok(None) };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| EngineError::io("make the folder of", path, e))?;
    let device = sides.device();
    let probes = probes(weights.iter().map(|(weight, ..)| weight), &**device, &mut *sides.stream(Home::Device)?)?;
    let mut header = Header::default();
    for (entry, bytes) in &probes {
        header.add(entry.clone(), padded(bytes.len(), device.info()))?;
    }
    for (weight, ..) in weights {
        header.add(weight.entry(), weight.padded(device.info()))?;
    }
    let first = header.bytes();
    let mut out = Pending::new(path)?;
    out.write(&first)?;
    for bytes in probes.values() {
        out.write(bytes)?;
        fill(&mut out, bytes.len(), device.info())?;
    }
    let mut piece = Vec::new();
    for (weight, binding, sides) in weights {
        let mut stream = sides.stream(Home::Device)?;
        for start in (0..weight.bytes).step_by(PIECE) {
            if stop() {
                return Ok(None);
            }
            piece.resize(PIECE.min(weight.bytes - start), 0);
            let from = Binding::part(&binding.buffer, binding.offset + start, piece.len());
            stream.download(&mut piece, &from)?;
            out.write(&piece)?;
        }
        fill(&mut out, weight.bytes, device.info())?;
    }
    out.finish()?;
    Ok(Some((first.len() + header.end) as u64))
}

/// Zeros behind so many bytes, up to where the next ones begin.
fn fill(out: &mut Pending, bytes: usize, device: &DeviceInfo) -> Result<()> {
    out.write(&vec![0; padded(bytes, device).unwrap_or(bytes) - bytes])
}

fn too_large(entry: &str) -> EngineError {
    Error::invalid("prepacked weights", format!("{entry} is larger than any file"), "load the model as it is").into()
}
