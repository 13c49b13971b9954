//! The tensors of a checkpoint: memory-mapped, dtype as stored, nothing copied.
//!
//! [`Weights::open`] takes a checkpoint directory (`model.safetensors`, or the shards that `model.safetensors.index.json` names), a
//! single `.safetensors` file, or an index file. Only headers are read on opening; a tensor's pages are read when its bytes are, and
//! can be given back with [`Weights::release`] once a device holds its own copy.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use qiao_core::DType;
use qiao_quant::import::Linear;

use crate::error::{EngineError, Result, excerpt};
use crate::form::WeightForm;

pub mod convert;
mod gguf;
mod header;
mod map;
mod packed;

pub use gguf::GgufParts;
pub use header::StoredDType;
pub use map::MappedFile;

use header::UniqueMap;
use packed::PackedPart;

/// The file name of an unsharded checkpoint.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The file name of the index of a sharded one.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// What a file says about one of its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The dtype in the file.
    pub dtype: StoredDType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    file: usize,
    range: Range<usize>,
}

impl TensorInfo {
    /// Bytes the tensor takes in its file.
    pub fn byte_len(&self) -> usize {
        self.range.len()
    }
}

/// A tensor's bytes, borrowed from the mapping. Row-major, little-endian, **not** necessarily aligned to the element size.
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a> {
    /// The tensor's name.
    pub name: &'a str,
    /// The dtype of the elements.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: &'a [usize],
    /// The elements.
    pub bytes: &'a [u8],
    /// The file the tensor lies in.
    pub path: &'a Path,
}

impl TensorRef<'_> {
    /// Refuses a tensor of another shape.
    ///
    /// # Errors
    /// [`EngineError::WrongShape`].
    pub fn require_shape(&self, expected: &[usize]) -> Result<()> {
        require_shape(self.path, self.name, expected, self.shape)
    }

    /// The elements as bytes of another float dtype.
    ///
    /// # Errors
    /// When either dtype is not f64, f32, f16 or bf16.
    pub fn converted(&self, to: DType) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        if convert::floats(self.dtype, self.bytes, to, &mut out) {
            return Ok(out);
        }
        Err(EngineError::BadTensor {
            path: self.path.to_path_buf(),
            tensor: self.name.to_string(),
            found: format!("{} cannot be converted to {} on the host", self.dtype.name(), to.name()),
            mend: "use the stored dtype, or a float dtype on both sides",
        })
    }

    /// The elements as f32.
    ///
    /// # Errors
    /// When the stored dtype is not f64, f32, f16 or bf16.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let bytes = self.converted(DType::F32)?;
        Ok(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }
}

fn require_shape(path: &Path, tensor: &str, expected: &[usize], found: &[usize]) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(EngineError::WrongShape {
        path: path.to_path_buf(),
        tensor: tensor.to_string(),
        expected: expected.to_vec(),
        found: found.to_vec(),
    })
}

/// A tensor that keeps its file mapped: what a device imports to use the bytes where they lie.
#[derive(Clone, Debug)]
pub struct TensorHandle {
    /// The tensor's name.
    pub name: String,
    /// The dtype of the elements.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    /// In its file as it is used.
    Stored { file: Arc<MappedFile>, range: Range<usize> },
    /// Unpacked when it is asked for.
    Packed(PackedPart),
}

impl TensorHandle {
    /// The elements; valid as long as the handle lives.
    ///
    /// # Errors
    /// None for a tensor that lies in its file as it is used; numbers that a packed one must not hold.
    pub fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        match &self.content {
            Content::Stored { file, range } => Ok(file.bytes()[range.clone()].into()),
            Content::Packed(part) => Ok(part.module.unpack(part.part)?.into()),
        }
    }

    /// The weights that these codes stand for, each rounded once to a float dtype; `None` for what is no codes with scales beside
    /// them.
    ///
    /// # Errors
    /// As [`TensorHandle::bytes`].
    pub fn dequantised(&self, to: DType) -> Result<Option<Vec<u8>>> {
        match &self.content {
            Content::Packed(part) if part.is_codes() => part.module.floats(to).map(Some),
            _ => Ok(None),
        }
    }

    /// The file the tensor lies in.
    pub fn path(&self) -> &Path {
        match &self.content {
            Content::Stored { file, .. } => file.path(),
            Content::Packed(part) => part.module.path(),
        }
    }

    /// The mapping and the byte range within it; `None` for a tensor that is not used as it lies in its file.
    pub fn mapping(&self) -> Option<(&Arc<MappedFile>, Range<usize>)> {
        match &self.content {
            Content::Stored { file, range } => Some((file, range.clone())),
            Content::Packed(part) => part.as_stored()?.mapping(),
        }
    }

    /// Refuses a tensor of another shape.
    ///
    /// # Errors
    /// [`EngineError::WrongShape`].
    pub fn require_shape(&self, expected: &[usize]) -> Result<()> {
        require_shape(self.path(), &self.name, expected, &self.shape)
    }

    /// Gives the tensor's resident pages back; see [`MappedFile::release`].
    pub fn release(&self) {
        match &self.content {
            Content::Stored { file, range } => file.release(range.clone()),
            Content::Packed(part) => part.module.release(),
        }
    }
}

/// The tensors of a checkpoint.
#[derive(Debug)]
pub struct Weights {
    root: PathBuf,
    files: Vec<Arc<MappedFile>>,
    tensors: BTreeMap<String, TensorInfo>,
    /// Parts of quantised modules, which stand in the place of the tensors that they were packed in.
    packed: BTreeMap<String, PackedPart>,
    /// Tensors that the index has and no file, and the shard that each should be in.
    absent: BTreeMap<String, String>,
    /// The index, where there is one.
    index: PathBuf,
    metadata: BTreeMap<String, String>,
}

/// The tensors of a safetensors file of bytes, and where they lie in it.
///
/// # Errors
/// As [`Weights::open`].
pub(crate) fn tensors_of(file: &MappedFile) -> Result<Vec<(String, Range<usize>)>> {
    let header = header::parse(file.path(), file.bytes())?;
    Ok(header.entries.into_iter().map(|entry| (entry.name, entry.range)).collect())
}

impl Weights {
    /// Opens a checkpoint directory, a `.safetensors` file or an index file; maps the files and checks their headers.
    ///
    /// A directory with both a single file and an index is read as a single file.
    ///
    /// # Errors
    /// Missing files and shards; headers that are truncated, corrupted, overlapping or absurdly sized; a tensor that the index
    /// assigns to another shard than the one that holds it; a name held by two shards. A tensor that the index assigns to a shard
    /// and that none holds is an error when it is asked for.
    pub fn open(path: impl AsRef<Path>) -> Result<Weights> {
        let path = path.as_ref();
        if !path.is_dir() {
            return match path.extension() {
                Some(ext) if ext == "json" => Weights::open_index(path),
                _ => Weights::open_files(path, vec![path.to_path_buf()]),
            };
        }
        let single = path.join(SINGLE_FILE);
        if single.is_file() {
            return Weights::open_files(path, vec![single]);
        }
        let index = path.join(INDEX_FILE);
        if index.is_file() {
            return Weights::open_index(&index);
        }
        if let Some(other) = ascend_file(path)? {
            return Weights::open(other);
        }
        Err(EngineError::MissingFile {
            dir: path.to_path_buf(),
            expected: vec![SINGLE_FILE.to_string(), INDEX_FILE.to_string()],
            mend: "download the weights in safetensors format",
        })
    }

    /// Reads a safetensors file that is part of the program; `path` names it in error texts.
    ///
    /// # Errors
    /// As [`Weights::open`].
    pub fn embedded(path: impl AsRef<Path>, bytes: &'static [u8]) -> Result<Weights> {
        let path = path.as_ref();
        let mut weights = Weights::empty(path);
        weights.add_file(MappedFile::embedded(path, bytes))?;
        Ok(weights)
    }

    fn empty(root: &Path) -> Weights {
        Weights {
            root: root.to_path_buf(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
            packed: BTreeMap::new(),
            absent: BTreeMap::new(),
            index: PathBuf::new(),
            metadata: BTreeMap::new(),
        }
    }

    fn open_files(root: &Path, paths: Vec<PathBuf>) -> Result<Weights> {
        let mut weights = Weights::empty(root);
        for path in paths {
            weights.add_file(MappedFile::open(&path)?)?;
        }
        Ok(weights)
    }

    fn add_file(&mut self, file: MappedFile) -> Result<()> {
        let path = file.path();
        let header = header::parse(path, file.bytes())?;
        let index = self.files.len();
        for entry in header.entries {
            let info = TensorInfo { dtype: entry.dtype, shape: entry.shape, file: index, range: entry.range };
            if let Some(first) = self.tensors.get(&entry.name) {
                return Err(EngineError::BadTensor {
                    path: path.to_path_buf(),
                    tensor: excerpt(&entry.name),
                    found: format!("also stored in {}", self.files[first.file].path().display()),
                    mend: "the shards belong to different checkpoints: download them again",
                });
            }
            self.tensors.insert(entry.name, info);
        }
        self.metadata.extend(header.metadata);
        self.files.push(Arc::new(file));
        Ok(())
    }

    fn open_index(path: &Path) -> Result<Weights> {
        #[derive(serde::Deserialize)]
        struct Index {
            weight_map: UniqueMap<String>,
        }
        let text = std::fs::read(path).map_err(|e| EngineError::io("read", path, e))?;
        let index: Index = serde_json::from_slice(&text).map_err(|e| {
            EngineError::malformed(path, "safetensors index", excerpt(&e.to_string()), "download the index again")
        })?;
        let map = index.weight_map.0;
        let root = path.parent().unwrap_or(Path::new(""));
        let mut shards: BTreeMap<&str, &str> = BTreeMap::new();
        for (tensor, shard) in &map {
            shards.entry(shard).or_insert(tensor);
        }
        let mut paths = Vec::with_capacity(shards.len());
        for (shard, tensor) in shards {
            paths.push(shard_path(path, root, shard, tensor)?);
        }
        let mut weights = Weights::open_files(root, paths)?;
        for (tensor, shard) in map {
            match weights.tensors.get(&tensor).map(|info| weights.files[info.file].path()) {
                Some(found) if found == root.join(&shard) => {}
                Some(_) => return Err(not_in_shard(path, &tensor, &shard)),
                None => drop(weights.absent.insert(tensor, shard)),
            }
        }
        weights.index = path.to_path_buf();
        Ok(weights)
    }

    /// A tensor's bytes.
    ///
    /// # Errors
    /// [`EngineError::MissingTensor`]; [`EngineError::BadTensor`] when its dtype is one that no device here can be given, or when
    /// the index assigns it to a shard that does not hold it.
    pub fn tensor(&self, name: &str) -> Result<TensorRef<'_>> {
        let (name, info) = self.find(name)?;
        let file = &self.files[info.file];
        Ok(TensorRef {
            name,
            dtype: self.native(name, info)?,
            shape: &info.shape,
            bytes: &file.bytes()[info.range.clone()],
            path: file.path(),
        })
    }

    /// A tensor's elements.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn bytes(&self, name: &str) -> Result<Cow<'_, [u8]>> {
        match self.packed.get(name) {
            Some(part) => Ok(part.module.unpack(part.part)?.into()),
            None => Ok(self.tensor(name)?.bytes.into()),
        }
    }

    /// A tensor that keeps its file mapped after the `Weights` are gone.
    ///
    /// # Errors
    /// As [`Weights::tensor`].
    pub fn handle(&self, name: &str) -> Result<TensorHandle> {
        if let Some(part) = self.packed.get(name) {
            let (dtype, shape) = (part.dtype, part.shape.clone());
            return Ok(TensorHandle { name: name.to_string(), dtype, shape, content: Content::Packed(part.clone()) });
        }
        let (name, info) = self.find(name)?;
        Ok(TensorHandle {
            name: name.to_string(),
            dtype: self.native(name, info)?,
            shape: info.shape.clone(),
            content: Content::Stored { file: Arc::clone(&self.files[info.file]), range: info.range.clone() },
        })
    }

    /// What the file says about a tensor, whatever its dtype.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// Whether the checkpoint holds a tensor, or its index says so: then asking for the tensor tells that it is missing.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name) || self.packed.contains_key(name) || self.absent.contains_key(name)
    }

    /// Names that the index of the checkpoint has and no file, sorted. They are not among [`Weights::names`].
    pub fn absent(&self) -> impl Iterator<Item = &str> {
        self.absent.keys().map(String::as_str)
    }

    /// The form of a weight; `None` for a name that is not there, and for codes whose scales are not.
    pub fn form(&self, name: &str) -> Option<WeightForm> {
        let native = |info: &TensorInfo| match info.dtype {
            StoredDType::Native(dtype) if convert::is_convertible(dtype) => Some(WeightForm::Plain(dtype)),
            _ => None,
        };
        match self.packed.get(name) {
            Some(part) if part.is_codes() => Some(part.module.form()),
            Some(part) => Some(WeightForm::Plain(part.dtype)),
            None => self.tensors.get(name).and_then(native),
        }
    }

    /// How the module is packed that a tensor is a part of.
    pub(crate) fn packed_linear(&self, name: &str) -> Option<&Linear> {
        self.packed.get(name).map(|part| part.module.linear())
    }

    /// What is unpacked, one tensor of each kind: the smallest, the first by name among equals.
    pub(crate) fn samples(&self) -> Vec<&str> {
        let mut kinds: BTreeMap<String, &str> = BTreeMap::new();
        for (name, part) in self.packed.iter().filter(|(_, part)| part.as_stored().is_none()) {
            let kind = kinds.entry(format!("{:?} {} {:?}", part.part, part.dtype, part.module.form())).or_insert(name);
            if self.byte_len(name) < self.byte_len(kind) {
                *kind = name;
            }
        }
        kinds.into_values().collect()
    }

    /// The dtypes of all weights that are used as they are stored.
    pub(crate) fn dtypes(&self) -> BTreeMap<String, DType> {
        let of = |name: &str| match self.form(name)? {
            WeightForm::Plain(dtype) => Some((name.to_string(), dtype)),
            _ => None,
        };
        self.names().filter_map(of).collect()
    }

    /// The dtype of a tensor as it is used; `None` for a name that is not there, or a dtype that no device can be given.
    pub(crate) fn stored_dtype(&self, name: &str) -> Option<DType> {
        match self.packed.get(name) {
            Some(part) => Some(part.dtype),
            None => match self.tensors.get(name)?.dtype {
                StoredDType::Native(dtype) => Some(dtype),
                StoredDType::Foreign(_) => None,
            },
        }
    }

    /// Whether a tensor is a part of a quantised module.
    pub fn is_part(&self, name: &str) -> bool {
        self.packed.contains_key(name)
    }

    /// Bytes that a tensor takes as it is used; 0 for a name that is not there.
    pub fn byte_len(&self, name: &str) -> u64 {
        match self.packed.get(name) {
            Some(part) => part.dtype.bytes_for(part.shape.iter().product()).unwrap_or(0) as u64,
            None => self.tensors.get(name).map_or(0, |info| info.byte_len() as u64),
        }
    }

    /// Names of all tensors: those that are used as they are stored, sorted, then the parts of quantised modules, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().chain(self.packed.keys()).map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len() + self.packed.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of all tensors together.
    pub fn total_bytes(&self) -> u64 {
        self.names().map(|name| self.byte_len(name)).sum()
    }

    /// The `__metadata__` of the files, merged; of a key in several shards the last shard's value.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The files, in the order they were opened.
    pub fn files(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| file.path())
    }

    /// The files as they are mapped, in the same order.
    pub(crate) fn mapped(&self) -> &[Arc<MappedFile>] {
        &self.files
    }

    /// Where every stored tensor lies: those that are used as they are, then what modules were packed in.
    pub(crate) fn stored(&self) -> impl Iterator<Item = (&Arc<MappedFile>, Range<usize>)> {
        let plain = self.tensors.values().map(|info| (&self.files[info.file], info.range.clone()));
        let modules = self.packed.values().filter(|part| part.is_codes()).map(|part| &part.module);
        plain.chain(modules.flat_map(|module| module.stored()))
    }

    /// What was opened.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Gives the resident pages of a tensor back once its bytes have been copied elsewhere. Unknown names are ignored.
    pub fn release(&self, name: &str) {
        if let Some(info) = self.tensors.get(name) {
            self.files[info.file].release(info.range.clone());
        }
    }

    /// Asks the system to read a tensor ahead. Unknown names are ignored.
    pub fn will_need(&self, name: &str) {
        if let Some(info) = self.tensors.get(name) {
            self.files[info.file].will_need(info.range.clone());
        }
    }

    fn find(&self, name: &str) -> Result<(&str, &TensorInfo)> {
        match self.tensors.get_key_value(name) {
            Some((key, info)) => Ok((key, info)),
            None => Err(match self.absent.get(name) {
                Some(shard) => not_in_shard(&self.index, name, shard),
                None => EngineError::MissingTensor {
                    path: self.root.clone(),
                    tensor: excerpt(name),
                    count: self.tensors.len(),
                    nearest: self.nearest(name),
                },
            }),
        }
    }

    fn native(&self, name: &str, info: &TensorInfo) -> Result<DType> {
        match &info.dtype {
            StoredDType::Native(dtype) => Ok(*dtype),
            StoredDType::Foreign(found) => Err(EngineError::BadTensor {
                path: self.files[info.file].path().to_path_buf(),
                tensor: excerpt(name),
                found: format!("dtype {:?} is not one this version reads", excerpt(found)),
                mend: "convert the tensor to a common dtype",
            }),
        }
    }

    /// The name sharing most of its head and tail with `name`, when it shares at least half.
    fn nearest(&self, name: &str) -> Option<String> {
        let likeness = |other: &str| {
            let head = name.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            let tail = name.bytes().rev().zip(other.bytes().rev()).take_while(|(a, b)| a == b).count();
            (head + tail).min(name.len().min(other.len()))
        };
        let best = self.tensors.keys().max_by_key(|other| likeness(other))?;
        (likeness(best) * 2 >= name.len()).then(|| excerpt(best))
    }
}

/// The index, or the one file, that Ascend's tools write into a directory.
fn ascend_file(dir: &Path) -> Result<Option<PathBuf>> {
    let entries = std::fs::read_dir(dir).map_err(|e| EngineError::io("read", dir, e))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let named = |path: &Path, end: &str| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("quant_model_weight") && name.ends_with(end)
    };
    found.sort();
    let index = found.iter().find(|path| named(path, ".safetensors.index.json"));
    Ok(index.or_else(|| found.iter().find(|path| named(path, ".safetensors"))).cloned())
}

fn not_in_shard(index: &Path, tensor: &str, shard: &str) -> EngineError {
    EngineError::BadTensor {
        path: index.to_path_buf(),
        tensor: excerpt(tensor),
        found: format!("assigned to {:?}, which does not hold it", excerpt(shard)),
        mend: "index and shards do not belong together: download both again",
    }
}

/// The path of a shard: a plain file name next to the index, so that an index cannot point elsewhere on the disk.
fn shard_path(index: &Path, root: &Path, shard: &str, tensor: &str) -> Result<PathBuf> {
    let mut parts = Path::new(shard).components();
    let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
    if !plain {
        return Err(EngineError::malformed(
            index,
            "safetensors index",
            format!("shard {:?}, which is not a plain file name", excerpt(shard)),
            "name the shards relative to the index, without folders",
        ));
    }
    let path = root.join(shard);
    if !path.is_file() {
        return Err(EngineError::MissingShard {
            index: index.to_path_buf(),
            shard: excerpt(shard),
            tensor: excerpt(tensor),
        });
    }
    Ok(path)
}

#[cfg(test)]
mod tests;
