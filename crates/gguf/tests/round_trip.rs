//! What the writer makes, the reader reads back.

use proptest::prelude::*;
use qiao_core::DType;
use qiao_gguf::{Array, Gguf, GgufError, GgufHeader, Metadata, Strings, Value, dtype_of};

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e30f32..1e30).prop_map(Value::F32),
        (-1e300f64..1e300).prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
    ]
}

fn array() -> impl Strategy<Value = Array> {
    let flat = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..5).prop_map(Array::U8),
        prop::collection::vec(any::<i16>(), 0..5).prop_map(Array::I16),
        prop::collection::vec(any::<u32>(), 0..5).prop_map(Array::U32),
        prop::collection::vec(any::<i64>(), 0..5).prop_map(Array::I64),
        prop::collection::vec(-1e30f32..1e30, 0..5).prop_map(Array::F32),
        prop::collection::vec(any::<bool>(), 0..5).prop_map(Array::Bool),
        prop::collection::vec(any::<String>(), 0..5).prop_map(|texts| Array::Str(Strings::from_iter(texts))),
    ];
    flat.prop_recursive(3, 12, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Array::Array))
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let value = prop_oneof![number(), any::<String>().prop_map(Value::Str), array().prop_map(Value::Array)];
    let alignment = prop::option::of(3u32..9);
    (prop::collection::btree_map("[a-z.]{1,12}", value, 0..8), alignment).prop_map(|(entries, alignment)| {
        let mut out = Metadata::new();
        entries.into_iter().for_each(|(key, value)| out.set(&key, value));
        alignment.into_iter().for_each(|log| out.set("general.alignment", 1u32 << log));
        out
    })
}

fn tensors() -> impl Strategy<Value = Vec<(DType, Vec<usize>)>> {
    let dtypes: Vec<DType> = DType::ALL.iter().copied().filter(|d| dtype_of(*d).is_some()).collect();
    let shape = prop::collection::vec(0usize..4, 0..4);
    let tensor = (prop::sample::select(dtypes), shape).prop_map(|(dtype, mut shape)| {
        match shape.last_mut() {
            Some(row) => *row *= dtype.block_elems(),
            None if dtype.block_elems() > 1 => shape.push(dtype.block_elems()),
            None => {}
        }
        (dtype, shape)
    });
    prop::collection::vec(tensor, 0..6)
}

/// Bytes that differ from tensor to tensor.
fn content(seed: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i * 7 + seed * 31 + 1) as u8).collect()
}

fn bytes_of(dtype: DType, shape: &[usize]) -> usize {
    dtype.bytes_for(shape.iter().product()).unwrap()
}

proptest! {
    #[test]
    fn any_file_is_read_back_as_it_was_written(data in metadata(), tensors in tensors(), piece in 1usize..50) {
        let mut header = GgufHeader::with_metadata(data.clone());
        for (i, (dtype, shape)) in tensors.iter().enumerate() {
            header.tensor(&format!("t.{i}"), *dtype, shape).unwrap();
        }
        let length = header.file_len().unwrap();
        let mut file = header.begin(Vec::new()).unwrap();
        for (i, (dtype, shape)) in tensors.iter().enumerate() {
            let name = format!("t.{i}");
            prop_assert_eq!(file.upcoming(), Some((name.as_str(), *dtype, shape.as_slice())));
            let bytes = content(i, bytes_of(*dtype, shape));
            match bytes.is_empty() {
                true => file.tensor(&name, &bytes).unwrap(),
                false => bytes.chunks(piece).for_each(|part| file.append(&name, part).unwrap()),
            }
        }
        let bytes = file.finish().unwrap();
        prop_assert_eq!(bytes.len() as u64, length);

        let read = Gguf::parse(&bytes).unwrap();
        let quantised = tensors.iter().any(|(dtype, _)| dtype.is_block());
        let mut expected = data;
        if quantised {
            expected.set("general.quantization_version", 2u32);
        }
        prop_assert_eq!(read.metadata(), &expected);
        prop_assert_eq!(read.tensors().len(), tensors.len());
        for (i, (dtype, shape)) in tensors.iter().enumerate() {
            let name = format!("t.{i}");
            let info = read.tensor(&name).unwrap();
            prop_assert_eq!(&info.shape, shape);
            prop_assert_eq!(info.offset % read.alignment(), 0);
            let (found, data) = read.data(&bytes, &name).unwrap();
            prop_assert_eq!(found, *dtype);
            prop_assert_eq!(data, content(i, bytes_of(*dtype, shape)));
        }
    }
}

fn two() -> GgufHeader {
    let mut header = GgufHeader::new();
    header.tensor("a", DType::F32, &[2]).unwrap();
    header.tensor("b", DType::Q4_0, &[2, 32]).unwrap();
    header
}

fn refusal<T>(result: Result<T, GgufError>) -> String {
    result.err().expect("refused").to_string()
}

#[test]
fn tensors_of_the_wrong_length_or_out_of_turn_are_refused() {
    let mut file = two().begin(Vec::new()).unwrap();
    assert!(refusal(file.tensor("b", &[0; 36])).contains("\"a\" is due"));
    assert!(refusal(file.tensor("a", &[0; 4])).contains("4 bytes where 8 are due"));
    file.append("a", &[0; 4]).unwrap();
    assert!(refusal(file.append("a", &[0; 5])).contains("5 bytes where 4 are due"));
    file.append("a", &[0; 4]).unwrap();
    file.tensor("b", &[0; 36]).unwrap();
    assert!(refusal(file.append("b", &[])).contains("all tensors are written"));
    Gguf::parse(&file.finish().unwrap()).unwrap();
}

#[test]
fn a_missing_tensor_is_named_at_the_end() {
    let mut file = two().begin(Vec::new()).unwrap();
    file.append("a", &[0; 6]).unwrap();
    let message = refusal(file.finish());
    assert!(
        message.contains("\"a\"") && message.contains("6 of its 8") && message.contains("1 tensor(s)"),
        "{message}"
    );
}

#[test]
fn descriptions_that_ggml_can_not_read_are_refused() {
    let mut header = two();
    assert!(refusal(header.tensor(&"n".repeat(64), DType::F32, &[1])).contains("64 bytes"));
    header.tensor(&"n".repeat(63), DType::F32, &[1]).unwrap();
    assert!(refusal(header.tensor("", DType::F32, &[1])).contains("0 bytes"));
    assert!(refusal(header.tensor("a", DType::F32, &[1])).contains("taken"));
    assert!(refusal(header.tensor("c", DType::F32, &[1; 5])).contains("5 dimensions"));
    assert!(refusal(header.tensor("c", DType::F8E4M3, &[1])).contains("f8_e4m3"));
    assert!(refusal(header.tensor("c", DType::Q4K, &[4, 128])).contains("rows of 128"));
    assert!(refusal(header.tensor("c", DType::F32, &[usize::MAX, 2])).contains("beyond"));
    header.set("general.alignment", 24u32);
    assert!(refusal(header.begin(Vec::new())).contains("power of two"));
}

#[test]
fn an_output_that_is_full_says_so() {
    let mut room = [0u8; 40];
    assert!(refusal(two().begin(&mut room[..])).contains("cannot write"));
}
