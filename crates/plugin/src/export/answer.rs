//! What a Rust backend answers, as records of the boundary.

use qiao_core::{DType, DeviceInfo, Limit, NodeSupport, NodeView, Property, Reason, Rule, Support};

use crate::abi::{self, Sized32};
use crate::dtypes;
use crate::export::fault::reason_number;
use crate::export::request::Refusal;
use crate::export::wire::text;

/// The number of a dtype; every dtype has one.
fn dtype(dtype: DType) -> u32 {
    dtypes::to_c(dtype).unwrap_or(0)
}

/// The record of an operator that is not known here.
pub(super) fn refused(refusal: &Refusal) -> abi::Support {
    abi::Support {
        level: abi::SUPPORT_NO,
        reason: refusal.reason,
        operand: refusal.operand,
        property: refusal.property,
        value: refusal.value,
        ..abi::Support::sized()
    }
}

/// The record of a backend's answer for a node.
pub(super) fn support(answer: &NodeSupport, node: &NodeView<'_>) -> abi::Support {
    let mut record = match &answer.answer {
        Support::Native => abi::Support { level: abi::SUPPORT_NATIVE, ..abi::Support::sized() },
        Support::Relayout { operand, layout } => abi::Support {
            level: abi::SUPPORT_RELAYOUT,
            operand: *operand as i32 + 1,
            layout: *layout,
            ..abi::Support::sized()
        },
        Support::No(reason) => refusal(reason, node),
    };
    record.act_dtype = answer.act_dtype.map_or(0, dtype);
    record.kernel = text(&answer.kernel);
    record
}

fn refusal(reason: &Reason, node: &NodeView<'_>) -> abi::Support {
    let (limit, words) = match &reason.limit {
        Limit::Int(v) if is_float(reason, node) => (i64::from((*v as f32).to_bits()), ""),
        Limit::Int(v) => (*v, ""),
        Limit::Dtype(d) => (i64::from(dtype(*d)), ""),
        Limit::Text(words) => (0, words.as_str()),
        _ => (0, ""),
    };
    let property = match &reason.property {
        Property::Dim(axis) => *axis as u32 + 1,
        Property::Attribute(name) => attribute(node, name).map_or(0, |i| i as u32 + 1),
        _ => 0,
    };
    abi::Support {
        level: abi::SUPPORT_NO,
        reason: reason_number(reason),
        operand: reason.operand.map_or(0, |i| i as i32 + 1),
        property,
        rule: match reason.rule {
            Rule::None => abi::RULE_NONE,
            Rule::MultipleOf => abi::RULE_MULTIPLE_OF,
            Rule::AtMost => abi::RULE_AT_MOST,
            Rule::AtLeast => abi::RULE_AT_LEAST,
            Rule::Equal => abi::RULE_EQUAL,
            Rule::OneOf => abi::RULE_ONE_OF,
        },
        value: found(reason, node),
        limit,
        words: text(words),
        ..abi::Support::sized()
    }
}

/// The position of an attribute in its struct.
fn attribute(node: &NodeView<'_>, name: &str) -> Option<usize> {
    node.kind().attr_names().iter().position(|n| *n == name)
}

/// Whether a reason is about an attribute that crosses the boundary as the bits of an f32.
fn is_float(reason: &Reason, node: &NodeView<'_>) -> bool {
    let Property::Attribute(name) = reason.property else { return false };
    node.kind().attr_fields().1.iter().any(|[field, ty, _]| *field == name && *ty == "float")
}

/// What was found, as a number: where the backend says it in words, what the graph holds there.
fn found(reason: &Reason, node: &NodeView<'_>) -> i64 {
    let signed = |v: usize| i64::try_from(v).unwrap_or(i64::MAX);
    let desc = reason.operand.and_then(|i| node.operands().find(|(at, _)| *at == i)).map(|(_, desc)| desc);
    match (&reason.value, &reason.property, desc) {
        (Limit::Int(v), ..) => *v,
        (Limit::Dtype(d), ..) => i64::from(dtype(*d)),
        (_, Property::Attribute(name), _) => attribute(node, name).map_or(0, |i| i64::from(node.op().attr_words()[i])),
        (Limit::None, ..) => 0,
        (_, Property::Dtype, Some(desc)) => i64::from(dtype(desc.dtype)),
        (_, Property::Rank, Some(desc)) => signed(desc.rank()),
        (_, Property::Dim(axis), Some(desc)) => desc.shape.get(*axis).map_or(0, |&d| signed(d)),
        (_, Property::Layout, Some(desc)) => desc.layout.cast_signed(),
        _ => 0,
    }
}

/// What a device is.
pub(super) fn device(info: &DeviceInfo) -> abi::DeviceInfo {
    let caps = info.caps;
    let caps = [
        (caps.multi_op, abi::CAP_GRAPH),
        (caps.import_host, abi::CAP_IMPORT_HOST),
        (caps.strided, abi::CAP_STRIDED),
        (caps.index_i64, abi::CAP_INDEX_I64),
        (caps.deterministic, abi::CAP_DETERMINISTIC),
        (caps.flush_subnormals, abi::CAP_FLUSH_SUBNORMALS),
        (caps.batch_invariant, abi::CAP_BATCH_INVARIANT),
    ];
    abi::DeviceInfo {
        caps: caps.iter().filter(|(on, _)| *on).map(|(_, cap)| cap).sum(),
        name: text(&info.name),
        arch: text(&info.arch),
        driver: text(&info.driver),
        memory_count: info.memories.len() as u32,
        dtype_count: info.dtypes.len() as u32,
        kv_count: info.kv.len() as u32,
        tensor_align: info.tensor_align as u64,
        tensor_tail_pad: info.tensor_tail_pad as u64,
        peak_source: text(&info.peak_source),
        ..abi::DeviceInfo::sized()
    }
}

/// One of its memories.
pub(super) fn memory(info: &qiao_core::MemoryInfo) -> abi::MemoryInfo {
    let flags = [
        (info.kind.device_local, abi::MEM_DEVICE_LOCAL),
        (info.kind.host_visible, abi::MEM_HOST_VISIBLE),
        (info.kind.pinned, abi::MEM_PINNED),
    ];
    abi::MemoryInfo {
        flags: flags.iter().filter(|(on, _)| *on).map(|(_, flag)| flag).sum(),
        total_bytes: info.total_bytes,
        free_bytes: info.free_bytes,
        max_alloc: info.max_alloc,
        base_align: info.base_align as u64,
        peak_bytes_per_s: info.peak_bytes_per_s as u64,
        ..abi::MemoryInfo::sized()
    }
}

/// One of its dtypes.
pub(super) fn dtype_info(info: &qiao_core::DtypeInfo) -> abi::DtypeInfo {
    abi::DtypeInfo {
        dtype: dtype(info.dtype),
        flags: abi::DTYPE_STORE | if info.compute { abi::DTYPE_COMPUTE } else { 0 },
        peak_ops_per_s: info.peak_ops_per_s as u64,
        ..abi::DtypeInfo::sized()
    }
}

/// One of its KV layouts.
pub(super) fn kv_info(info: &qiao_core::KvInfo) -> abi::KvInfo {
    abi::KvInfo { layout: info.layout as u32, block_size: info.block_size as u32, ..abi::KvInfo::sized() }
}
