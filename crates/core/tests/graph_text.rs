//! A graph's text gives the graph back; a text from anywhere gives a valid graph or one clear error.

use std::cell::Cell;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use qiao_core::{DType, Dims, Graph, Op, OpKind, Storage, TensorDesc, TensorId};

/// Numbers that decide how a graph is built, used one after the other; past the end they are 0.
struct Choices<'a>(&'a [u32], usize);

impl Choices<'_> {
    fn next(&mut self) -> u32 {
        self.1 += 1;
        self.0.get(self.1 - 1).copied().unwrap_or(0)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

const SHAPES: &[&[usize]] = &[&[2, 4], &[4], &[4, 4], &[2, 4, 2], &[], &[0, 4], &[2, 256], &[1, 2, 2, 4], &[8], &[3]];
const NAMES: &[&str] = &["x", "", "层.0", "a \"quoted\" \\ name", "two\nlines\r\t", "\u{2028}\u{0}\u{85}", "%0 -> end"];

fn desc(c: &mut Choices<'_>) -> TensorDesc {
    let dtype = if c.below(3) == 0 { c.of(DType::ALL) } else { c.of(&[DType::F32, DType::I32, DType::BF16]) };
    let shape = c.of(SHAPES);
    let mut desc = TensorDesc::new(dtype, shape).unwrap_or_else(|_| TensorDesc::new(DType::F32, shape).unwrap());
    if c.below(4) == 0 {
        let strides: Vec<usize> = shape.iter().map(|_| c.of(&[0, 1, 2, 4, 8, 1 << 20])).collect();
        if let Ok(strided) = TensorDesc::strided(desc.dtype, shape, &strides) {
            desc = strided;
        }
    }
    desc.constant = c.below(4) == 0;
    desc.layout = c.of(&[0, 0, 0, 0, 0, 7, u64::MAX]);
    desc
}

/// One step of building; a step that the graph refuses changes nothing.
fn step(g: &mut Graph, ids: &mut Vec<TensorId>, c: &mut Choices<'_>) {
    match c.below(8) {
        0 => {
            let d = desc(c);
            ids.push(g.bind(c.of(NAMES), d));
        }
        1 => {
            let d = desc(c);
            ids.push(g.temporary(c.of(NAMES), d));
        }
        2 => {
            let (of, d, offset) = (c.of(ids), desc(c), c.of(&[0, 4, 8, 1000]));
            ids.extend(g.view(of, d, offset));
        }
        3 => {
            let of = c.of(ids);
            ids.extend(g.reshape(of, c.of(SHAPES)));
        }
        4 => {
            let (id, layout) = (c.of(ids), c.next() as u64);
            // A refusal is one of the outcomes that are wanted here.
            let _ = g.set_layout(id, layout);
        }
        way => {
            let kind = c.of(OpKind::ALL);
            let words: Vec<u32> =
                kind.attr_names().iter().map(|_| c.of(&[0, 0, 1, 1, 2, 0x10, 0x3f80_0000, 0x7f80_0001])).collect();
            let Some(op) = Op::from_words(kind, &words) else { return };
            let mut inputs: Vec<_> = kind.inputs().iter().map(|o| Some(c.of(ids)).filter(|_| !o.optional)).collect();
            if c.below(3) == 0 {
                inputs.pop();
            }
            if way < 7 {
                ids.extend(g.add(op, &inputs).unwrap_or_default());
            } else {
                let outputs: Vec<_> = kind.outputs().iter().map(|_| c.of(ids)).collect();
                let _ = g.add_into(op, &inputs, &outputs);
            }
        }
    }
}

fn graph(choices: &[u32]) -> Graph {
    let (mut g, mut c) = (Graph::new(), Choices(choices, 0));
    let mut ids = vec![g.bind("first", TensorDesc::new(DType::F32, &[2, 4]).unwrap())];
    while c.1 < choices.len() {
        step(&mut g, &mut ids, &mut c);
    }
    g
}

fn choices() -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(any::<u32>(), 0..400)
}

/// A runner with a seed of its own, so that every run sees the same cases.
fn runner(cases: u32) -> TestRunner {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]))
}

#[test]
fn every_graph_comes_back_from_its_text() {
    let seen = Cell::new([0; 3]);
    runner(600)
        .run(&choices(), |choices| {
            let g = graph(&choices);
            let views = g.tensors().iter().filter(|t| matches!(t.storage, Storage::View(..))).count();
            let private = g.tensors().iter().filter(|t| t.desc.layout != 0).count();
            let [a, b, c] = seen.get();
            seen.set([a + g.nodes().len(), b + views, c + private]);
            let text = g.to_text();
            let back = Graph::from_text(&text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(&back, &g, "{}", text);
            prop_assert_eq!(back.to_text(), text);
            Ok(())
        })
        .unwrap();
    assert!(seen.get().iter().all(|&n| n > 600), "nodes, views, private layouts: {:?}", seen.get());
}

/// Text put where another stood, by kind.
fn mutated(text: &str, kind: u32, at: usize, with: u32) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = at % chars.len();
    let absurd =
        ["18446744073709551615", "4294967296", "-1", "0xffffffff", "1e9", "", "nan", "99999999999999999999999"];
    let new: String = match kind % 6 {
        0 => return chars[..at].iter().collect(),
        1 => char::from_u32(with).unwrap_or('%').to_string(),
        2 => absurd[with as usize % absurd.len()].into(),
        3 => "%-\"\\{}[],> \n0x->"[with as usize % 16..].chars().take(1).collect(),
        4 => String::new(),
        _ => chars[at / 2..at].iter().collect(),
    };
    // A whole number gives way to a number, so that counts and sizes become absurd and stay well formed.
    let mut end = at + 1;
    if kind % 6 == 2 {
        while end < chars.len() && chars[at].is_ascii_digit() && chars[end].is_ascii_digit() {
            end += 1;
        }
    }
    let (head, tail): (String, String) = (chars[..at].iter().collect(), chars[end..].iter().collect());
    head + &new + &tail
}

#[test]
fn a_changed_text_is_a_valid_graph_or_an_error() {
    let changes = prop::collection::vec((any::<u32>(), any::<usize>(), any::<u32>()), 1..4);
    runner(3000)
        .run(&(choices(), changes), |(choices, changes)| {
            let mut text = graph(&choices).to_text();
            for (kind, at, with) in changes {
                if !text.is_empty() {
                    text = mutated(&text, kind, at, with);
                }
            }
            match Graph::from_text(&text) {
                Ok(g) => prop_assert_eq!(Graph::from_text(&g.to_text()).expect("its own text"), g),
                Err(e) => prop_assert!(e.to_string().starts_with("graph text, line "), "{}", e),
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn attribute_words_of_any_value_are_refused_or_kept() {
    let words = prop::collection::vec(prop_oneof![any::<u32>(), 0..4u32], 0..6);
    runner(4000)
        .run(&(words, 0..OpKind::ALL.len(), 0..6usize), |(words, kind, inputs)| {
            let words: Vec<_> = words.iter().map(u32::to_string).collect();
            let tensors = "bound \"x\" f32 [4,4]\n".repeat(5) + "bound \"i\" i32 [4]\ntemporary \"y\" f32 [4,4]\n";
            let inputs: String = (0..inputs).map(|i| format!(" %{i}")).collect();
            let kind = OpKind::ALL[kind];
            let text = format!("qiao graph 1\n{tensors}node {kind} {{{}}}{inputs} -> %6\nend\n", words.join(","));
            if let Ok(g) = Graph::from_text(&text) {
                prop_assert_eq!(Graph::from_text(&g.to_text()).expect("its own text"), g);
            }
            Ok(())
        })
        .unwrap();
}

/// The message for a text whose second and later lines are these.
fn refusal(lines: &str) -> String {
    Graph::from_text(&format!("qiao graph 1\n{lines}\nend\n")).expect_err(lines).to_string()
}

#[test]
fn a_hostile_line_is_named_by_its_number() {
    let x = "bound \"x\" f32 [2,4]\n";
    for (lines, number, word) in [
        ("bound \"x\" f32 [18446744073709551615,2]".to_string(), 2, "more elements than fit"),
        ("bound \"x\" f32 [1,1,1,1,1,1,1,1,1]".into(), 2, "at most 8"),
        ("bound \"x\" f32 [99999999999999999999]".into(), 2, "below 2^64"),
        ("bound \"x\" f32 [2] strides [1,1]".into(), 2, "one stride per dim"),
        ("bound \"x\" f33 [2]".into(), 2, "dtype 'f33'"),
        ("bound \"x f32 [2]".into(), 2, "closing quote"),
        ("bound \"\\u{d800}\" f32 [2]".into(), 2, "no character"),
        ("bound x f32 [2]".into(), 2, "quotes"),
        (format!("{x}view %0 at 18446744073709551615 f32 [1]"), 3, "stay within"),
        (format!("{x}view %7 at 0 f32 [1]"), 3, "1 tensors above"),
        (format!("{x}view %0 at 0 f32 [8]\nview %1 at 0 f32 [1]"), 4, "view of the view"),
        (format!("{x}node frobnicate %0 -> %0"), 3, "operator 'frobnicate'"),
        (format!("{x}node gelu {{7}} %0 -> %0"), 3, "form"),
        (format!("{x}node gelu {{4294967296}} %0 -> %0"), 3, "does not fit"),
        (format!("{x}node split {{0,4294967295}} %0 -> %0"), 3, "1 to 1024 parts"),
        (format!("{x}node silu %4294967295 -> %0"), 3, "%4294967295"),
        (format!("{x}node silu %0 -> %0"), 3, "shares storage"),
        (format!("{x}node silu %0"), 3, "'->'"),
        (format!("{x}temporary \"t\" f32 [2,4]\nnode silu %1 -> %0"), 4, "no earlier node writes it"),
        (format!("{x}\n# said by hand\nfrob"), 5, "'frob'"),
        (format!("{x}end"), 4, "after 'end'"),
        ("bound \"x\" f32 [2] constant layout 1 2".into(), 2, "'2'"),
    ] {
        let message = refusal(&lines);
        assert!(message.starts_with(&format!("graph text, line {number}: ")) && message.contains(word), "{message}");
    }
}

#[test]
fn a_text_cut_short_and_one_of_another_version_are_errors() {
    let error = |text: &str| Graph::from_text(text).unwrap_err().to_string();
    assert!(error("").contains("stops before 'end'"));
    assert!(error("qiao graph 1\nbound \"x\" f32 [2]\n").contains("line 3: the text stops before 'end'"));
    assert!(error("qiao graph 2\nend\n").contains("version '2', and 1 is read here"));
    assert!(error("graph\nend\n").contains("start with 'qiao graph 1'"));
    assert_eq!(Graph::from_text("qiao graph 1\r\nend\r\n").unwrap(), Graph::new());
}

#[test]
fn a_view_taken_before_its_tensor_was_written_comes_back() {
    let f32s = |shape: &[usize]| TensorDesc::new(DType::F32, shape).unwrap();
    let mut g = Graph::new();
    let t = g.temporary("t", f32s(&[2, 4]));
    let early = g.reshape(t, &[8]).unwrap();
    g.add_into(Op::Fill(qiao_core::FillAttrs { value: f32::from_bits(0x7fc0_1234) }), &[], &[t]).unwrap();
    let late = g.reshape(t, &[4, 2]).unwrap();
    let row = g.view(late, f32s(&[2]), 8).unwrap();
    let sum = g.op1(Op::Add(qiao_core::NoAttrs {}), &[early, early]).unwrap();
    let k = g.bind("k", f32s(&[1, 1, 2]));
    let slots = g.bind("slots", TensorDesc::new(DType::I64, &[1]).unwrap());
    let cache = g.bind("cache", f32s(&[1, 1, 4, 2]));
    let values = g.bind("values", f32s(&[1, 1, 4, 2]));
    let layout = qiao_core::KvWriteAttrs { kv_layout: qiao_core::KvLayout::BlockHeadToken };
    g.add(Op::KvWrite(layout), &[k, k, slots, cache, values].map(Some)).unwrap();
    let w = g.bind("w", f32s(&[2, 8]).as_constant());
    let x = g.reshape(sum, &[1, 8]).unwrap();
    let attrs = qiao_core::MatmulAttrs { trans_b: true, ..Default::default() };
    g.op1(Op::Matmul(attrs), &[x, w]).unwrap();
    g.set_layout(w, 0xfeed_0000_0000_0001).unwrap();
    g.op1(Op::Silu(qiao_core::NoAttrs {}), &[row]).unwrap();
    let text = g.to_text();
    assert_eq!(Graph::from_text(&text).unwrap(), g, "{text}");
    assert!(text.contains("node fill {0x7fc01234} -> %0") && text.contains("layout 0xfeed000000000001"), "{text}");
    assert!(text.contains("node kv_write {1} %5 %5 %6 %7 %8 -> %7 %8"), "{text}");
}

#[test]
fn a_tensor_that_no_node_could_use_is_written_and_then_refused() {
    let mut g = Graph::new();
    let shape = Dims::new(&[2, 2]).unwrap();
    let strides = Dims::new(&[1]).unwrap();
    g.bind("bent", TensorDesc { dtype: DType::F32, shape, strides, layout: 0, constant: false });
    assert!(Graph::from_text(&g.to_text()).unwrap_err().to_string().contains("one stride per dim"));
}
