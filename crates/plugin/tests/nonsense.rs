//! What makes no sense is one clear error, with what was found and how to mend it.

mod wildcard;

use std::sync::Arc;

use qiao_core::{
    Backend, Binding, DType, Device, Error, Graph, KvLayout, MatmulAttrs, Op, Result, Support, TensorDesc,
};
use qiao_plugin::abi::{self, DeviceInfo, DtypeInfo, KvInfo, MemoryInfo, PlanInfo, Query, Sized32};
use qiao_plugin::{Options, Plugin, PluginBackend};
use wildcard::{Script, change, lay, without};

fn begin() {
    wildcard::play(Script { seed: 3, wildness: 0, sane_head: true });
}

fn load() -> Result<Arc<PluginBackend>> {
    // SAFETY: the pointers of this plugin are what they seem.
    unsafe { Plugin::of_query(wildcard::query, &Options::default()) }
}

fn open() -> Result<Arc<dyn Device>> {
    load()?.open(0)
}

#[track_caller]
fn says<T>(result: Result<T>, parts: &[&str]) {
    let Err(error) = result else { panic!("it was taken: {parts:?}") };
    let text = error.to_string();
    parts.iter().for_each(|p| assert!(text.contains(p), "the error does not say {p:?}: {text}"));
    assert_eq!(wildcard::faults(), [""; 0], "after: {text}");
}

/// A device that says something odd of itself is refused with these words.
#[track_caller]
fn refused<T: Sized32>(slot: &'static str, odd: impl Fn(&mut T) + 'static, parts: &[&str]) {
    begin();
    change(slot, odd);
    says(open().map(|_| ()), parts);
}

#[test]
fn a_device_that_makes_no_sense_is_refused() {
    let info = "device_info";
    refused::<DeviceInfo>(info, |i| i.name = [0; 64], &["wild:0", "its name is empty"]);
    refused::<DeviceInfo>(info, |i| i.name = [7; 64], &["its name is empty"]);
    refused::<DeviceInfo>(info, |i| i.memory_count = 0, &["no memory", "at least one"]);
    refused::<DeviceInfo>(info, |i| i.memory_count = u32::MAX, &["4294967295 memories"]);
    refused::<DeviceInfo>(info, |i| i.dtype_count = 4097, &["4097 dtypes"]);
    refused::<DeviceInfo>(info, |i| i.kv_count = 1 << 31, &["cache layouts"]);
    refused::<DeviceInfo>(info, |i| i.tensor_align = 48, &["tensor_align = 48", "power of two"]);
    refused::<DeviceInfo>(info, |i| i.tensor_align = 1 << 40, &["tensor_align"]);
    refused::<DeviceInfo>(info, |i| i.tensor_tail_pad = (1 << 20) + 1, &["tensor_tail_pad = 1048577", "1 MiB"]);
    refused::<DeviceInfo>(info, |i| i.struct_size = 8, &["changed struct_size", "to 8"]);
    let memory = "memory_info";
    refused::<MemoryInfo>(memory, |m| m.base_align = 0, &["memory 0: base_align = 0, tensor_align = 64"]);
    refused::<MemoryInfo>(memory, |m| m.base_align = 96, &["base_align = 96"]);
    refused::<MemoryInfo>(
        memory,
        |m| (m.total_bytes, m.free_bytes) = (1 << 20, 1 << 21),
        &["2097152 bytes free", "of 1048576"],
    );
    refused::<MemoryInfo>(memory, |m| (m.total_bytes, m.max_alloc) = (1, 2), &["2 in one allocation"]);
    refused::<DtypeInfo>("dtype_info", |d| d.dtype = 0x1_2002, &["dtype f32 stands twice"]);
    refused::<KvInfo>("kv_info", |k| k.block_size = 1 << 20, &["blocks of 1048576 tokens"]);
    begin();
    change::<DeviceInfo>(info, |i| i.kv_count = 2);
    says(open().map(|_| ()), &["block_token_head of 16 tokens stands twice"]);
}

#[test]
fn a_device_of_which_a_part_is_not_known_is_taken_without_it() {
    begin();
    change::<DeviceInfo>("device_info", |i| {
        (i.caps, i.flags, i.reserved) = (u64::MAX, 77, 88);
        i.name[..9].copy_from_slice(&b"A\x1b[1m\nc\xff\0".map(|c| c as _));
    });
    change::<MemoryInfo>("memory_info", |m| m.flags = u32::MAX);
    change::<DtypeInfo>("dtype_info", |d| d.dtype = 0xdead);
    change::<KvInfo>("kv_info", |k| k.layout = 99);
    let backend = load().unwrap();
    let device = backend.open(0).unwrap();
    let info = device.info();
    assert_eq!(info.name, "A[1m c\u{fffd}");
    assert!(info.dtypes.is_empty() && info.kv.is_empty() && info.memories[0].kind.pinned && info.caps.index_i64);
    let notes = backend.notes().join("; ");
    assert!(notes.contains("dtype 0xdead is not known") && notes.contains("cache layout 99 is not known"), "{notes}");
}

#[test]
fn functions_that_a_count_or_a_cap_needs_and_that_are_missing_are_noted() {
    begin();
    without(&["dtype_info", "kv_info", "buffer_import"]);
    let backend = load().unwrap();
    let device = backend.open(0).unwrap();
    assert!(!device.info().caps.import_host && device.info().dtypes.is_empty());
    let notes = backend.notes().join("; ");
    for part in ["counts 2 dtypes", "counts 1 cache layouts", "no buffer_import: host memory is uploaded"] {
        assert!(notes.contains(part), "{part}: {notes}");
    }
    assert_eq!(KvLayout::ALL.len(), 2, "the layouts that a kv_info may name");
}

#[test]
fn extensions_that_are_no_chain_are_refused() {
    refused::<DeviceInfo>("device_info", |i| i.ext = std::ptr::without_provenance(3), &["an extension at 0x3"]);
    static RING: std::sync::atomic::AtomicPtr<abi::Ext> = std::sync::atomic::AtomicPtr::new(std::ptr::null_mut());
    let ring = Box::leak(Box::new(abi::Ext { ty: 1, size: 16, next: std::ptr::null() }));
    ring.next = ring;
    RING.store(ring, std::sync::atomic::Ordering::Relaxed);
    let odd = |i: &mut DeviceInfo| i.ext = RING.load(std::sync::atomic::Ordering::Relaxed);
    refused::<DeviceInfo>("device_info", odd, &["more than 64 extensions", "end the chain"]);
}

#[test]
fn a_query_that_makes_no_sense_is_refused() {
    let refused = |odd: fn(&mut Query), parts: &[&str]| {
        begin();
        change::<Query>("query", odd);
        says(load().map(|_| ()), parts);
    };
    refused(|q| q.name = [b'a' as _; 32], &["its name", "1 to 31"]);
    refused(|q| q.name = [0; 32], &["its name \"\""]);
    refused(|q| q.struct_size = 4, &["changed struct_size of qiao_query to 4"]);
    refused(|q| q.sanitizer = 99, &["a sanitizer that this host does not know"]);
    refused(|q| q.api = std::ptr::null(), &["a table at 0x0"]);
    refused(|q| q.api = q.api.wrapping_byte_add(4), &["which is no place for one"]);
    refused(|q| q.plugin_min_host_minor = u32::MAX, &["needs a host of 0.4294967295"]);
    begin();
    lay("query", 12345, "");
    says(load().map(|_| ()), &["status 12345, which is none"]);
}

fn matmul() -> Graph {
    let desc = |shape: &[usize]| TensorDesc::new(DType::F32, shape).unwrap();
    let mut g = Graph::new();
    let (a, w) = (g.bind("a", desc(&[4, 16])), g.bind("w", desc(&[8, 16]).as_constant()));
    let c = g.bind("c", desc(&[4, 8]));
    g.add_into(Op::Matmul(MatmulAttrs { trans_b: true, ..Default::default() }), &[Some(a), Some(w)], &[c]).unwrap();
    g
}

/// The words of a refusal that a record leads to.
#[track_caller]
fn answered(record: impl Fn(&mut abi::Support) + 'static, part: &str) {
    begin();
    change::<abi::Support>("graph_support", move |s| {
        *s = abi::Support::sized();
        record(s);
    });
    let device = open().unwrap();
    let answer = device.support(&matmul()).remove(0).answer;
    let Support::No(reason) = &answer else { panic!("{answer:?}") };
    assert!(reason.to_string().contains(part), "{part:?}: {reason}");
    match device.plan(&matmul()).err().unwrap() {
        Error::Unsupported { list, .. } => assert_eq!(list[0].reason, *reason),
        e => panic!("{e}"),
    }
}

fn words(s: &mut abi::Support, text: &str) {
    for (slot, byte) in s.words.iter_mut().zip(text.bytes()) {
        *slot = byte as _;
    }
}

/// A refusal: reason, operand, property, rule, value, limit.
fn no(s: &mut abi::Support, numbers: (u32, i32, u32, u32, i64, i64)) {
    (s.reason, s.operand, s.property, s.rule, s.value, s.limit) = numbers;
}

#[test]
fn refusals_read_as_sentences() {
    use abi::*;
    answered(
        |s| no(s, (REASON_DIM, 2, 2, RULE_MULTIPLE_OF, 100, 64)),
        "operand 1: dim 1 = 100 is not a multiple of 64",
    );
    answered(|s| no(s, (REASON_RANK, 1, 0, RULE_AT_MOST, 4, 2)), "operand 0: rank = 4 is above 2");
    answered(
        |s| no(s, (REASON_ALIGN, 3, 0, RULE_MULTIPLE_OF, 12, 64)),
        "operand 2: start = 12 is not a multiple of 64",
    );
    answered(|s| no(s, (REASON_ATTRIBUTE, 0, 2, RULE_EQUAL, 3, 0)), "attribute epilogue = 3 must be 0");
    answered(|s| no(s, (REASON_ATTRIBUTE, 0, 0, RULE_NONE, 0, 0)), "attribute of a newer header is not supported");
    answered(|s| no(s, (REASON_PRESENCE, 3, 0, RULE_NONE, 0, 0)), "operand 2: presence is not supported");
    answered(|s| no(s, (REASON_LAYOUT, 2, 0, RULE_NONE, 77, 0)), "operand 1: layout = 0x4d is not supported");
    answered(|s| no(s, (REASON_DTYPE, 1, 0, RULE_EQUAL, 0x1_2002, 0x1_1002)), "operand 0: dtype = f32 must be f16");
    answered(|s| no(s, (REASON_OPCODE, 0, 0, 0, 0, 0)), "no kernel for this operator");
    answered(|s| no(s, (REASON_REVISION, 0, 0, RULE_AT_MOST, 1, 0)), "revision = 1 is above 0");
    answered(
        |s| {
            no(s, (REASON_DTYPE, 1, 0, RULE_ONE_OF, 0x1_2002, 0));
            words(s, "f16, bf16\n");
        },
        "operand 0: dtype = f32 is not one of f16, bf16",
    );
    answered(
        |s| {
            no(s, (REASON_STRIDES, 1, 0, RULE_EQUAL, 0, 0));
            words(s, "contiguous");
        },
        "operand 0: strides must be contiguous",
    );
    answered(|_| (), "no kernel for this operator");
}

#[test]
fn answers_that_make_no_sense_are_refusals_that_say_so() {
    use abi::*;
    answered(|s| s.level = 3, "the plugin's answer makes no sense: level 3");
    answered(|s| no(s, (99, 0, 0, 0, 0, 0)), "reason 99, which is none");
    answered(|s| no(s, (REASON_DIM, 1, 0, 0, 0, 0)), "property 0, which is no axis + 1 of rank 2");
    answered(|s| no(s, (REASON_DIM, 1, 3, 0, 0, 0)), "property 3, which is no axis");
    answered(|s| no(s, (REASON_RANK, 5, 0, 0, 0, 0)), "operand 5 of 3");
    answered(|s| no(s, (REASON_RANK, i32::MIN, 0, 0, 0, 0)), "operand -2147483648 of 3");
    answered(|s| no(s, (REASON_RANK, 0, 0, 6, 0, 0)), "rule 6, which is none");
    answered(|s| no(s, (REASON_ATTRIBUTE, 0, 4, 0, 0, 0)), "attribute 4 of 3");
    answered(|s| no(s, (REASON_DTYPE, 1, 0, RULE_ONE_OF, -1, 0)), "dtype 0xffffffffffffffff, which is none");
    answered(|s| s.struct_size = 0, "changed struct_size of a record");
    let relayout =
        |layout, operand| move |s: &mut Support| (s.level, s.layout, s.operand) = (SUPPORT_RELAYOUT, layout, operand);
    answered(relayout(0, 2), "a private layout is wanted, and it is 0");
    answered(relayout(7, 0), "operand 0, which is none");
    answered(relayout(7, -1), "operand -1, which is none");
    answered(relayout(7, 3), "operand 3, which is none");
    answered(relayout(7, 1), "not constant");
    answered(|s| (s.level, s.act_dtype) = (SUPPORT_NATIVE, 0xbeef), "act_dtype = 0xbeef is no dtype");
}

#[test]
fn a_question_that_fails_is_a_refusal_with_its_words() {
    begin();
    let device = open().unwrap();
    lay("graph_support", abi::ERR_INTERNAL, "the compiler crashed");
    let answer = device.support(&matmul()).remove(0).answer;
    let Support::No(reason) = answer else { panic!("{answer:?}") };
    assert!(reason.to_string().contains("the compiler crashed"), "{reason}");
}

#[test]
fn a_wish_for_a_layout_without_prepack_is_refused() {
    begin();
    without(&["prepack", "prepack_size"]);
    change::<abi::Support>("graph_support", |s| (s.level, s.layout, s.operand) = (abi::SUPPORT_RELAYOUT, 7, 2));
    let device = open().unwrap();
    let Support::No(reason) = device.support(&matmul()).remove(0).answer else { panic!("it was taken") };
    assert!(reason.to_string().contains("0x7 is wanted, and there is no prepack"), "{reason}");
}

#[test]
fn a_plan_that_makes_no_sense_is_refused_and_destroyed() {
    let native = |s: &mut abi::Support| s.level = abi::SUPPORT_NATIVE;
    let refused = |odd: fn(&mut PlanInfo), part: &str| {
        begin();
        change::<abi::Support>("graph_support", native);
        change::<PlanInfo>("plan_create", odd);
        let device = open().unwrap();
        let error = device.plan(&matmul()).err().unwrap().to_string();
        assert!(error.contains(part), "{part:?}: {error}");
        assert_eq!((wildcard::times("plan_create"), wildcard::times("plan_destroy")), (1, 1), "{error}");
    };
    refused(|p| p.workspace_align = 3, "workspace_align = 3");
    refused(|p| p.workspace_align = 1 << 40, "workspace_align = 1099511627776");
    refused(|p| p.workspace_bytes = u64::MAX, "workspace_bytes = 18446744073709551615");
    refused(|p| p.resident_bytes = 1 << 63, "resident_bytes = 9223372036854775808");
    refused(|p| p.struct_size = 0, "changed struct_size");
    begin();
    change::<abi::Support>("graph_support", native);
    change::<MemoryInfo>("memory_info", |m| m.total_bytes = 1 << 20);
    change::<PlanInfo>("plan_create", |p| p.workspace_bytes = 1 << 30);
    let device = open().unwrap();
    let planned = device.plan(&matmul()).map(|_| ());
    drop(device);
    says(planned, &["workspace_bytes = 1073741824; the device has 1048576"]);
    // What it called native it does not plan.
    begin();
    change::<abi::Support>("graph_support", native);
    lay("plan_create", abi::ERR_UNSUPPORTED, "not today");
    let device = open().unwrap();
    let error = device.plan(&matmul()).err().unwrap();
    assert!(matches!(&error, Error::Internal { .. }), "{error:?}");
    assert!(error.to_string().contains("calls it native, yet plan_create does not support it: not today"), "{error}");
}

#[test]
fn a_packed_size_that_makes_no_sense_is_refused() {
    for (bytes, part) in
        [(0, "0 bytes"), (u64::MAX, "18446744073709551615 bytes"), (1 << 63, "9223372036854775808 bytes")]
    {
        begin();
        wildcard::packed(bytes);
        let device = open().unwrap();
        let desc = TensorDesc::new(DType::F32, &[8, 16]).unwrap().as_constant();
        let error = device.prepack_bytes(&desc, 7).unwrap_err();
        assert!(matches!(&error, Error::Invalid { .. }) && error.to_string().contains(part), "{error}");
    }
    begin();
    let device = open().unwrap();
    let desc = TensorDesc::new(DType::F32, &[8, 16]).unwrap().as_constant();
    assert!(device.prepack_bytes(&desc, 0).is_err());
    lay("prepack_size", abi::ERR_UNSUPPORTED, "no such layout");
    assert!(device.prepack_bytes(&desc, 7).unwrap_err().to_string().contains("no such layout"));
    assert_eq!(device.prepack_bytes(&desc, 7).unwrap(), 1024);
    // A packed tensor is bound by its packed size.
    let mut packed = matmul();
    packed.set_layout(packed.bound()[1], 7).unwrap();
    change::<abi::Support>("graph_support", |s| s.level = abi::SUPPORT_NATIVE);
    let plan = device.plan(&packed).unwrap();
    let room = |bytes| Binding::whole(device.alloc(0, bytes).unwrap());
    let mut stream = device.stream().unwrap();
    let short = plan.execute(&mut *stream, &[room(256), room(1023), room(128)], &room(64)).unwrap_err();
    assert!(short.to_string().contains("give it 1024 bytes"), "{short}");
    plan.execute(&mut *stream, &[room(256), room(1024), room(128)], &room(64)).unwrap();
}
