//! The header of a file: parsed and checked before anything reads a tensor.

use std::collections::HashSet;
use std::ops::Range;

use qiao_core::DType;

use crate::cursor::{Cursor, Place};
use crate::error::{GgufError, Result, excerpt};
use crate::metadata::Metadata;
use crate::types::{GgmlType, ggml_type};
use crate::value::Value;
use crate::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, VERSION};

/// The least that an entry takes: the length of its key, its type, a byte.
const LEAST_ENTRY: usize = 13;
/// The least that a description takes: the length of its name, rank, type, offset.
const LEAST_DESCRIPTION: usize = 24;
const OTHER_FILE: &str = "give a .gguf file";
const DAMAGED: &str = "the file is damaged: download or make it again";

/// What a file says about one of its tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// Dimensions, outermost first: the reverse of their order in the file.
    pub shape: Vec<usize>,
    /// ggml's id of the type.
    pub type_id: u32,
    /// The dtype with the same blocks; `None` for types that are not read here.
    pub dtype: Option<DType>,
    /// Bytes from the start of the tensor data.
    pub offset: usize,
    /// Bytes within the file; `None` where the id is none that ggml has given out, so that the size is not known.
    pub range: Option<Range<usize>>,
}

/// The header of a file, checked: tensors lie inside the file, aligned, and apart from each other.
#[derive(Clone, Debug, PartialEq)]
pub struct Gguf {
    version: u32,
    alignment: usize,
    data_start: usize,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Indices of `tensors`, sorted by name.
    by_name: Vec<usize>,
}

impl Gguf {
    /// Reads the header of a file from the bytes of the whole file; tensor data is not touched.
    ///
    /// # Errors
    /// A file of another kind, version or byte order; counts and lengths beyond the file; a key or name given twice; a
    /// tensor that is misaligned, lies outside the data or overlaps another. Each names the offset, the key or tensor,
    /// what was found and how to mend it.
    pub fn parse(bytes: &[u8]) -> Result<Gguf> {
        let mut cursor = Cursor::new(bytes);
        let version = version(&mut cursor, bytes)?;
        let tensor_count = cursor.count(LEAST_DESCRIPTION, "tensors", Place::Header)?;
        let entry_count = cursor.count(LEAST_ENTRY, "metadata entries", Place::Header)?;
        let metadata = read_metadata(&mut cursor, entry_count)?;
        let alignment = alignment(&metadata)?;
        let raw = read_descriptions(&mut cursor, tensor_count)?;
        let end = cursor.offset();
        let data_start = match end.checked_next_multiple_of(alignment) {
            Some(start) if start <= bytes.len() => start,
            // A file without tensor bytes may end with its header.
            _ => bytes.len(),
        };
        let mut tensors = Vec::new();
        for raw in raw {
            tensors.push(raw.check(alignment, data_start, bytes.len())?);
        }
        check_apart(&tensors)?;
        let by_name = sorted_by_name(&tensors)?;
        Ok(Gguf { version, alignment, data_start, metadata, tensors, by_name })
    }

    /// The version that the file states: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What offsets of tensors are multiples of, in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Where tensor data starts, in bytes from the start of the file.
    pub fn data_start(&self) -> usize {
        self.data_start
    }

    /// Keys and values.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors, in the order of their descriptions.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// A tensor by its name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let at = self.by_name.binary_search_by(|&i| self.tensors[i].name.as_str().cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[at]])
    }

    /// The bytes of a tensor, out of the bytes of the file that this header was read from.
    ///
    /// # Errors
    /// A name that the file does not hold; a type that has no dtype here, by id and name; bytes that are not the file's.
    pub fn data<'a>(&self, file: &'a [u8], name: &str) -> Result<(DType, &'a [u8])> {
        let missing = || GgufError::MissingTensor { name: excerpt(name), count: self.tensors.len() };
        let info = self.tensor(name).ok_or_else(missing)?;
        let (dtype, range) = info.readable()?;
        let bytes = file.get(range.clone()).ok_or_else(|| {
            let found = format!("its bytes {}..{} are beyond the {} bytes given", range.start, range.end, file.len());
            Cursor::bad(range.start, Place::Tensor(name), found, "give the bytes that the header was read from")
        })?;
        Ok((dtype, bytes))
    }
}

impl TensorInfo {
    /// Dtype and byte range, for a tensor that can be read.
    ///
    /// # Errors
    /// [`GgufError::UnknownType`].
    pub fn readable(&self) -> Result<(DType, Range<usize>)> {
        match (self.dtype, &self.range) {
            (Some(dtype), Some(range)) => Ok((dtype, range.clone())),
            _ => Err(GgufError::UnknownType {
                name: excerpt(&self.name),
                id: self.type_id,
                known_as: ggml_type(self.type_id).map(|t| t.name),
            }),
        }
    }
}

fn version(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<u32> {
    if bytes.len() < MAGIC.len() || bytes[..MAGIC.len()] != MAGIC {
        let head = &bytes[..bytes.len().min(8)];
        let (found, mend) = match head.is_empty() {
            true => ("nothing: it is empty".to_string(), OTHER_FILE),
            false if bytes.starts_with(b"version https://git-lfs") => {
                ("a Git LFS pointer".to_string(), "fetch the file itself (git lfs pull), or download it")
            }
            false => (format!("\"{}\"", head.escape_ascii()), OTHER_FILE),
        };
        return Err(GgufError::NotGguf { found, mend });
    }
    cursor.take(MAGIC.len(), Place::Header)?;
    match cursor.u32(Place::Header)? {
        version @ 2..=VERSION => Ok(version),
        swapped if swapped & 0xffff == 0 && swapped != 0 => Err(GgufError::BigEndian { version: swapped.swap_bytes() }),
        found => Err(GgufError::Version { found }),
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: usize) -> Result<Metadata> {
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut seen = HashSet::new();
    for n in 0..count {
        let place = Place::Entry(n as u64);
        let at = cursor.offset();
        let key = cursor.string(place)?;
        if key.is_empty() {
            return Err(Cursor::bad(at, place, "an empty key".to_string(), DAMAGED));
        }
        if !seen.insert(key) {
            let mend = "which of its values counts is not defined: make the file again";
            return Err(Cursor::bad(at, Place::Key(key), "given twice".to_string(), mend));
        }
        let value = Value::read(cursor, Place::Key(key))?;
        entries.push((key.to_string(), value));
    }
    Ok(Metadata::from_entries(entries))
}

fn alignment(metadata: &Metadata) -> Result<usize> {
    let Some(given) = metadata.uint(ALIGNMENT_KEY)? else { return Ok(DEFAULT_ALIGNMENT) };
    u32::try_from(given).ok().filter(|a| a.is_power_of_two()).map(|a| a as usize).ok_or_else(|| GgufError::Key {
        key: ALIGNMENT_KEY.to_string(),
        expected: "a power of two below 2³²",
        found: given.to_string(),
    })
}

/// A description as it lies in the file.
struct Raw<'a> {
    at: usize,
    name: &'a str,
    /// Innermost first.
    dims: [u64; MAX_DIMS],
    rank: usize,
    type_id: u32,
    offset: u64,
}

fn read_descriptions<'a>(cursor: &mut Cursor<'a>, count: usize) -> Result<Vec<Raw<'a>>> {
    let mut out = Vec::new();
    for n in 0..count {
        let at = cursor.offset();
        let name = cursor.string(Place::Description(n as u64))?;
        let place = Place::Tensor(name);
        if name.is_empty() {
            return Err(Cursor::bad(at, Place::Description(n as u64), "an empty name".to_string(), DAMAGED));
        }
        let rank = cursor.u32(place)?;
        if rank as usize > MAX_DIMS {
            let found = format!("{rank} dimensions, where the format allows {MAX_DIMS}");
            return Err(Cursor::bad(at, place, found, DAMAGED));
        }
        let mut dims = [1; MAX_DIMS];
        for dim in dims.iter_mut().take(rank as usize) {
            *dim = cursor.u64(place)?;
        }
        let (type_id, offset) = (cursor.u32(place)?, cursor.u64(place)?);
        out.push(Raw { at, name, dims, rank: rank as usize, type_id, offset });
    }
    Ok(out)
}

impl Raw<'_> {
    fn bad(&self, found: String) -> GgufError {
        Cursor::bad(self.at, Place::Tensor(self.name), found, DAMAGED)
    }

    /// Checks the tensor by itself: a size that can be, an offset inside the data.
    fn check(self, alignment: usize, data_start: usize, file: usize) -> Result<TensorInfo> {
        let mut shape = Vec::with_capacity(self.rank);
        for &dim in self.dims[..self.rank].iter().rev() {
            let fits = usize::try_from(dim).ok().filter(|&d| d <= isize::MAX as usize);
            shape.push(fits.ok_or_else(|| self.bad(format!("dimension {dim} is beyond this machine")))?);
        }
        let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let elements =
            elements.ok_or_else(|| self.bad(format!("shape {shape:?} has more elements than 64 bits count")))?;
        let known = ggml_type(self.type_id);
        let size = known.map(|t| self.size(t, &shape, elements)).transpose()?;
        let data = file - data_start;
        let offset = usize::try_from(self.offset).ok().filter(|&o| o <= data).ok_or_else(|| {
            self.bad(format!("data offset {} is beyond the {data} bytes of tensor data in the file", self.offset))
        })?;
        if !offset.is_multiple_of(alignment) {
            return Err(self.bad(format!("data offset {offset} is no multiple of the file's alignment {alignment}")));
        }
        if let Some(size) = size.filter(|&size| size > data - offset) {
            return Err(self.bad(format!(
                "{size} bytes from data offset {offset} on, where the file ends after {}: it is cut short",
                data - offset
            )));
        }
        let start = data_start + offset;
        Ok(TensorInfo {
            name: self.name.to_string(),
            shape,
            type_id: self.type_id,
            dtype: known.and_then(|t| t.dtype),
            offset,
            range: size.map(|size| start..start + size),
        })
    }

    /// Bytes of the tensor: rows of whole blocks.
    fn size(&self, t: &GgmlType, shape: &[usize], elements: usize) -> Result<usize> {
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(t.elems) {
            return Err(
                self.bad(format!("rows of {row} elements, no multiple of the {} in a block of {}", t.elems, t.name))
            );
        }
        (elements / t.elems)
            .checked_mul(t.bytes)
            .ok_or_else(|| self.bad(format!("shape {shape:?} of {} takes more bytes than 64 bits count", t.name)))
    }
}

/// Refuses tensors that share bytes. One of unknown size counts for its first byte.
fn check_apart(tensors: &[TensorInfo]) -> Result<()> {
    let mut order: Vec<&TensorInfo> =
        tensors.iter().filter(|t| t.range.as_ref().is_none_or(|r| !r.is_empty())).collect();
    order.sort_by_key(|t| t.offset);
    for pair in order.windows(2) {
        let (first, second) = (pair[0], pair[1]);
        let end = first.offset + first.range.as_ref().map_or(1, |r| r.len());
        if second.offset < end {
            let found =
                format!("data offset {}, inside tensor {:?}, which ends at {end}", second.offset, excerpt(&first.name));
            let at = second.range.as_ref().map_or(0, |r| r.start);
            return Err(Cursor::bad(at, Place::Tensor(&second.name), found, DAMAGED));
        }
    }
    Ok(())
}

fn sorted_by_name(tensors: &[TensorInfo]) -> Result<Vec<usize>> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|&a, &b| tensors[a].name.cmp(&tensors[b].name));
    if let Some(pair) = order.windows(2).find(|pair| tensors[pair[0]].name == tensors[pair[1]].name) {
        let second = &tensors[pair[1]];
        let at = second.range.as_ref().map_or(0, |r| r.start);
        return Err(Cursor::bad(at, Place::Tensor(&second.name), "described twice".to_string(), DAMAGED));
    }
    Ok(order)
}
