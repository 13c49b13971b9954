//! Nonsense in input structs: always an answer, never a crash.

use std::ptr::null_mut;

use proptest::prelude::*;
use qiao_core::OpKind;
use qiao_plugin::abi::{self, Binding, Ext, Graph, Op, PlanInfo, Sized32, Support, Tensor};

use crate::graphs::Sketch;
use crate::host::{Failed, Session, call, get, slot};

/// More than any struct that is read, so that a wild size reads bytes of ours.
const ROOM: usize = 4096 + 8;

/// A struct of the boundary with random bytes behind it.
#[derive(Clone)]
struct Raw(Vec<u64>);

impl Raw {
    fn of<T: Copy>(value: &T, noise: &[u8]) -> Raw {
        let mut raw = Raw(vec![0; ROOM / 8]);
        // SAFETY: the room is larger than any struct, and a struct of the boundary has no padding.
        let bytes = unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) };
        raw.bytes()[..bytes.len()].copy_from_slice(bytes);
        for (i, &b) in noise.iter().enumerate() {
            raw.bytes()[size_of::<T>() + i] = b;
        }
        raw
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: words are bytes.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), ROOM) }
    }

    /// Changes bytes, but for those of `kept`: pointers, and counts of what lies behind them.
    fn change(&mut self, changes: &[(usize, u8)], span: usize, kept: &[std::ops::Range<usize>]) {
        for &(at, byte) in changes {
            let at = at % span;
            if !kept.iter().any(|k| k.contains(&at)) {
                self.bytes()[at] = byte;
            }
        }
    }

    fn ptr<T>(&self) -> *const T {
        self.0.as_ptr().cast()
    }
}

/// Which struct is changed, where, and to what. Small values and those near powers of two come often.
fn changes() -> impl Strategy<Value = Vec<(usize, usize, u8)>> {
    let byte = prop_oneof![0u8..4, Just(0xFF), Just(0x80), any::<u8>()];
    proptest::collection::vec((0usize..16, 0usize..300, byte), 0..12)
}

/// A graph of three operators, changed.
struct Wild {
    tensors: Vec<Raw>,
    ops: Vec<Raw>,
    operands: Vec<Vec<u32>>,
    attrs: Vec<Raw>,
    graph: Raw,
    bound: Vec<u32>,
}

fn wild(changes: &[(usize, usize, u8)], noise: &[u8]) -> Wild {
    let mut sketch = Sketch::default();
    let (x, w, y) = (sketch.bind(&[2, 4]), sketch.bind(&[3, 4]), sketch.bind(&[2, 3]));
    let (t, v) = (sketch.temporary(&[2, 3]), sketch.temporary(&[6]));
    sketch.tensors[w as usize].flags = abi::TENSOR_CONST;
    sketch.tensors[v as usize].view_of = t + 1;
    sketch.op(OpKind::Matmul, &[x, w], &[t], &[1, 0, 0]);
    sketch.op(OpKind::Silu, &[t], &[y], &[]);
    sketch.op(OpKind::Softmax, &[v], &[v], &[0, 0]);
    let of = |which: usize| -> Vec<(usize, u8)> {
        changes.iter().filter(|c| c.0 == which).map(|&(_, at, byte)| (at, byte)).collect()
    };
    let mut tensors: Vec<Raw> = sketch.tensors.iter().map(|t| Raw::of(t, noise)).collect();
    for (i, tensor) in tensors.iter_mut().enumerate() {
        tensor.change(&of(i), size_of::<Tensor>() + 8, &[ext_of::<Tensor>()]);
    }
    let mut operands = sketch.operands.clone();
    let mut attrs = Vec::new();
    let mut ops = Vec::new();
    for (i, op) in sketch.ops.iter().enumerate() {
        let words = sketch.attrs[i].clone();
        let mut raw = Raw(vec![0; ROOM / 8]);
        for (j, word) in words.iter().enumerate() {
            raw.bytes()[4 * j..][..4].copy_from_slice(&word.to_ne_bytes());
        }
        raw.change(&of(8 + i), 32, &[]);
        attrs.push(raw);
        for (at, byte) in of(11 + i) {
            let n = operands[i].len();
            operands[i][at % n] = if byte > 6 { u32::MAX - u32::from(byte == 7) } else { byte.into() };
        }
        let op = Op { operands: operands[i].as_ptr(), attrs: attrs[i].ptr(), ..*op };
        let mut raw = Raw::of(&op, noise);
        // n_in and n_out say how many operands there are; a count that is wild as a whole is another test's.
        let counts = std::mem::offset_of!(Op, n_in)..size_of::<Op>();
        raw.change(&of(5 + i), size_of::<Op>() + 8, &[counts]);
        ops.push(raw);
    }
    let mut bound = sketch.bound.clone();
    for (at, byte) in of(14) {
        bound[at % 3] = byte.into();
    }
    let graph = sketch.with(|g| *g);
    let mut graph = Raw::of(&graph, noise);
    graph.change(&of(15), 4, &[]);
    Wild { tensors, ops, operands, attrs, graph, bound }
}

/// Where the last pointer of a struct is.
fn ext_of<T>() -> std::ops::Range<usize> {
    size_of::<T>() - 8..size_of::<T>()
}

impl Wild {
    fn with<R>(&mut self, f: impl FnOnce(*const Graph) -> R) -> R {
        let tensors: Vec<*const Tensor> = self.tensors.iter().map(Raw::ptr).collect();
        let ops: Vec<*const Op> = self.ops.iter().map(Raw::ptr).collect();
        let graph: *mut Graph = self.graph.0.as_mut_ptr().cast();
        // SAFETY: the room of the graph is ours, and holds one.
        unsafe {
            (*graph).tensors = tensors.as_ptr();
            (*graph).ops = ops.as_ptr();
            (*graph).bound = self.bound.as_ptr();
        }
        assert!(self.operands.len() == self.attrs.len());
        f(graph)
    }
}

fn known(failed: &Failed) {
    assert!((1..=10).contains(&failed.code), "status {}", failed.code);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) })]

    #[test]
    fn a_changed_graph_gets_an_answer(changes in changes(), noise in proptest::collection::vec(0u8..2, 0..16)) {
        let session = Session::new(&[]);
        let mut wild = wild(&changes, &noise);
        let mut records = vec![Support::sized(); 3];
        let places: Vec<*mut Support> = records.iter_mut().map(|r| &raw mut *r).collect();
        let asked = wild.with(|graph| call(|err| slot!(graph_support(session.device, graph, places.as_ptr(), err))));
        if let Err(failed) = &asked {
            known(failed);
            prop_assert_ne!(failed.code, abi::ERR_INTERNAL, "{}", &failed.message);
        }
        let mut info = PlanInfo::sized();
        let planned = wild.with(|graph| {
            get(null_mut(), |out, err| slot!(plan_create(session.device, graph, out, &raw mut info, err)))
        });
        // Softmax is refused whatever its numbers are: only a graph that is too small to have operators is planned.
        match planned {
            Ok(plan) => {
                let size = u32::from_ne_bytes(wild.graph.bytes()[..4].try_into().unwrap());
                prop_assert!(size as usize <= std::mem::offset_of!(Graph, n_ops));
                slot!(plan_destroy(plan));
            }
            Err(failed) => known(&failed),
        }
        for record in &records {
            prop_assert!(record.level <= abi::SUPPORT_RELAYOUT && record.reason <= abi::REASON_PRESENCE);
        }
    }

    #[test]
    fn a_changed_copy_is_planned_exactly_where_it_is_native(changes in changes()) {
        let session = Session::new(&[]);
        let mut sketch = Sketch::copy(4);
        for &(which, at, byte) in &changes {
            if let Some(tensor) = sketch.tensors.get_mut(which) {
                let fields = [&mut tensor.dims[at % 8], &mut tensor.strides[at % 8]];
                match at % 5 {
                    0 => tensor.rank = byte.into(),
                    1 => tensor.dtype ^= u32::from(byte) << (at % 24),
                    2 => tensor.layout = byte.into(),
                    3 => tensor.flags = byte.into(),
                    _ => *fields.into_iter().nth(at / 8 % 2).unwrap() = i64::from(byte as i8) << (at % 60),
                }
            }
        }
        let answer = sketch.support(&session);
        let planned = sketch.plan(&session);
        match (&answer, &planned) {
            (Ok(records), Ok(_)) => prop_assert_eq!(records[0].level, abi::SUPPORT_NATIVE),
            (Ok(records), Err(failed)) => {
                prop_assert_eq!((records[0].level, failed.code), (abi::SUPPORT_NO, abi::ERR_UNSUPPORTED));
            }
            // Where several things are wrong, one of them is named.
            (Err(asked), Err(failed)) => {
                known(failed);
                prop_assert!(asked.code != abi::ERR_INTERNAL && failed.code != abi::ERR_INTERNAL);
            }
            (Err(asked), Ok(_)) => prop_assert!(false, "planned in spite of: {}", asked.message),
        }
    }

    #[test]
    fn wild_bindings_are_refused_or_harmless(
        parts in proptest::collection::vec((0u8..6, any::<u64>(), any::<u64>(), any::<bool>()), 0..4)
    ) {
        let session = Session::new(&[]);
        let buffer = session.alloc(64);
        let (plan, _) = Sketch::copy(4).plan(&session).unwrap();
        let bindings: Vec<Binding> = parts.iter().map(|&(kind, offset, bytes, small)| Binding {
            buffer: match kind {
                0..=2 => buffer,
                3 => null_mut(),
                4 => session.stream.cast(),
                _ => std::ptr::without_provenance_mut(offset as usize),
            },
            offset: if small { offset % 80 } else { offset },
            bytes: if small { bytes % 80 } else { bytes },
        }).collect();
        let fits = |b: &Binding| b.buffer == buffer && b.bytes >= 16 && b.offset.checked_add(b.bytes).is_some_and(|e| e <= 64);
        let good = bindings.len() == 2 && bindings.iter().all(fits);
        match session.execute(plan, &bindings) {
            Ok(()) => prop_assert!(good),
            Err(failed) => prop_assert!(!good && failed.code == abi::ERR_INVALID_ARG, "{}", failed.message),
        }
    }

    #[test]
    fn wild_handles_name_nothing(bits in any::<u64>(), near in any::<bool>(), flip in 0u32..64) {
        let session = Session::new(&[]);
        let buffer = session.alloc(8);
        let bits = if near { buffer.addr() as u64 ^ 1 << flip } else { bits };
        let wild: *mut abi::Buffer = std::ptr::without_provenance_mut(bits as usize);
        if let Err(failed) = session.upload(wild, 0, &[1; 8]) {
            prop_assert_eq!(failed.code, abi::ERR_INVALID_ARG);
        } else {
            // Another test's buffer, of another backend, would be refused, too.
            prop_assert!(wild == buffer);
        }
    }
}

#[test]
fn wild_sizes_of_a_host_struct_are_refused() {
    let (host, _) = crate::host::host(&[]);
    let mut raw = Raw::of(&host, &[]);
    for size in [0u32, 3, 4097, u32::MAX] {
        raw.bytes()[..4].copy_from_slice(&size.to_ne_bytes());
        let failed = get(null_mut(), |out, err| slot!(backend_init(raw.ptr(), out, err))).unwrap_err();
        assert_eq!(failed.code, abi::ERR_ABI);
    }
    raw.bytes()[..4].copy_from_slice(&64u32.to_ne_bytes());
    let backend = get(null_mut(), |out, err| slot!(backend_init(raw.ptr(), out, err))).unwrap();
    slot!(backend_shutdown(backend));
    raw.bytes()[50] = 1;
    let failed = get(null_mut(), |out, err| slot!(backend_init(raw.ptr(), out, err))).unwrap_err();
    assert_eq!(failed.code, abi::ERR_ABI, "a host that asks for more than is known here");
    // As small as it goes: no log, no options.
    raw.bytes()[50] = 0;
    raw.bytes()[..4].copy_from_slice(&8u32.to_ne_bytes());
    let backend = get(null_mut(), |out, err| slot!(backend_init(raw.ptr(), out, err))).unwrap();
    slot!(backend_shutdown(backend));
    let critical = Ext { ty: abi::EXT_CRITICAL, size: 16, next: std::ptr::null() };
    let host = abi::Host { ext: &critical, ..host };
    let failed = get(null_mut(), |out, err| slot!(backend_init(&host, out, err))).unwrap_err();
    assert_eq!(failed.code, abi::ERR_UNSUPPORTED);
}
