//! Chips after documented ones: one struct literal each, every limit with its public source.
//!
//! A preset mimics the limits that are documented, not the chip: neither its speed nor its numerics beyond what is named.

use qiao_core::DType::{BF16, Bool, F16, F32, F64, I4, I8, I16, I32, I64, Q4_0, Q8_0, U4, U8};
use qiao_core::{DType, KvInfo, KvLayout};

use crate::limits::{Accumulate, Limits, Numerics, Weights};

/// A preset.
#[derive(Clone, Debug)]
pub struct Preset {
    /// Its name, as `sim.preset` takes it.
    pub name: &'static str,
    /// What it mimics.
    pub mimics: &'static str,
    /// The limits.
    pub limits: Limits,
    /// For each limit that differs from those of `plain`, by its option: where it is documented.
    pub sources: &'static [(&'static str, &'static str)],
}

const GIB: u64 = 1 << 30;

const EXACT: Numerics = Numerics { accumulate: Accumulate::F32, flush: false };

const fn pages(layout: KvLayout, block_size: usize) -> KvInfo {
    KvInfo { layout, block_size }
}

/// Every block format.
fn all_formats() -> Vec<DType> {
    DType::ALL.iter().copied().filter(|d| d.is_block()).collect()
}

/// A chip without gaps: the ground that presets are built on.
fn plain() -> Limits {
    Limits {
        name: "simnpu",
        align: 1,
        tail_pad: 0,
        memory: 16 * GIB,
        max_alloc: 8 * GIB,
        memory_info: true,
        host_visible: false,
        pinned: true,
        streams: 0,
        dtypes: DType::ALL.iter().copied().filter(|d| !d.is_block()).collect(),
        formats: all_formats(),
        grouped: true,
        max_rank: 8,
        strided: true,
        multi_op: true,
        one_shot: false,
        k_multiple: 1,
        weights: Weights::Plain,
        kv: vec![pages(KvLayout::BlockTokenHead, 0), pages(KvLayout::BlockHeadToken, 0)],
        partial_rope: true,
        event_timing: true,
        fill: true,
        alloc_us: 0,
        plan_ms: 0,
        numerics: EXACT,
    }
}

const NO_F64: &str = "FlagGems: UNSUPPORT_FP64 lists Ascend, Cambricon, Iluvatar, Kunlunxin and Moore Threads; DIOPI: int64 \
                      is narrowed to int32 (four_bytes)";
const START: &str = "CANN, aclrtMalloc: an allocation, and each segment that is cut from one, starts on 64 bytes";
const TAIL: &str = "PaddleCustomDevice: backends/npu/runtime/runtime.cc, ExtraPaddingSize is 32; CANN: up32(n) + 32";
const NO_PINNED: &str = "InfiniRT: docs/backends.md lists no pinned host memory";
const CONTIGUOUS: &str = "llama.cpp: ggml/src/ggml-cann/ggml-cann.cpp, supports_op asks for operands without gaps";
const ONE_SHOT: &str = "CANN, aclnn: an executor is not repeatable unless aclSetAclOpExecutorRepeatable was called";

/// Every preset, `plain` first.
pub fn all() -> Vec<Preset> {
    vec![
        Preset { name: "plain", mimics: "a chip without gaps", limits: plain(), sources: &[] },
        Preset {
            name: "ascend-like",
            mimics: "Ascend 910B and 910C",
            limits: Limits {
                name: "simnpu ascend-like",
                align: 64,
                tail_pad: 32,
                pinned: false,
                dtypes: vec![F32, F16, BF16, I8, I4, U8, I32, Bool],
                formats: vec![Q4_0, Q8_0],
                strided: false,
                one_shot: true,
                weights: Weights::Fractal,
                kv: vec![pages(KvLayout::BlockTokenHead, 128)],
                event_timing: false,
                ..plain()
            },
            sources: ASCEND,
        },
        Preset {
            name: "ascend-310p-like",
            mimics: "Ascend 310P; its five-dimensional cache layout, for which the contract has no name, is not",
            limits: Limits {
                name: "simnpu ascend-310p-like",
                align: 64,
                tail_pad: 32,
                pinned: false,
                dtypes: vec![F32, F16, I8, U8, I32, Bool],
                formats: vec![],
                grouped: false,
                strided: false,
                multi_op: false,
                one_shot: true,
                weights: Weights::FractalOnly,
                kv: vec![pages(KvLayout::BlockTokenHead, 128), pages(KvLayout::BlockTokenHead, 64)],
                partial_rope: false,
                event_timing: false,
                ..plain()
            },
            sources: ASCEND_310P,
        },
        Preset {
            name: "cambricon-like",
            mimics: "Cambricon MLU370 and MLU590",
            limits: Limits {
                name: "simnpu cambricon-like",
                align: 128,
                tail_pad: 32,
                pinned: false,
                dtypes: vec![F32, F16, BF16, I8, U8, I32, Bool],
                formats: vec![],
                grouped: false,
                kv: vec![pages(KvLayout::BlockHeadToken, 16)],
                event_timing: false,
                alloc_us: 100,
                ..plain()
            },
            sources: CAMBRICON,
        },
        Preset {
            name: "kunlun-like",
            mimics: "Kunlunxin P800",
            limits: Limits {
                name: "simnpu kunlun-like",
                memory_info: false,
                dtypes: vec![F32, F16, BF16, I8, U8, I32, Bool],
                formats: vec![],
                kv: vec![pages(KvLayout::BlockTokenHead, 64)],
                event_timing: false,
                fill: false,
                ..plain()
            },
            sources: KUNLUN,
        },
        Preset {
            name: "musa-like",
            mimics: "Moore Threads S4000",
            limits: Limits {
                name: "simnpu musa-like",
                memory_info: false,
                dtypes: vec![F32, F16, BF16, I64, I32, I16, I8, I4, U8, U4, Bool],
                kv: vec![pages(KvLayout::BlockTokenHead, 16)],
                numerics: Numerics { flush: true, ..EXACT },
                ..plain()
            },
            sources: MUSA,
        },
        Preset {
            name: "edge-unified",
            mimics: "an edge chip that shares the host's memory, as Ascend 310P in RC mode",
            limits: Limits {
                name: "simnpu edge-unified",
                host_visible: true,
                pinned: false,
                dtypes: plain().dtypes.into_iter().filter(|&d| d != F64).collect(),
                ..plain()
            },
            sources: EDGE,
        },
        Preset {
            name: "aot-like",
            mimics: "Sophgo BM1684X: whole graphs of static shapes, compiled beforehand",
            limits: Limits {
                name: "simnpu aot-like",
                dtypes: vec![F32, F16, BF16, I8, I4, U4, U8, I32, Bool],
                formats: vec![],
                plan_ms: 20,
                ..plain()
            },
            sources: AOT,
        },
    ]
}

/// The preset of a name.
pub fn find(name: &str) -> Option<Preset> {
    all().into_iter().find(|p| p.name == name)
}

const ASCEND: &[(&str, &str)] = &[
    ("sim.align", START),
    ("sim.tail_pad", TAIL),
    ("sim.pinned", NO_PINNED),
    ("sim.dtypes", NO_F64),
    ("sim.formats", "llama.cpp: ggml/src/ggml-cann/ggml-cann.cpp, MUL_MAT takes Q4_0 and Q8_0"),
    ("sim.strided", CONTIGUOUS),
    ("sim.one_shot", ONE_SHOT),
    ("sim.weights", "llama.cpp: GGML_CANN_WEIGHT_NZ; vllm-ascend#10014, PR 10287, #16292: NZ refuses n or k of 1"),
    ("sim.kv", "vllm-ascend: AscendAttentionBackend.get_supported_block_size is [128]"),
    ("sim.event_timing", "InfiniCore: src/infinirt/ascend/infinirt_ascend.cc, eventElapsedTime is not implemented"),
];

const ASCEND_310P: &[(&str, &str)] = &[
    ("sim.align", START),
    ("sim.tail_pad", TAIL),
    ("sim.pinned", NO_PINNED),
    ("sim.dtypes", "LlamaFactory#7522, vllm-ascend#6490: no bf16 on 310P; FlagGems: UNSUPPORT_FP64 lists Ascend"),
    ("sim.formats", "llama.cpp: ggml/src/ggml-cann/ggml-cann.cpp, Q4 and Q8 products are refused on 310P"),
    ("sim.grouped", "llama.cpp: ggml/src/ggml-cann/ggml-cann.cpp, no grouped quantisation on 310P"),
    ("sim.strided", CONTIGUOUS),
    ("sim.multi_op", "vllm-ascend: no graph mode on 310P"),
    ("sim.one_shot", ONE_SHOT),
    ("sim.weights", "vllm-ascend: vllm_ascend/device/hardware_profile.py, FORCE_NZ on 310P; #9769, #9798"),
    ("sim.kv", "vllm-ascend: vllm_ascend/_310p/attention/attention_v1.py, blocks of 128 or 64; lmdeploy PR 3522"),
    ("sim.partial_rope", "llama.cpp: ggml/src/ggml-cann/ggml-cann.cpp, ROPE asks for n_dims = ne0"),
    ("sim.event_timing", "InfiniCore: src/infinirt/ascend/infinirt_ascend.cc, eventElapsedTime is not implemented"),
];

const CAMBRICON: &[(&str, &str)] = &[
    ("sim.align", "Cambricon/mlu-ops: the compute unit aligns to 128 bytes"),
    ("sim.tail_pad", "PaddleCustomDevice: backends/mlu/runtime/runtime.cc, ExtraPaddingSize is 32"),
    ("sim.pinned", NO_PINNED),
    ("sim.dtypes", "dlinfer: the cache write takes int32 only; FlagGems: UNSUPPORT_FP64 lists Cambricon"),
    ("sim.formats", "dlinfer: W8A8 is the quantisation there is"),
    ("sim.grouped", "dlinfer: W8A8 per token only"),
    ("sim.kv", "dlinfer, InfiniCore: pages of [blocks, Hkv, 16, D], blocks must be 16"),
    ("sim.event_timing", "InfiniCore: src/infinirt/bang/infinirt_bang.cc, eventElapsedTime is not implemented"),
    ("sim.alloc_us", "InfiniCore: src/infinirt/bang/infinirt_bang.cc, no async allocation: every one blocks"),
];

const KUNLUN: &[(&str, &str)] = &[
    ("sim.memory_info", "InfiniCore: src/infinirt/kunlun/infinirt_kunlun.cc, getMemInfo is not supported"),
    ("sim.dtypes", "vLLM-Kunlun: fp16, bf16 and int8; FlagGems: UNSUPPORT_FP64 lists Kunlunxin"),
    ("sim.formats", "vLLM-Kunlun: int8 is the recommended quantisation"),
    ("sim.kv", "vLLM-Kunlun: blocks of 64"),
    ("sim.event_timing", "InfiniCore: src/infinirt/kunlun/infinirt_kunlun.cc, eventElapsedTime is not implemented"),
    ("sim.fill", "InfiniCore: src/infinirt/kunlun/infinirt_kunlun.cc, no memset: it is copied from the host"),
];

const MUSA: &[(&str, &str)] = &[
    ("sim.memory_info", "InfiniCore: src/infinirt/moore/infinirt_moore.cc, no memory info"),
    (
        "sim.dtypes",
        "FlagGems: UNSUPPORT_FP64 lists Moore Threads; torch_musa#122: bf16 from arch 22, fp8 from arch 31 only",
    ),
    ("sim.kv", "vLLM: blocks of 16"),
    ("sim.flush", "sglang: sgl-kernel/setup_musa.py, -ffast-math -fmusa-flush-denormals-to-zero"),
];

const EDGE: &[(&str, &str)] = &[
    ("sim.host_visible", "CANN, application development: in RC mode there is neither host memory nor a transfer"),
    ("sim.pinned", "CANN, application development: in RC mode there is neither host memory nor a transfer"),
    ("sim.dtypes", "FlagGems: UNSUPPORT_FP64 lists Ascend"),
];

const AOT: &[(&str, &str)] = &[
    ("sim.dtypes", "tpu-mlir: BM1684X takes f32, f16, bf16, int8 and w4; tpu-mlir#124"),
    ("sim.formats", "LLM-TPU: weights are w4 and w8 of a compiled model"),
    ("sim.plan_ms", "LLM-TPU#55, #154: graphs of static shapes, compiled beforehand"),
];
