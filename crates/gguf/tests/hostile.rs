//! Whatever the bytes are: an error that names the place, or a valid header; never a panic, never room made for a claim.

use proptest::prelude::*;
use qiao_core::DType;
use qiao_gguf::{Gguf, GgufHeader, Strings, Value, check_parts};

fn small() -> Vec<u8> {
    let mut header = GgufHeader::new();
    header.set("general.architecture", "llama");
    header.set("llama.block_count", 2u32);
    header.set("tokenizer.ggml.tokens", Strings::from_iter(["a", "bc", ""]));
    header.set("scores", vec![0.5f32, -1.0]);
    header.tensor("token_embd.weight", DType::F16, &[3, 8]).unwrap();
    header.tensor("blk.0.attn_q.weight", DType::Q4_0, &[2, 64]).unwrap();
    let mut file = header.begin(Vec::new()).unwrap();
    file.tensor("token_embd.weight", &[1; 48]).unwrap();
    file.tensor("blk.0.attn_q.weight", &[2; 72]).unwrap();
    file.finish().unwrap()
}

/// What must hold of whatever is accepted.
fn sound(bytes: &[u8]) {
    let Ok(file) = Gguf::parse(bytes) else { return };
    let held: usize = file.tensors().iter().filter_map(|t| t.range.as_ref()).map(|r| r.len()).sum();
    assert!(held <= bytes.len());
    for tensor in file.tensors() {
        assert!(file.tensor(&tensor.name).is_some());
        if let Ok((dtype, data)) = file.data(bytes, &tensor.name) {
            assert_eq!(dtype.bytes_for(tensor.shape.iter().product()), Some(data.len()));
        }
    }
    let _ = (file.split(), check_parts([("x", &file)]));
}

fn refusal(bytes: &[u8]) -> String {
    Gguf::parse(bytes).expect_err("refused").to_string()
}

/// A header by hand: counts, then whatever follows.
fn by_hand(tensors: u64, entries: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend_from_slice(&tensors.to_le_bytes());
    out.extend_from_slice(&entries.to_le_bytes());
    out.extend_from_slice(rest);
    out
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A tensor's description; dims innermost first.
fn description(name: &str, dims: &[u64], type_id: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend_from_slice(&(dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend_from_slice(&dim.to_le_bytes()));
    out.extend_from_slice(&type_id.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out
}

/// A file of these descriptions and so many data bytes.
fn tensors(descriptions: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut out = by_hand(descriptions.len() as u64, 0, &descriptions.concat());
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

proptest! {
    #[test]
    fn mutated_bytes_are_refused_or_sound(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = small();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        sound(&bytes);
    }

    #[test]
    fn huge_words_are_refused_or_sound(at in any::<prop::sample::Index>(), word in prop_oneof![Just(u64::MAX), Just(1 << 63), Just(1 << 40), any::<u64>()]) {
        let mut bytes = small();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
        sound(&bytes);
    }

    #[test]
    fn random_bytes_after_the_magic_are_refused_or_sound(rest in prop::collection::vec(any::<u8>(), 0..200)) {
        sound(&[b"GGUF\x03\0\0\0", &rest[..]].concat());
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small();
    let whole = Gguf::parse(&bytes).unwrap();
    let end = whole.tensors().iter().filter_map(|t| t.range.clone()).map(|r| r.end).max().unwrap();
    for length in 0..end {
        let message = refusal(&bytes[..length]);
        assert!(message.contains(": "), "{message}");
    }
    Gguf::parse(&bytes[..end]).expect("only padding is missing");
}

#[test]
fn other_files_and_versions_are_named() {
    assert!(refusal(b"").contains("empty"));
    assert!(refusal(b"\x93NUMPY\x01\0").contains("\\x93NUMPY"));
    assert!(refusal(b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    assert!(refusal(b"GGUF\x01\0\0\0\0\0\0\0").contains("version 1"));
    assert!(refusal(b"GGUF\x04\0\0\0").contains("version 4"));
    assert!(refusal(b"GGUF\0\0\0\x03").contains("version 3 in big-endian"));
}

#[test]
fn counts_are_held_against_the_bytes_that_are_left() {
    let message = refusal(&by_hand(1 << 60, 0, &[]));
    assert!(message.contains("byte 8") && message.contains("1152921504606846976 tensors"), "{message}");
    assert!(refusal(&by_hand(0, u64::MAX, &[0; 64])).contains("metadata entries"));
    let entry = [text("k"), vec![9, 0, 0, 0, 4, 0, 0, 0], vec![0xff; 7], vec![0; 9]].concat();
    let message = refusal(&by_hand(0, 1, &entry));
    assert!(message.contains("key \"k\"") && message.contains("numbers"), "{message}");
    let entry = [u64::MAX.to_le_bytes().to_vec(), vec![0; 20]].concat();
    assert!(refusal(&by_hand(0, 1, &entry)).contains("metadata entry 0"));
}

#[test]
fn arrays_are_not_followed_into_the_deep() {
    let level = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
    let mut value = 9u32.to_le_bytes().to_vec();
    for _ in 0..20_000 {
        value.extend_from_slice(&level);
    }
    let message = refusal(&by_hand(0, 1, &[text("deep"), value].concat()));
    assert!(message.contains("\"deep\"") && message.contains("4 deep"), "{message}");
}

#[test]
fn wrong_values_are_named() {
    let entry = |tail: &[u8]| by_hand(0, 1, &[&text("k")[..], tail].concat());
    assert!(refusal(&entry(&[13, 0, 0, 0, 0, 0, 0, 0])).contains("value type 13"));
    assert!(refusal(&entry(&[7, 0, 0, 0, 2])).contains("boolean of 2"));
    let invalid = [&8u32.to_le_bytes()[..], &2u64.to_le_bytes(), b"\xff\xfe"].concat();
    assert!(refusal(&entry(&invalid)).contains("not UTF-8"));
    let twice = [text("k"), vec![0, 0, 0, 0, 1], text("k"), vec![0, 0, 0, 0, 2]].concat();
    assert!(refusal(&by_hand(0, 2, &twice)).contains("twice"));
    let empty = [text(""), vec![0, 0, 0, 0, 1]].concat();
    assert!(refusal(&by_hand(0, 1, &empty)).contains("empty key"));
    let alignment = [text("general.alignment"), vec![4, 0, 0, 0, 33, 0, 0, 0]].concat();
    assert!(refusal(&by_hand(0, 1, &alignment)).contains("power of two"));
}

#[test]
fn tensors_that_can_not_be_are_named() {
    let one = |dims: &[u64], type_id, offset| refusal(&tensors(&[description("w", dims, type_id, offset)], 64));
    assert!(one(&[1 << 62, 4], 0, 0).contains("more elements"));
    assert!(one(&[u64::MAX, 0], 0, 0).contains("beyond this machine"));
    assert!(one(&[1 << 62], 0, 0).contains("64 bits count"));
    assert!(one(&[16, 16, 1, 1, 1], 2, 0).contains("5 dimensions"));
    assert!(one(&[16], 2, 0).contains("block of Q4_0"));
    assert!(one(&[4], 0, 8).contains("alignment 32"));
    assert!(one(&[4], 0, 96).contains("beyond the 64 bytes"));
    assert!(one(&[17], 0, 0).contains("cut short"));
    assert!(one(&[4], 0, u64::MAX).contains("beyond"));
    let pair = |second: Vec<u8>| refusal(&tensors(&[description("w", &[16], 0, 0), second], 128));
    assert!(pair(description("v", &[4], 0, 32)).contains("inside tensor \"w\""));
    assert!(pair(description("w", &[4], 0, 64)).contains("twice"));
    assert!(pair(description("u", &[4], 150, 32)).contains("inside tensor \"w\""));
}

#[test]
fn an_unknown_type_spoils_only_its_own_tensor() {
    let described = [description("w", &[4], 0, 0), description("v", &[256], 16, 32), description("u", &[9], 150, 128)];
    let bytes = tensors(&described, 160);
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(file.data(&bytes, "w").unwrap(), (DType::F32, &[0; 16][..]));
    let message = file.data(&bytes, "v").unwrap_err().to_string();
    assert!(message.contains("\"v\"") && message.contains("16 (IQ2_XXS)") && message.contains("Q4_K"), "{message}");
    let message = file.data(&bytes, "u").unwrap_err().to_string();
    assert!(message.contains("ggml type 150,"), "{message}");
    assert!(file.data(&bytes, "t").unwrap_err().to_string().contains("not among the 3"));
    assert!(file.data(&bytes[..40], "w").unwrap_err().to_string().contains("beyond the 40 bytes"));
}

#[test]
fn tensors_may_lie_in_any_order_and_with_holes() {
    let described =
        [description("late", &[8], 0, 96), description("early", &[8], 0, 0), description("none", &[0], 0, 0)];
    let bytes = tensors(&described, 128);
    let file = Gguf::parse(&bytes).unwrap();
    assert_eq!(file.tensor("late").unwrap().offset, 96);
    assert_eq!(file.data(&bytes, "none").unwrap().1.len(), 0);
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let part = |no: u16, count: u16, total: i32, names: &[&str]| {
        let mut header = GgufHeader::new();
        header.set("split.no", no);
        header.set("split.count", count);
        header.set("split.tensors.count", total);
        names.iter().for_each(|name| header.tensor(name, DType::F32, &[1]).unwrap());
        let mut file = header.begin(Vec::new()).unwrap();
        names.iter().for_each(|name| file.tensor(name, &[0; 4]).unwrap());
        Gguf::parse(&file.finish().unwrap()).unwrap()
    };
    let (a, b) = (part(0, 2, 3, &["x", "y"]), part(1, 2, 3, &["z"]));
    check_parts([("a", &a), ("b", &b)]).unwrap();
    let refusal = |parts: &[(&'static str, &Gguf)]| check_parts(parts.iter().copied()).unwrap_err().to_string();
    assert!(refusal(&[("b", &b), ("a", &a)]).contains("part 2"));
    assert!(refusal(&[("a", &a)]).contains("one of 2 parts, 1"));
    assert!(refusal(&[("a", &a), ("b", &part(1, 2, 4, &["z"]))]).contains("hold 4 tensors, they hold 3"));
    assert!(refusal(&[("a", &a), ("b", &part(1, 2, 3, &["x"]))]).contains("\"x\" is held by a"));
    let whole = Gguf::parse(&small()).unwrap();
    assert!(refusal(&[("a", &whole)]).contains("no part"));
    assert_eq!(whole.split().unwrap(), None);
    assert_eq!(whole.metadata().get("llama.block_count"), Some(&Value::U32(2)));
}
