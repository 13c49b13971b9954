//! The header of a safetensors file: parsed and checked before anything reads a tensor.
//!
//! Layout (the safetensors format page): 8 bytes little-endian header length `n`, `n` bytes of JSON, then the data buffer that the
//! tensors' offsets count in. The parser is ours and not the `safetensors` crate's because that one refuses a whole file for one
//! tensor of a dtype it does not know, and lets a repeated name overwrite the first.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;

use qiao_core::DType;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::error::{EngineError, Result, excerpt};

/// Largest header accepted, in bytes; the reference implementation's limit.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;
/// Most dimensions a tensor may have.
const MAX_RANK: usize = 32;
const LENGTH_BYTES: usize = 8;
const FORMAT: &str = "safetensors";
const MEND: &str = "download the file again and compare its size with the source";

/// The dtype of a stored tensor, as its file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoredDType {
    /// A dtype that devices can be given.
    Native(DType),
    /// Any other name in the file. Its tensor can be listed, not read; the rest of the file is not affected.
    Foreign(String),
}

impl StoredDType {
    fn from_name(name: &str) -> StoredDType {
        let dtype = match name {
            "F64" => DType::F64,
            "F32" => DType::F32,
            "F16" => DType::F16,
            "BF16" => DType::BF16,
            "F8_E4M3" => DType::F8E4M3,
            "F8_E5M2" => DType::F8E5M2,
            "F8_E8M0" => DType::F8E8M0,
            "F8_E4M3FNUZ" => DType::F8E4M3Fnuz,
            "F8_E5M2FNUZ" => DType::F8E5M2Fnuz,
            "F4" => DType::F4E2M1,
            "I64" => DType::I64,
            "I32" => DType::I32,
            "I16" => DType::I16,
            "I8" => DType::I8,
            "U64" => DType::U64,
            "U32" => DType::U32,
            "U16" => DType::U16,
            "U8" => DType::U8,
            "BOOL" => DType::Bool,
            other => return StoredDType::Foreign(other.to_string()),
        };
        StoredDType::Native(dtype)
    }

    /// Bytes of `elements` elements; `None` when the dtype's size is not known or does not come out even.
    fn bytes_of(&self, elements: u64) -> Option<u64> {
        let StoredDType::Native(dtype) = self else {
            return None;
        };
        let per_block = dtype.block_elems() as u64;
        if !elements.is_multiple_of(per_block) {
            return None;
        }
        (elements / per_block).checked_mul(dtype.block_bytes() as u64)
    }
}

impl fmt::Display for StoredDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoredDType::Native(dtype) => f.write_str(dtype.name()),
            StoredDType::Foreign(name) => f.write_str(name),
        }
    }
}

/// One tensor of a file: checked, but not yet read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: StoredDType,
    pub(crate) shape: Vec<usize>,
    /// Bytes within the file.
    pub(crate) range: Range<usize>,
}

/// A parsed header.
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) entries: Vec<Entry>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Parses and checks the header of a whole file's bytes; `path` is for error texts only.
pub(crate) fn parse(path: &Path, file: &[u8]) -> Result<Header> {
    let bad = |found: String| EngineError::malformed(path, FORMAT, found, MEND);
    let Some((length, rest)) = file.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(bad(format!("{} bytes, less than the 8 of a header length", file.len())));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(bad(format!("a header length of {length} bytes, above the format's limit of {MAX_HEADER_BYTES}")));
    }
    if length > rest.len() as u64 {
        return Err(bad(format!("a header length of {length} bytes in a file of {} bytes", file.len())));
    }
    let (json, data) = rest.split_at(length as usize);
    if json.first() != Some(&b'{') {
        return Err(bad("a header that does not begin with '{'".to_string()));
    }
    let raw: RawHeader = serde_json::from_slice(json)
        .map_err(|e| bad(format!("a header that cannot be parsed ({})", excerpt(&e.to_string()))))?;
    let base = LENGTH_BYTES + length as usize;
    let mut entries = Vec::with_capacity(raw.tensors.len());
    for (name, entry) in raw.tensors {
        entries.push(check_entry(path, name, entry, base, data.len())?);
    }
    check_coverage(path, &mut entries, base, data.len())?;
    Ok(Header { entries, metadata: raw.metadata })
}

/// Checks one entry by itself: offsets inside the data, size agreeing with shape and dtype.
fn check_entry(path: &Path, name: String, raw: RawEntry, base: usize, data: usize) -> Result<Entry> {
    let [begin, end] = raw.data_offsets;
    let bad =
        |found: String| EngineError::BadTensor { path: path.to_path_buf(), tensor: excerpt(&name), found, mend: MEND };
    if begin > end || end > data as u64 {
        return Err(bad(format!("data offsets {begin}..{end} lie outside the {data} data bytes of the file")));
    }
    let dtype = StoredDType::from_name(&raw.dtype);
    let elements = raw
        .shape
        .iter()
        .try_fold(1u64, |product, &dim| product.checked_mul(dim))
        .ok_or_else(|| bad(format!("shape {:?} has more elements than 64 bits count", raw.shape)))?;
    if let StoredDType::Native(_) = dtype {
        let size = dtype.bytes_of(elements);
        if size != Some(end - begin) {
            return Err(bad(format!(
                "{} bytes stored where shape {:?} of {dtype} takes {}",
                end - begin,
                raw.shape,
                size.map_or("no whole number".to_string(), |s| s.to_string()),
            )));
        }
    }
    let mut shape = Vec::with_capacity(raw.shape.len());
    for dim in raw.shape {
        // A zero elsewhere in the shape lets a dimension pass the product above, whatever its size.
        shape.push(
            usize::try_from(dim)
                .ok()
                .filter(|&d| d <= isize::MAX as usize)
                .ok_or_else(|| bad(format!("dimension {dim} is beyond this machine")))?,
        );
    }
    // Offsets were checked against the length of a slice, so they fit.
    let range = base + begin as usize..base + end as usize;
    Ok(Entry { name, dtype, shape, range })
}

/// Checks that the tensors cover the data without holes or overlaps; leaves the entries in file order.
fn check_coverage(path: &Path, entries: &mut [Entry], base: usize, data: usize) -> Result<()> {
    entries.sort_by(|a, b| (a.range.start, a.range.end, &a.name).cmp(&(b.range.start, b.range.end, &b.name)));
    let mut at = base;
    for entry in entries.iter() {
        if entry.range.start != at {
            let what = if entry.range.start < at { "overlap with" } else { "leave a hole after" };
            return Err(EngineError::BadTensor {
                path: path.to_path_buf(),
                tensor: excerpt(&entry.name),
                found: format!(
                    "data offsets {}..{} {what} the tensor before, which ends at {}",
                    entry.range.start - base,
                    entry.range.end - base,
                    at - base
                ),
                mend: MEND,
            });
        }
        at = entry.range.end;
    }
    if at != base + data {
        let found = format!("{data} data bytes where the header accounts for {}", at - base);
        return Err(EngineError::malformed(path, FORMAT, found, MEND));
    }
    Ok(())
}

/// One entry as the JSON spells it. Keys beyond these three are passed over.
#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    #[serde(deserialize_with = "short_shape")]
    shape: Vec<u64>,
    data_offsets: [u64; 2],
}

struct RawHeader {
    tensors: Vec<(String, RawEntry)>,
    metadata: BTreeMap<String, String>,
}

/// Reads a shape, refusing one of absurd rank before it is stored.
fn short_shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Dims;
    impl<'de> Visitor<'de> for Dims {
        type Value = Vec<u64>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a shape of at most {MAX_RANK} dimensions")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
            let mut dims = Vec::new();
            while let Some(dim) = seq.next_element()? {
                if dims.len() == MAX_RANK {
                    return Err(A::Error::custom(format!("more than {MAX_RANK} dimensions")));
                }
                dims.push(dim);
            }
            Ok(dims)
        }
    }
    deserializer.deserialize_seq(Dims)
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
                let mut header = RawHeader { tensors: Vec::new(), metadata: BTreeMap::new() };
                let mut seen = std::collections::HashSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(A::Error::custom(format!("name {:?} twice", excerpt(&name))));
                    }
                    if name == "__metadata__" {
                        header.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                        continue;
                    }
                    let entry =
                        map.next_value().map_err(|e| A::Error::custom(format!("tensor {:?}: {e}", excerpt(&name))))?;
                    header.tensors.push((name, entry));
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// A JSON object whose repeated keys are an error instead of a silent overwrite.
pub(crate) struct UniqueMap<V>(pub(crate) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MapVisitor<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for MapVisitor<V> {
            type Value = UniqueMap<V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut found = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, V>()? {
                    let shown = excerpt(&key);
                    if found.insert(key, value).is_some() {
                        return Err(A::Error::custom(format!("key {shown:?} twice")));
                    }
                }
                Ok(UniqueMap(found))
            }
        }
        deserializer.deserialize_map(MapVisitor(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 7);
        bytes
    }

    fn refusal(header: &str, data: usize) -> String {
        parse(Path::new("w.safetensors"), &file(header, data)).unwrap_err().to_string()
    }

    #[test]
    fn scalars_and_empty_tensors_are_legal() {
        let header = r#"{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F16","shape":[0,5],"data_offsets":[4,4]},"__metadata__":{"format":"pt"}}   "#;
        let parsed = parse(Path::new("w"), &file(header, 4)).unwrap();
        assert_eq!(parsed.entries.len(), 2);
        assert_eq!(parsed.metadata["format"], "pt");
        assert_eq!(parsed.entries[0].shape, Vec::<usize>::new());
        assert_eq!(parsed.entries[1].range.len(), 0);
    }

    #[test]
    fn an_unknown_dtype_spoils_only_its_own_tensor() {
        let header = r#"{"x":{"dtype":"F6_E3M2","shape":[4],"data_offsets":[0,3]},"y":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}"#;
        let parsed = parse(Path::new("w"), &file(header, 5)).unwrap();
        assert_eq!(parsed.entries[0].dtype, StoredDType::Foreign("F6_E3M2".into()));
        assert_eq!(parsed.entries[1].dtype, StoredDType::Native(DType::U8));
    }

    #[test]
    fn overlaps_and_holes_name_the_tensor() {
        let overlap = r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
        let message = refusal(overlap, 6);
        assert!(message.contains("\"b\"") && message.contains("overlap"), "{message}");
        let hole = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}"#;
        let message = refusal(hole, 5);
        assert!(message.contains("\"b\"") && message.contains("hole"), "{message}");
    }

    #[test]
    fn sizes_that_disagree_are_named() {
        let short = r#"{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,12]}}"#;
        let message = refusal(short, 12);
        assert!(message.contains("12 bytes") && message.contains("16"), "{message}");
        let surplus = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}"#;
        assert!(refusal(surplus, 9).contains("accounts for 2"));
        assert!(refusal(surplus, 1).contains("outside"));
        let reversed = r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[2,0]}}"#;
        assert!(refusal(reversed, 2).contains("outside"));
    }

    #[test]
    fn absurd_claims_are_refused_without_being_believed() {
        let product = r#"{"a":{"dtype":"U8","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,0]}}"#;
        assert!(refusal(product, 0).contains("more elements"));
        let hidden = r#"{"a":{"dtype":"U8","shape":[0,18446744073709551615],"data_offsets":[0,0]}}"#;
        assert!(refusal(hidden, 0).contains("beyond"));
        let mut bytes = u64::MAX.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        assert!(parse(Path::new("w"), &bytes).unwrap_err().to_string().contains("limit"));
        let mut bytes = 90_000_000u64.to_le_bytes().to_vec();
        bytes.extend_from_slice(b"{}");
        assert!(parse(Path::new("w"), &bytes).unwrap_err().to_string().contains("90000000"));
    }

    #[test]
    fn a_name_given_twice_is_refused() {
        let twice = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
        assert!(refusal(twice, 2).contains("twice"));
    }

    #[test]
    fn negative_and_fractional_sizes_are_refused_by_name() {
        let negative = r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}}"#;
        assert!(refusal(negative, 1).contains("\\\"a\\\"") || refusal(negative, 1).contains("\"a\""));
        let fraction = r#"{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#;
        assert!(refusal(fraction, 1).contains("cannot be parsed"));
    }

    #[test]
    fn the_reference_writer_is_read_back() {
        use safetensors::tensor::{Dtype, TensorView, serialize};
        let data: Vec<u8> = (0..24).collect();
        let view = TensorView::new(Dtype::BF16, vec![3, 4], &data).unwrap();
        let bytes = serialize([("w", view)], None).unwrap();
        let parsed = parse(Path::new("w"), &bytes).unwrap();
        assert_eq!(parsed.entries[0].shape, [3, 4]);
        assert_eq!(parsed.entries[0].dtype, StoredDType::Native(DType::BF16));
        assert_eq!(&bytes[parsed.entries[0].range.clone()], data);
    }
}
