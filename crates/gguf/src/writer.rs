//! Writing a file: the header first, since all sizes follow from shapes, then the tensors' bytes as a stream.

use std::collections::HashSet;
use std::io::Write;

use qiao_core::DType;

use crate::error::{GgufError, Result, excerpt};
use crate::metadata::Metadata;
use crate::types::dtype_of;
use crate::value::{Value, write_text};
use crate::{
    ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMS, NAME_LIMIT, QUANTIZATION_VERSION, QUANTIZATION_VERSION_KEY,
    VERSION,
};

/// The largest alignment that is written.
const MAX_ALIGNMENT: u32 = 1 << 16;

/// What is to stand in a file: metadata, and the tensors with their shapes, in the order in which their bytes will come.
///
/// ```
/// use qiao_core::DType;
/// use qiao_gguf::{Gguf, GgufHeader};
///
/// let mut header = GgufHeader::new();
/// header.set("general.architecture", "llama");
/// header.set("llama.block_count", 1u32);
/// header.tensor("output_norm.weight", DType::F32, &[4])?;
/// header.tensor("output.weight", DType::Q8_0, &[2, 32])?;
///
/// let mut file = header.begin(Vec::new())?;
/// file.tensor("output_norm.weight", &[0; 16])?;
/// // The bytes of a tensor may come in pieces of any size.
/// file.append("output.weight", &[0; 34])?;
/// file.append("output.weight", &[0; 34])?;
/// let bytes = file.finish()?;
///
/// let read = Gguf::parse(&bytes)?;
/// assert_eq!(read.tensor("output.weight").unwrap().shape, [2, 32]);
/// assert_eq!(read.metadata().uint("general.quantization_version")?, Some(2));
/// # Ok::<(), qiao_gguf::GgufError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct GgufHeader {
    metadata: Metadata,
    tensors: Vec<Planned>,
    names: HashSet<String>,
}

/// A tensor to come.
#[derive(Clone, Debug)]
struct Planned {
    name: String,
    type_id: u32,
    dtype: DType,
    /// Outermost first.
    shape: Vec<usize>,
    bytes: usize,
}

impl GgufHeader {
    /// No metadata, no tensors.
    pub fn new() -> GgufHeader {
        GgufHeader::default()
    }

    /// Begins with metadata, that of another file for example. Whoever takes it from a part of a split file removes the
    /// `split.` keys.
    pub fn with_metadata(metadata: Metadata) -> GgufHeader {
        GgufHeader { metadata, ..GgufHeader::default() }
    }

    /// Sets a key, in its place where it is there already. Any value: numbers, booleans, texts, `Vec`s of numbers,
    /// [`Strings`](crate::Strings), [`Array`](crate::Array)s. Loaders expect `general.architecture` first.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.set(key, value);
    }

    /// The metadata so far.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Adds a tensor; its bytes will come in the order of these calls. `shape` is outermost first, `[rows, columns]` of a
    /// weight; a row is whole blocks.
    ///
    /// # Errors
    /// An empty name, one of 64 bytes or more, one given twice; more than four dimensions; a dtype that files can not hold;
    /// rows that are no whole number of blocks; more bytes than memory addresses.
    pub fn tensor(&mut self, name: &str, dtype: DType, shape: &[usize]) -> Result<()> {
        let bad =
            |found: String, mend| GgufError::Unwritable { what: format!("tensor {:?}", excerpt(name)), found, mend };
        if name.is_empty() || name.len() >= NAME_LIMIT {
            let found = format!("a name of {} bytes, where 1 to {} are allowed", name.len(), NAME_LIMIT - 1);
            return Err(bad(found, "give it a shorter name, as in the tables of GGUF tensor names"));
        }
        if self.names.contains(name) {
            return Err(bad("the name is taken".to_string(), "give each tensor once"));
        }
        if shape.len() > MAX_DIMS {
            return Err(bad(format!("{} dimensions, where {MAX_DIMS} are allowed", shape.len()), "merge dimensions"));
        }
        let Some(kind) = dtype_of(dtype) else {
            let mend = "convert it to f32, f16, bf16, a signed integer or a block format";
            return Err(bad(format!("dtype {dtype} has no type in GGUF"), mend));
        };
        let row = shape.last().copied().unwrap_or(1);
        if !row.is_multiple_of(kind.elems) {
            let found =
                format!("rows of {row} elements, no multiple of the {} in a block of {}", kind.elems, kind.name);
            return Err(bad(found, "choose a format with smaller blocks, or a plain one, for this tensor"));
        }
        let elements = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim));
        let Some(bytes) = elements.and_then(|n| dtype.bytes_for(n)) else {
            return Err(bad(format!("shape {shape:?} is beyond 64 bits"), "check the shape"));
        };
        self.names.insert(name.to_string());
        let (name, shape) = (name.to_string(), shape.to_vec());
        self.tensors.push(Planned { name, type_id: kind.id, dtype, shape, bytes });
        Ok(())
    }

    /// Bytes of the whole file as it will be, header and padding included.
    ///
    /// # Errors
    /// As [`GgufHeader::begin`].
    pub fn file_len(&self) -> Result<u64> {
        let (header, alignment) = self.encode()?;
        let data = self.tensors.iter().map(|t| padded(t.bytes as u64, alignment)).sum::<u64>();
        Ok(header.len() as u64 + data)
    }

    /// Writes the header; what comes back takes the tensors' bytes.
    ///
    /// `general.quantization_version` is added where a tensor is quantised and the key is not set.
    ///
    /// # Errors
    /// A `general.alignment` that is no power of two from 8 to 65536; an empty key; an output that refuses the bytes.
    pub fn begin<W: Write>(self, mut out: W) -> Result<GgufWriter<W>> {
        let (header, alignment) = self.encode()?;
        out.write_all(&header)?;
        Ok(GgufWriter { out, tensors: self.tensors, alignment, current: 0, written: 0 })
    }

    /// The header with its padding, and the alignment.
    fn encode(&self) -> Result<(Vec<u8>, u64)> {
        let mut metadata = self.metadata.clone();
        if self.tensors.iter().any(|t| t.dtype.is_block()) && metadata.get(QUANTIZATION_VERSION_KEY).is_none() {
            metadata.set(QUANTIZATION_VERSION_KEY, QUANTIZATION_VERSION);
        }
        let alignment = alignment(&mut metadata)?;
        let mut out = Vec::new();
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        out.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            if key.is_empty() {
                let found = "the key is empty".to_string();
                return Err(GgufError::Unwritable {
                    what: "metadata".to_string(),
                    found,
                    mend: "give the value a key",
                });
            }
            write_text(key, &mut out);
            value.write(&mut out);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            write_text(&tensor.name, &mut out);
            out.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&dim| out.extend_from_slice(&(dim as u64).to_le_bytes()));
            out.extend_from_slice(&tensor.type_id.to_le_bytes());
            out.extend_from_slice(&offset.to_le_bytes());
            offset += padded(tensor.bytes as u64, alignment);
        }
        out.resize(padded(out.len() as u64, alignment) as usize, 0);
        Ok((out, alignment))
    }
}

/// The alignment that the metadata ask for, written as the u32 that readers expect.
fn alignment(metadata: &mut Metadata) -> Result<u64> {
    let Some(given) = metadata.uint(ALIGNMENT_KEY)? else { return Ok(DEFAULT_ALIGNMENT as u64) };
    let Some(alignment) = u32::try_from(given).ok().filter(|a| a.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(a))
    else {
        let expected = "a power of two from 8 to 65536";
        return Err(GgufError::Key { key: ALIGNMENT_KEY.to_string(), expected, found: given.to_string() });
    };
    metadata.set(ALIGNMENT_KEY, alignment);
    Ok(u64::from(alignment))
}

fn padded(bytes: u64, alignment: u64) -> u64 {
    bytes.next_multiple_of(alignment)
}

/// A file whose header is written and whose tensors follow, in the order in which the header names them.
///
/// Nothing is kept: what is handed in goes to the output. For small pieces give it an output with a buffer.
#[derive(Debug)]
pub struct GgufWriter<W> {
    out: W,
    tensors: Vec<Planned>,
    alignment: u64,
    /// The tensor whose bytes are due, and how many it has.
    current: usize,
    written: usize,
}

impl<W: Write> GgufWriter<W> {
    /// The tensor whose bytes are due next: name, dtype, shape (outermost first). `None` when all are written.
    pub fn upcoming(&self) -> Option<(&str, DType, &[usize])> {
        self.tensors.get(self.current).map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice()))
    }

    /// Writes a whole tensor.
    ///
    /// # Errors
    /// A tensor that is not the one that is due, or of another length than its shape and dtype take; an output that refuses.
    pub fn tensor(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let due = self.due(name)?;
        if bytes.len() != due {
            let found = format!("{} bytes where {due} are due", bytes.len());
            return Err(unwritable(name, found, "give all its bytes, or append them in pieces"));
        }
        self.append(name, bytes)
    }

    /// Writes the next bytes of a tensor, as many as there are at hand. A tensor of no bytes takes one call as well.
    ///
    /// # Errors
    /// A tensor that is not the one that is due; more bytes than are left of it; an output that refuses.
    pub fn append(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let due = self.due(name)?;
        if bytes.len() > due {
            let found = format!("{} bytes where {due} are due", bytes.len());
            return Err(unwritable(name, found, "its shape and dtype in the header say how many it has"));
        }
        self.out.write_all(bytes)?;
        self.written += bytes.len();
        if bytes.len() == due {
            self.pad()?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Ends the file; the output comes back, flushed.
    ///
    /// # Errors
    /// When a tensor is missing or has too few bytes; an output that refuses.
    pub fn finish(mut self) -> Result<W> {
        if let Some(tensor) = self.tensors.get(self.current) {
            let found = format!(
                "{} of its {} bytes are there, and {} tensor(s) after it are missing",
                self.written,
                tensor.bytes,
                self.tensors.len() - self.current - 1
            );
            return Err(unwritable(&tensor.name, found, "write every tensor that the header names before the end"));
        }
        self.out.flush()?;
        Ok(self.out)
    }

    /// Bytes that are left of the current tensor, which must be this one.
    fn due(&self, name: &str) -> Result<usize> {
        match self.tensors.get(self.current) {
            Some(tensor) if tensor.name == name => Ok(tensor.bytes - self.written),
            Some(tensor) => {
                let found = format!("tensor {:?} is due", excerpt(&tensor.name));
                Err(unwritable(name, found, "write the tensors in the order of the header"))
            }
            None => Err(unwritable(name, "all tensors are written".to_string(), "name it in the header")),
        }
    }

    fn pad(&mut self) -> Result<()> {
        const ZEROS: [u8; 64] = [0; 64];
        let bytes = self.tensors[self.current].bytes as u64;
        let mut left = padded(bytes, self.alignment) - bytes;
        while left > 0 {
            let piece = left.min(ZEROS.len() as u64);
            self.out.write_all(&ZEROS[..piece as usize])?;
            left -= piece;
        }
        Ok(())
    }
}

fn unwritable(name: &str, found: String, mend: &'static str) -> GgufError {
    GgufError::Unwritable { what: format!("tensor {:?}", excerpt(name)), found, mend }
}
