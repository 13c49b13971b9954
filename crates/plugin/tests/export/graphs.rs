//! Graphs as a C host writes them, and what is answered for them.

use std::ffi::c_void;
use std::ptr::{null, null_mut};

use qiao_core::{DType, OpKind};
use qiao_plugin::abi::{self, Binding, Ext, Graph, Op, PlanInfo, Sized32, Support, Tensor};
use qiao_plugin::dtypes;

use crate::host::{Failed, Session, call, get, slot};
use crate::toy::REVERSED;

/// A graph whose parts may be changed before it is used.
#[derive(Clone, Default)]
pub(crate) struct Sketch {
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) ops: Vec<Op>,
    pub(crate) operands: Vec<Vec<u32>>,
    /// Attribute structs as words, `struct_size` first; empty for none.
    pub(crate) attrs: Vec<Vec<u32>>,
    pub(crate) bound: Vec<u32>,
}

impl Sketch {
    /// Adds a bound f32 tensor of these dims, without gaps.
    pub(crate) fn bind(&mut self, dims: &[i64]) -> u32 {
        self.bound.push(self.tensors.len() as u32);
        let index = self.temporary(dims);
        self.tensors[index as usize].bound = self.bound.len() as u32;
        index
    }

    pub(crate) fn temporary(&mut self, dims: &[i64]) -> u32 {
        let mut tensor =
            Tensor { dtype: dtypes::to_c(DType::F32).unwrap(), rank: dims.len() as u32, ..Tensor::sized() };
        tensor.dims[..dims.len()].copy_from_slice(dims);
        for axis in (0..dims.len()).rev() {
            tensor.strides[axis] = dims[axis + 1..].iter().product();
        }
        self.tensors.push(tensor);
        self.tensors.len() as u32 - 1
    }

    /// Adds an operator, its attributes as words.
    pub(crate) fn op(&mut self, kind: OpKind, inputs: &[u32], outputs: &[u32], attrs: &[u32]) {
        let (n_in, n_out) = (inputs.len() as u32, outputs.len() as u32);
        self.ops.push(Op { opcode: kind as u32, n_in, n_out, ..Op::sized() });
        self.operands.push([inputs, outputs].concat());
        let sized = || [&[4 * attrs.len() as u32 + 4], attrs].concat();
        self.attrs.push(if attrs.is_empty() { Vec::new() } else { sized() });
    }

    /// A copy of one bound tensor into another.
    pub(crate) fn copy(elements: i64) -> Sketch {
        let mut sketch = Sketch::default();
        let (x, y) = (sketch.bind(&[elements]), sketch.bind(&[elements]));
        sketch.op(OpKind::Copy, &[x], &[y], &[]);
        sketch
    }

    /// The graph, alive while it is used.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&Graph) -> R) -> R {
        let mut ops = self.ops.clone();
        for ((op, operands), attrs) in ops.iter_mut().zip(&self.operands).zip(&self.attrs) {
            op.operands = operands.as_ptr();
            op.attrs = if attrs.is_empty() { null() } else { attrs.as_ptr().cast::<c_void>() };
        }
        let tensors: Vec<*const Tensor> = self.tensors.iter().map(|t| &raw const *t).collect();
        let ops: Vec<*const Op> = ops.iter().map(|o| &raw const *o).collect();
        f(&Graph {
            n_tensors: tensors.len() as u32,
            n_ops: ops.len() as u32,
            n_bound: self.bound.len() as u32,
            tensors: tensors.as_ptr(),
            ops: ops.as_ptr(),
            bound: self.bound.as_ptr(),
            ..Graph::sized()
        })
    }

    pub(crate) fn support(&self, session: &Session) -> Result<Vec<Support>, Failed> {
        let mut records = vec![Support::sized(); self.ops.len()];
        let places: Vec<*mut Support> = records.iter_mut().map(|r| &raw mut *r).collect();
        self.with(|graph| call(|err| slot!(graph_support(session.device, graph, places.as_ptr(), err))))?;
        Ok(records)
    }

    pub(crate) fn plan(&self, session: &Session) -> Result<(*mut abi::Plan, PlanInfo), Failed> {
        let mut info = PlanInfo::sized();
        let plan = self.with(|graph| {
            get(null_mut(), |out, err| slot!(plan_create(session.device, graph, out, &raw mut info, err)))
        })?;
        Ok((plan, info))
    }
}

pub(crate) fn text(of: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = of.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_copy_runs() {
    let session = Session::new(&[]);
    let sketch = Sketch::copy(4);
    let answer = sketch.support(&session).unwrap()[0];
    assert_eq!((answer.level, text(&answer.kernel).as_str()), (abi::SUPPORT_NATIVE, "copy_f32.toy"));
    let (plan, info) = sketch.plan(&session).unwrap();
    assert_eq!((info.workspace_bytes, info.workspace_align, info.resident_bytes), (0, 64, 3));
    let buffer = session.alloc(64);
    session.upload(buffer, 0, &[1; 16]).unwrap();
    let part = |offset| Binding { buffer, offset, bytes: 16 };
    for _ in 0..3 {
        session.execute(plan, &[part(0), part(32)]).unwrap();
    }
    assert_eq!(session.download(buffer, 28, 24).unwrap(), [&[0; 4][..], &[1; 16], &[0; 4]].concat());
    slot!(plan_destroy(plan));
    slot!(buffer_free(buffer));
}

#[test]
fn bindings_may_stand_in_any_order_and_views_before_what_they_view() {
    let session = Session::new(&[]);
    let mut sketch = Sketch::default();
    // Tensor 0 is a view of tensor 2; tensor 1 is bound second, tensor 2 first.
    let view = sketch.temporary(&[2]);
    let y = sketch.temporary(&[2]);
    let x = sketch.temporary(&[4]);
    sketch.tensors[view as usize].view_of = x + 1;
    sketch.tensors[view as usize].view_offset = 8;
    sketch.tensors[x as usize].bound = 1;
    sketch.tensors[y as usize].bound = 2;
    sketch.bound = vec![x, y];
    sketch.op(OpKind::Copy, &[view], &[y], &[]);
    let (plan, _) = sketch.plan(&session).unwrap();
    let buffer = session.alloc(64);
    session.upload(buffer, 0, &(0..16).collect::<Vec<u8>>()).unwrap();
    let part = |offset, bytes| Binding { buffer, offset, bytes };
    session.execute(plan, &[part(0, 16), part(32, 8)]).unwrap();
    assert_eq!(session.download(buffer, 32, 8).unwrap(), (8..16).collect::<Vec<u8>>());
}

#[test]
fn a_refusal_crosses_with_its_numbers_and_words() {
    let session = Session::new(&[]);
    let mut sketch = Sketch::default();
    let (x, y) = (sketch.bind(&[2, 100]), sketch.bind(&[2, 100]));
    sketch.op(OpKind::Softmax, &[x], &[y], &[2f32.to_bits(), 0]);
    let no = sketch.support(&session).unwrap()[0];
    assert_eq!((no.level, no.reason, no.operand), (abi::SUPPORT_NO, abi::REASON_DIM, 1));
    assert_eq!((no.property, no.rule, no.value, no.limit), (2, abi::RULE_MULTIPLE_OF, 100, 64));

    let mut sketch = Sketch::default();
    let (x, y) = (sketch.bind(&[2, 64]), sketch.bind(&[2, 64]));
    sketch.op(OpKind::Softmax, &[x], &[y], &[2f32.to_bits(), 0]);
    let no = sketch.support(&session).unwrap()[0];
    assert_eq!((no.reason, no.operand, no.property), (abi::REASON_ATTRIBUTE, 0, 1));
    assert_eq!((no.value, text(&no.words).as_str()), (i64::from(2f32.to_bits()), "1"));

    let mut sketch = Sketch::copy(4);
    let f16 = dtypes::to_c(DType::F16).unwrap();
    sketch.tensors[0].dtype = f16;
    sketch.tensors[1].dtype = f16;
    let no = sketch.support(&session).unwrap()[0];
    assert_eq!((no.reason, no.operand, no.value), (abi::REASON_DTYPE, 1, i64::from(f16)));
    assert_eq!((no.rule, text(&no.words).as_str()), (abi::RULE_ONE_OF, "f32, bf16"));
    let failed = sketch.plan(&session).unwrap_err();
    assert_eq!((failed.code, failed.reason, failed.operand), (abi::ERR_UNSUPPORTED, abi::REASON_DTYPE, 1));
}

#[test]
fn rounded_activations_are_told() {
    let session = Session::new(&[]);
    let mut sketch = Sketch::copy(4);
    sketch.ops[0].opcode = OpKind::Silu as u32;
    let answer = sketch.support(&session).unwrap()[0];
    assert_eq!(answer.act_dtype, dtypes::to_c(DType::I8).unwrap());
}

/// A product whose second operand is constant.
fn product() -> Sketch {
    let mut sketch = Sketch::default();
    let (a, b, c) = (sketch.bind(&[2, 3]), sketch.bind(&[4, 3]), sketch.bind(&[2, 4]));
    sketch.tensors[b as usize].flags = abi::TENSOR_CONST;
    sketch.op(OpKind::Matmul, &[a, b], &[c], &[1, 0, 0]);
    sketch
}

#[test]
fn a_private_layout_is_asked_for_packed_and_then_native() {
    let session = Session::new(&[]);
    let mut sketch = product();
    let answer = sketch.support(&session).unwrap()[0];
    assert_eq!((answer.level, answer.operand, answer.layout), (abi::SUPPORT_RELAYOUT, 2, REVERSED));
    let tensor = sketch.tensors[1];
    let size = |layout| get(0, |out, err| slot!(prepack_size(session.device, &tensor, layout, out, err)));
    assert_eq!(size(REVERSED).unwrap(), 48);
    assert_eq!(size(9).unwrap_err().code, abi::ERR_INVALID_ARG);
    let buffer = session.alloc(128);
    session.upload(buffer, 0, &(0..48).collect::<Vec<u8>>()).unwrap();
    let (src, dst) = (Binding { buffer, offset: 0, bytes: 48 }, Binding { buffer, offset: 64, bytes: 48 });
    let pack = |dst: &Binding| call(|err| slot!(prepack(session.stream, &tensor, &src, REVERSED, dst, err)));
    pack(&dst).unwrap();
    assert_eq!(session.download(buffer, 64, 48).unwrap(), (0..48).rev().collect::<Vec<u8>>());
    assert_eq!(pack(&Binding { bytes: 47, ..dst }).unwrap_err().code, abi::ERR_INVALID_ARG);
    sketch.tensors[1].layout = REVERSED;
    assert_eq!(sketch.support(&session).unwrap()[0].level, abi::SUPPORT_NATIVE);
    let packed = sketch.tensors[1];
    let again = get(0, |out, err| slot!(prepack_size(session.device, &packed, REVERSED, out, err)));
    assert_eq!(again.unwrap_err().code, abi::ERR_INVALID_ARG);
    sketch.tensors[1].flags = 0;
    let failed = sketch.support(&session).unwrap_err();
    assert_eq!(failed.code, abi::ERR_INVALID_ARG);
    assert!(failed.message.contains("is no bound constant"), "{}", failed.message);
}

#[test]
fn what_a_newer_host_asks_for_is_refused_by_operator() {
    let session = Session::new(&[]);
    let refused = |change: &dyn Fn(&mut Sketch)| {
        let mut sketch = product();
        sketch.tensors[1].layout = REVERSED;
        change(&mut sketch);
        let no = sketch.support(&session).unwrap()[0];
        assert_eq!(no.level, abi::SUPPORT_NO);
        let failed = sketch.plan(&session).unwrap_err();
        assert_eq!(failed.reason, no.reason);
        assert!(failed.message.starts_with("op 0: "), "{}", failed.message);
        (no.reason, no.operand, no.property, no.value, failed.code)
    };
    let unsupported = abi::ERR_UNSUPPORTED;
    assert_eq!(refused(&|s| s.ops[0].opcode = 999), (abi::REASON_OPCODE, 0, 0, 999, unsupported));
    assert_eq!(refused(&|s| s.ops[0].opcode = 0x10000), (abi::REASON_OPCODE, 0, 0, 0x10000, unsupported));
    assert_eq!(refused(&|s| s.ops[0].revision = 2), (abi::REASON_REVISION, 0, 0, 2, unsupported));
    assert_eq!(refused(&|s| s.attrs[0][2] = 77), (abi::REASON_ATTRIBUTE, 0, 2, 77, unsupported));
    assert_eq!(refused(&|s| s.tensors[1].dtype = 0x1_0807), (abi::REASON_DTYPE, 2, 0, 0x1_0807, unsupported));
    // A used tail of the attributes: unknown, and an error of the ABI where it is planned.
    let tail = |s: &mut Sketch| {
        s.attrs[0].extend([0, 1]);
        s.attrs[0][0] += 8;
    };
    assert_eq!(refused(&tail), (abi::REASON_ATTRIBUTE, 0, 0, 0, abi::ERR_ABI));
}

#[test]
fn a_smaller_or_empty_tail_of_attributes_is_no_trouble() {
    let session = Session::new(&[]);
    let mut sketch = product();
    sketch.attrs[0] = vec![8, 1];
    assert_eq!(sketch.support(&session).unwrap()[0].level, abi::SUPPORT_RELAYOUT, "older: the rest is 0");
    sketch.attrs[0] = vec![24, 1, 0, 0, 0, 0];
    assert_eq!(sketch.support(&session).unwrap()[0].level, abi::SUPPORT_RELAYOUT, "newer, and not in use");
    sketch.attrs[0] = Vec::new();
    assert_eq!(sketch.support(&session).unwrap_err().code, abi::ERR_INVALID_ARG, "matmul has attributes");
}

#[test]
fn operators_behind_an_unknown_one_are_still_answered() {
    let session = Session::new(&[]);
    let mut sketch = Sketch::default();
    let (x, t, y) = (sketch.bind(&[4]), sketch.temporary(&[4]), sketch.bind(&[4]));
    sketch.op(OpKind::Copy, &[x], &[t], &[]);
    sketch.ops[0].opcode = 999;
    sketch.op(OpKind::Copy, &[t], &[y], &[]);
    let answers = sketch.support(&session).unwrap();
    assert_eq!((answers[0].level, answers[0].reason), (abi::SUPPORT_NO, abi::REASON_OPCODE));
    assert_eq!(answers[1].level, abi::SUPPORT_NATIVE);
}

#[test]
fn extensions_are_skipped_unless_they_are_critical() {
    let session = Session::new(&[]);
    let plain = Ext { ty: 7, size: 16, next: null() };
    let critical = Ext { ty: 7 | abi::EXT_CRITICAL, ..plain };
    for (place, ext) in [(0, &plain), (0, &critical), (1, &plain), (1, &critical)] {
        let mut sketch = Sketch::copy(4);
        match place {
            0 => sketch.tensors[0].ext = ext,
            _ => sketch.ops[0].ext = ext,
        }
        let code = sketch.support(&session).err().map(|f| f.code);
        assert_eq!(code, (ext.ty == critical.ty).then_some(abi::ERR_UNSUPPORTED));
    }
}

#[test]
fn what_core_refuses_is_refused_with_its_words() {
    let session = Session::new(&[]);
    let words = |change: &dyn Fn(&mut Sketch)| {
        let mut sketch = product();
        change(&mut sketch);
        let failed = sketch.support(&session).unwrap_err();
        assert_eq!(failed.code, abi::ERR_INVALID_ARG);
        assert_eq!(sketch.plan(&session).unwrap_err(), failed);
        failed.message
    };
    let holds = |message: String, what: &str| assert!(message.contains(what), "{message}");
    holds(words(&|s| s.tensors[1].dims[1] = 5), "op 0: matmul operand 1 (b)");
    holds(words(&|s| s.tensors[0].dims[0] = -2), "tensor 0: dim: -2");
    holds(words(&|s| s.tensors[0].strides[0] = i64::MIN), "tensor 0: stride");
    holds(words(&|s| s.tensors[0].dims = [i64::MAX; 8]), "more elements than fit");
    holds(words(&|s| s.tensors[2].rank = 9), "tensor 2: rank: 9");
    holds(words(&|s| s.operands[0][1] = 3), "operand 1: tensor 3 of 3");
    holds(words(&|s| s.operands[0][0] = abi::ABSENT), "operand 0 (a)");
    holds(words(&|s| s.operands[0][2] = abi::ABSENT), "operand 2");
    holds(words(&|s| s.operands[0][2] = 0), "matmul output 0");
    holds(words(&|s| s.ops[0].n_out = 0), "outputs: 0 were given");
    holds(words(&|s| s.bound[0] = 1), "binding 0");
    holds(words(&|s| s.bound[0] = 77), "binding 0");
    holds(words(&|s| s.tensors[0].bound = 0), "binding 0");
    holds(words(&|s| s.tensors[0].bound = 9), "binding 0");
    holds(words(&|s| s.tensors[0].view_of = 9), "tensor 0: it is a view of tensor 8");
    holds(words(&|s| s.tensors[0].view_of = 1), "tensor 0: it is a view of tensor 0");
}

#[test]
fn wild_counts_are_refused_before_anything_is_read() {
    let session = Session::new(&[]);
    let failed = |change: &dyn Fn(&mut Graph)| {
        Sketch::copy(4).with(|graph| {
            let mut graph = *graph;
            change(&mut graph);
            let slot = |err| slot!(graph_support(session.device, &raw const graph, null(), err));
            let failed = call(slot).unwrap_err();
            assert_eq!(failed.code, abi::ERR_INVALID_ARG);
            failed.message
        })
    };
    for count in [u32::MAX, 4_000_000_000, 1 << 21] {
        assert!(failed(&|g| g.n_ops = count).starts_with("operators: "));
        assert!(failed(&|g| g.n_tensors = count).starts_with("tensors: "));
        assert!(failed(&|g| g.n_bound = count).starts_with("bound tensors: "));
    }
    assert!(failed(&|g| g.tensors = null()).starts_with("tensors: NULL"));
    assert!(failed(&|g| g.ops = null()).starts_with("operators: NULL"));
    assert!(failed(&|_| ()).starts_with("per_op: NULL"));
    let mut sketch = Sketch::copy(4);
    sketch.ops[0].n_in = u32::MAX;
    assert!(sketch.support(&session).unwrap_err().message.contains("operands: "));
}

#[test]
fn one_op_a_plan_where_the_device_takes_no_more() {
    let session = Session::new(&[]);
    let mut sketch = Sketch::default();
    let (x, y, z) = (sketch.bind(&[4]), sketch.bind(&[4]), sketch.bind(&[4]));
    sketch.op(OpKind::Copy, &[x], &[y], &[]);
    sketch.op(OpKind::Copy, &[y], &[z], &[]);
    assert!(sketch.support(&session).is_ok());
    assert!(sketch.plan(&session).unwrap_err().message.contains("QIAO_CAP_GRAPH"));
}
