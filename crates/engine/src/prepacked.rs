//! Weights in the layouts that a device asks for, kept in a file: the next process maps it where it would have packed them.
//!
//! A safetensors file for each checkpoint and device, whose name ends with a sum over all that its content follows from. Its tensors are
//! bytes, each a number of whole pages, named by weight, use, dtype and layout. What another build packed in another way is found
//! out by probes: a few rows of each kind, packed when the file was written and again when it is opened.

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

/// Bytes of a page: tensors begin and end at multiples of it, which every alignment of a device divides.
const PAGE: usize = 4096;

/// Bytes that are written at once.
const PIECE: usize = 16 << 20;

/// Rows of a probe.
const PROBE_ROWS: usize = 64;

/// What the files of a checkpoint are: [`Fingerprint::weights`] and the times at which they were written last.
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
        let root = weights.root().canonicalize().ok()?;
        let name = if root.is_file() { root.file_stem()? } else { root.file_name()? }.to_string_lossy();
        let name = name.chars().map(|c| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' });
        Some(Source { name: name.take(80).collect(), sum: sum.finalize().into() })
    }

    /// Where the packed weights of these files for a device are kept in a folder.
    pub(crate) fn place(&self, folder: &Path, device: &DeviceInfo) -> PathBuf {
        let DeviceInfo { vendor, name, arch, driver, .. } = device;
        let of_device = format!("{} {vendor:?} {name:?} {arch:?} {driver:?}", env!("CARGO_PKG_VERSION"));
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

fn padded(bytes: usize, device: &DeviceInfo) -> Option<usize> {
    bytes.checked_add(device.tensor_tail_pad)?.checked_next_multiple_of(PAGE)
}

/// Made-up bytes in the shape of a weight's first rows, as a device packs them, and the name of the entry.
///
/// # Errors
/// The device's.
fn probe(weight: &Packed<'_>, device: &dyn Device, stream: &mut dyn Stream) -> Result<(String, Vec<u8>)> {
    let TensorDesc { dtype, ref shape, .. } = *weight.desc;
    let rows = |most: usize| -> Result<TensorDesc> {
        let first = shape.first().map(|&rows| rows.min(most));
        let shape: Vec<usize> = first.into_iter().chain(shape.iter().skip(1).copied()).collect();
        Ok(TensorDesc::new(dtype, &shape)?.as_constant())
    };
    // A device may pack only so many rows or more.
    let few = rows(PROBE_ROWS)?;
    let desc = if device.prepack_bytes(&few, weight.layout).is_ok() { few } else { rows(usize::MAX)? };
    let bytes: Vec<u8> = (0..desc.bytes()?).map(|i| (i * 37 % 251) as u8).collect();
    let source = alloc_padded(device, bytes.len())?;
    stream.upload(&source, &bytes)?;
    let packed = alloc_padded(device, device.prepack_bytes(&desc, weight.layout)?)?;
    device.prepack(stream, &desc, &source, weight.layout, &packed)?;
    let mut bytes = vec![0; packed.bytes];
    stream.download(&mut bytes, &packed)?;
    Ok((format!("probe {dtype} {:#x} {:?}", weight.layout, desc.shape), bytes))
}

/// The smallest weight of each layout and dtype, the first in the order of names among equals.
fn smallest<'a>(weights: impl IntoIterator<Item = Packed<'a>>) -> impl Iterator<Item = Packed<'a>> {
    let mut kinds: BTreeMap<(u64, &str), Packed<'_>> = BTreeMap::new();
    for weight in weights {
        let kind = kinds.entry((weight.layout, weight.desc.dtype.name())).or_insert(weight);
        if (weight.bytes, weight.name) < (kind.bytes, kind.name) {
            *kind = weight;
        }
    }
    kinds.into_values()
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
        for weight in smallest(weights.iter().copied()) {
            let (entry, now) = probe(&weight, device, stream)?;
            let then = self.tensors.get(&entry).and_then(|at| self.file.bytes()[at.clone()].get(..now.len()));
            if then != Some(&now[..]) {
                return Err(unusable(self.path(), format!("{entry} is not what this build packs")));
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

impl LoadedModel {
    /// Writes the weights that devices have in layouts of their own to a file in a folder, one for each kind of device:
    /// [`LoadOptions::prepacked`](crate::runner::LoadOptions::prepacked) finds it there. Each is there whole, or what was there
    /// before is there still.
    ///
    /// # Errors
    /// A model that is part of the program; devices that pack nothing, or do not read files where they are mapped; a file that
    /// can't be written, as on a full disk; the devices' own.
    pub fn prepack(self: &Arc<Self>, folder: &Path) -> Result<Vec<PrepackedFile>> {
        let refuse = |found: &str| Error::invalid("prepacked weights", found, "load the model as it is");
        let source = self.source().ok_or_else(|| refuse("the model is part of the program"))?;
        let stages = self.stages();
        let mut files: BTreeMap<PathBuf, BTreeMap<String, Placed<'_>>> = BTreeMap::new();
        for stage in &stages {
            let device = stage.device();
            if !device.info().caps.import_host {
                return Err(refuse(&format!("{} does not read files where they are mapped", device.info().name)).into());
            }
            let packed = stage.weights().packed().into_iter();
            let packed = packed.map(|(weight, binding)| (weight.entry(), (weight, binding, stage.sides())));
            files.entry(source.place(folder, device.info())).or_default().extend(packed);
        }
        let files = files.into_iter().filter_map(|(path, weights)| {
            let weights: Vec<_> = weights.into_values().collect();
            let (_, _, sides) = *weights.first()?;
            Some(write(&path, sides, &weights))
        });
        let files = files.collect::<Result<Vec<_>>>()?;
        if files.is_empty() {
            return Err(refuse("the device has every weight as it is stored").into());
        }
        Ok(files)
    }

    /// The file from which the weights came packed, or why the one that is there was not used; nothing where none is there.
    pub fn prepacked(&self) -> Option<std::result::Result<&Path, &EngineError>> {
        self.weights().prepacked().map(|found| found.as_ref().map(|file| file.path()))
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

/// Writes weights, all on devices of one kind, of which `sides` is one.
fn write(path: &Path, sides: &Sides, weights: &[Placed<'_>]) -> Result<PrepackedFile> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| EngineError::io("make the folder of", path, e))?;
    let device = sides.device();
    let mut stream = sides.stream(Home::Device)?;
    let probes = smallest(weights.iter().map(|(weight, ..)| *weight));
    let probes = probes.map(|weight| probe(&weight, &**device, &mut *stream)).collect::<Result<Vec<_>>>()?;
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
    for (_, bytes) in &probes {
        out.write(bytes)?;
        fill(&mut out, bytes.len(), device.info())?;
    }
    let mut piece = Vec::new();
    for (weight, binding, sides) in weights {
        let mut stream = sides.stream(Home::Device)?;
        for start in (0..weight.bytes).step_by(PIECE) {
            piece.resize(PIECE.min(weight.bytes - start), 0);
            let from = Binding::part(&binding.buffer, binding.offset + start, piece.len());
            stream.download(&mut piece, &from)?;
            out.write(&piece)?;
        }
        fill(&mut out, weight.bytes, device.info())?;
    }
    out.finish()?;
    Ok(PrepackedFile { path: path.to_path_buf(), bytes: (first.len() + header.end) as u64 })
}

/// Zeros behind so many bytes, up to where the next ones begin.
fn fill(out: &mut Pending, bytes: usize, device: &DeviceInfo) -> Result<()> {
    out.write(&vec![0; padded(bytes, device).unwrap_or(bytes) - bytes])
}

fn too_large(entry: &str) -> EngineError {
    Error::invalid("prepacked weights", format!("{entry} is larger than any file"), "load the model as it is").into()
}
