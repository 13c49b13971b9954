//! Files that gguf-py made (tools/gguf_fixtures.py) are read exactly.

use std::path::{Path, PathBuf};

use qiao_gguf::{Array, Gguf, SplitName, Value, check_parts, ggml_type};
use serde_json::Value as Json;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf")
}

fn bytes(name: &str) -> Vec<u8> {
    let path = folder().join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What a file holds, as the script noted it.
fn noted(name: &str) -> Json {
    let all: Json = serde_json::from_slice(&bytes("files.json")).unwrap();
    all[name].clone()
}

fn scalar(kind: &str, value: &Json) -> Value {
    let (int, uint) = (|| value.as_i64().unwrap(), || value.as_u64().unwrap());
    match kind {
        "UINT8" => Value::U8(uint() as u8),
        "INT8" => Value::I8(int() as i8),
        "UINT16" => Value::U16(uint() as u16),
        "INT16" => Value::I16(int() as i16),
        "UINT32" => Value::U32(uint() as u32),
        "INT32" => Value::I32(int() as i32),
        "UINT64" => Value::U64(uint()),
        "INT64" => Value::I64(int()),
        "FLOAT32" => Value::F32(value.as_f64().unwrap() as f32),
        "FLOAT64" => Value::F64(value.as_f64().unwrap()),
        "BOOL" => Value::Bool(value.as_bool().unwrap()),
        "STRING" => Value::Str(value.as_str().unwrap().to_string()),
        other => panic!("{other}"),
    }
}

/// An array from its elements, each a scalar of the same type.
fn array(kind: &str, values: &Json) -> Array {
    macro_rules! gather {
        ($($name:literal $variant:ident)*) => {
            match kind {
                $($name => Array::$variant(
                    values.as_array().unwrap().iter().map(|v| match scalar(kind, v) {
                        Value::$variant(v) => v,
                        other => panic!("{other:?}"),
                    }).collect(),
                ),)*
                other => panic!("{other}"),
            }
        };
    }
    gather!("UINT8" U8 "INT8" I8 "UINT16" U16 "INT16" I16 "UINT32" U32 "INT32" I32 "UINT64" U64 "INT64" I64
            "FLOAT32" F32 "FLOAT64" F64 "BOOL" Bool "STRING" Str)
}

fn require_metadata(file: &Gguf, noted: &Json) {
    for (key, entry) in noted["metadata"].as_object().unwrap() {
        let kind = entry["type"].as_str().unwrap();
        let expected = match kind {
            "ARRAY" => Value::Array(array(entry["of"].as_str().unwrap(), &entry["value"])),
            kind => scalar(kind, &entry["value"]),
        };
        assert_eq!(file.metadata().get(key), Some(&expected), "{key}");
    }
}

/// Each tensor of the file against the note; how many there were.
fn require_tensors(file: &Gguf, bytes: &[u8], noted: &Json) -> usize {
    for tensor in file.tensors() {
        let entry = &noted["tensors"][&tensor.name];
        assert_eq!(ggml_type(tensor.type_id).unwrap().name, entry["type"].as_str().unwrap(), "{}", tensor.name);
        let shape: Vec<u64> = tensor.shape.iter().map(|&d| d as u64).collect();
        assert_eq!(Json::from(shape), entry["shape"], "{}", tensor.name);
        let (_, data) = file.data(bytes, &tensor.name).unwrap();
        let hex: String = data.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, entry["bytes"].as_str().unwrap(), "{}", tensor.name);
    }
    file.tensors().len()
}

#[test]
fn every_type_is_read_in_both_versions() {
    for (name, version) in [("every-type", 3), ("every-type-v2", 2)] {
        let bytes = bytes(&format!("{name}.gguf"));
        let file = Gguf::parse(&bytes).unwrap();
        let noted = noted(name);
        assert_eq!(file.version(), version);
        require_metadata(&file, &noted);
        assert_eq!(file.metadata().len(), noted["metadata"].as_object().unwrap().len());
        assert_eq!(require_tensors(&file, &bytes, &noted), 21, "thirteen block formats and eight plain types");
    }
}

#[test]
fn an_alignment_of_its_own_is_kept() {
    let bytes = bytes("aligned.gguf");
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(file.alignment(), 128);
    assert_eq!(file.tensor("b").unwrap().offset, 128);
    require_metadata(&file, &noted("aligned"));
    assert_eq!(require_tensors(&file, &bytes, &noted("aligned")), 2);
}

#[test]
fn a_big_endian_file_is_refused_by_name() {
    let message = Gguf::parse(&bytes("big-endian.gguf")).unwrap_err().to_string();
    assert!(message.contains("big-endian"), "{message}");
}

#[test]
fn the_parts_of_a_split_file_are_found_and_read() {
    let names: Vec<_> = SplitName::parse("parts-00002-of-00003.gguf").unwrap().siblings().collect();
    let contents: Vec<_> = names.iter().map(|name| bytes(name)).collect();
    let files: Vec<_> = contents.iter().map(|bytes| Gguf::parse(bytes).unwrap()).collect();
    let noted = noted("parts");
    check_parts(names.iter().map(String::as_str).zip(&files)).unwrap();
    require_metadata(&files[0], &noted);
    let held: usize = files.iter().zip(&contents).map(|(file, bytes)| require_tensors(file, bytes, &noted)).sum();
    assert_eq!(held, 5);
}
