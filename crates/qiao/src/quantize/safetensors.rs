//! Safetensors files, written tensor by tensor: the header first, since all sizes follow from shapes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};

use qiao_core::DType;
use serde_json::{Map, Value, json};

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
}

impl Part {
    pub(super) fn bytes(&self) -> u64 {
        let elements: u64 = self.shape.iter().map(|&dim| dim as u64).product();
        elements * self.dtype.block_bytes() as u64
    }
}

/// The name of a dtype in a file's header; `None` for one that files do not hold.
pub(super) fn dtype_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F64 => "F64",
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::F8E4M3 => "F8_E4M3",
        DType::I64 => "I64",
        DType::I32 => "I32",
        DType::I8 => "I8",
        DType::U8 => "U8",
        _ => return None,
    })
}

/// A file in the making: every tensor has its place, and may come in any order.
pub(super) struct SafetensorsWriter {
    file: File,
    places: BTreeMap<String, (u64, u64)>,
}

impl SafetensorsWriter {
    /// Writes the header. Tensors of wide elements stand first, so that each is aligned to its elements.
    ///
    /// # Errors
    /// The file's own.
    pub(super) fn begin(mut file: File, parts: &[Part], metadata: &[(&str, String)]) -> io::Result<SafetensorsWriter> {
        let mut order: Vec<&Part> = parts.iter().collect();
        order.sort_by_key(|part| std::cmp::Reverse(part.dtype.block_bytes()));
        let mut header = Map::new();
        let metadata: Map<String, Value> = metadata.iter().map(|(k, v)| (k.to_string(), json!(v))).collect();
        header.insert("__metadata__".into(), Value::Object(metadata));
        let (mut at, mut places) = (0, BTreeMap::new());
        for part in order {
            let end = at + part.bytes();
            let dtype =
                dtype_name(part.dtype).ok_or_else(|| io::Error::other(format!("no file holds {}", part.dtype)))?;
            let entry = json!({ "dtype": dtype, "shape": part.shape, "data_offsets": [at, end] });
            header.insert(part.name.clone(), entry);
            places.insert(part.name.clone(), (at, end - at));
            at = end;
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        file.write_all(&(text.len() as u64).to_le_bytes())?;
        file.write_all(&text)?;
        let start = 8 + text.len() as u64;
        places.values_mut().for_each(|(place, _)| *place += start);
        file.set_len(start + at)?;
        Ok(SafetensorsWriter { file, places })
    }

    /// Writes a whole tensor.
    ///
    /// # Errors
    /// A tensor that the header does not name, or of another length; the file's own.
    pub(super) fn tensor(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        match self.places.remove(name) {
            Some((place, length)) if length == bytes.len() as u64 => {
                self.file.seek(SeekFrom::Start(place))?;
                self.file.write_all(bytes)
            }
            other => Err(io::Error::other(format!("tensor {name:?} of {} bytes, where {other:?} is due", bytes.len()))),
        }
    }

    /// Ends the file, synced.
    ///
    /// # Errors
    /// A tensor that is missing; the file's own.
    pub(super) fn finish(self) -> io::Result<()> {
        match self.places.keys().next() {
            Some(name) => Err(io::Error::other(format!("tensor {name:?} is missing"))),
            None => self.file.sync_all(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use qiao_engine::weights::Weights;

    #[test]
    fn files_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        let part = |name: &str, dtype, shape: &[usize]| Part { name: name.into(), dtype, shape: shape.to_vec() };
        let parts =
            [part("codes", DType::I8, &[3, 5]), part("scale", DType::F32, &[3, 1]), part("shape", DType::I64, &[2])];
        let mut writer =
            SafetensorsWriter::begin(File::create_new(&path).unwrap(), &parts, &[("made", "here".into())]).unwrap();
        assert!(writer.tensor("codes", &[0; 14]).is_err());
        let mut writer = {
            drop(writer);
            SafetensorsWriter::begin(File::create(&path).unwrap(), &parts, &[("made", "here".into())]).unwrap()
        };
        let codes: Vec<u8> = (0..15).collect();
        writer.tensor("codes", &codes).unwrap();
        writer.tensor("shape", &[3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        writer.tensor("scale", &[1; 12]).unwrap();
        writer.finish().unwrap();
        let read = Weights::open(&path).unwrap();
        let found = read.tensor("codes").unwrap();
        assert_eq!((found.dtype, found.shape, found.bytes), (DType::I8, &[3, 5][..], &codes[..]));
        assert_eq!(read.tensor("scale").unwrap().bytes, [1; 12]);
        assert_eq!(read.metadata()["made"], "here");
    }

    #[test]
    fn a_missing_tensor_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let parts = [Part { name: "a".into(), dtype: DType::F32, shape: vec![1] }];
        let file = File::create_new(folder.path().join("x")).unwrap();
        let writer = SafetensorsWriter::begin(file, &parts, &[]).unwrap();
        assert!(writer.finish().unwrap_err().to_string().contains("\"a\""));
    }
}
