/* qiao_plugin.h - the contract between the Qiao runtime and a chip's plugin (.so).
 *
 * ABI major 0: a draft. The mechanism is final, the layout is not: an incompatible change raises QIAO_ABI_MINOR together
 * with both minimum fields of the query, so that an older peer is refused with a sentence instead of misread.
 * Stands alone; compiles as C11 and as C++11 or later, without a warning and without padding. Little-endian LP64 targets.
 *
 * IN SHORT
 *   A plugin is one shared library that exports one function, qiao_plugin_query_v0, which answers with a table of
 *   functions, qiao_api. Fourteen of them are required; a library with those alone runs whole models through the host's
 *   kernels. Everything else can be added one function, and one operator, at a time. examples/vendor-c is a whole plugin in
 *   one file; PORTING.md is the way from an empty folder to a green profile; `qiao check --plugin ./lib.so` is the judge.
 *
 * THE CALLS OF A RUN, IN ORDER
 *   qiao_plugin_query_v0                        who are you, what do you speak
 *   backend_init, device_count, device_open     start the driver; open a chip
 *   device_info, memory_info, dtype_info, kv_info   what is it
 *   stream_create, buffer_alloc                 a queue; memory, in few large pieces
 *   graph_support                               can you run this operator with these shapes, and if not, why not
 *   prepack_size, prepack                       weights into the chip's own layout, once
 *   plan_create                                 prepare: shapes and attributes are fixed from here on
 *   upload, plan_execute, download, stream_sync per token; nothing is looked up or allocated any more
 *   plan_destroy, buffer_free, stream_destroy, device_close, backend_shutdown
 *
 * RULES (normative; the loader and the conformance suite hold a plugin to them: to R5 and R10 by what a crash, a hang or a
 * failed load tells)
 *  R1 One exported symbol: qiao_plugin_query_v0. A new MAJOR is a new symbol; a library may export several. Everything
 *     else is hidden (-fvisibility=hidden).
 *  R2 Structs only grow at the tail. struct_size is set by whoever allocates the struct.
 *     Reader: read min(struct_size, own size); treat the rest of its own struct as zero.
 *     Reader of an INPUT struct larger than its own: the unknown tail must be all 0, else QIAO_ERR_ABI (graph_support
 *     answers QIAO_SUPPORT_NO with QIAO_REASON_ATTRIBUTE where the struct is an operator's attributes).
 *     Writer of an OUTPUT struct: write min(struct_size, own size) bytes; leave struct_size as it is.
 *     Hence in every struct the value 0 means "as before this field existed".
 *     Versioned structs are never passed as by-value arrays (the stride would change): arrays of pointers only.
 *  R3 Slots of qiao_api are append-only and never retyped. NULL = not implemented; marks below.
 *  R4 Fixed-width types and pointers only: no enum, bool, size_t, long, bitfield, varargs, by-value struct argument or C++
 *     type at the boundary; no implicit padding.
 *  R5 No exception, panic or longjmp crosses the boundary, in either direction.
 *  R6 Any call from any thread; there is no "current device". Calls that name the same stream, event or plan are
 *     serialised by the host; calls that name only a device or buffer may run concurrently.
 *     [B] may block; every other call returns without waiting for device work.
 *  R7 Pointers passed in are borrowed for the call only, unless the comment says otherwise. Out-handles belong to the
 *     host, are never NULL, and go back through the matching *_destroy, *_free, *_close or *_shutdown, which accepts NULL
 *     and cannot fail. A device outlives what was made on it, a backend its devices.
 *  R8 Destroying an object that queued work still uses is legal: the plugin defers the release. It does not cancel the
 *     work.
 *  R9 Async failure is sticky per stream: events after the failed command end in its error, later enqueues return
 *     QIAO_ERR_POISONED, stream_sync returns the FIRST error, once what was queued before it is done and nothing of the
 *     stream runs any more. A call whose arguments are refused is no failure: it does nothing. DEVICE_LOST is sticky per
 *     device: every later call that names it or what was made on it answers so at once.
 *  R10 The query is pure: no driver start, no thread, no device access; callable any number of times. Open your own driver
 *     in backend_init, with dlopen, so that a machine without it gets QIAO_ERR_NOT_PRESENT and not a failed load.
 *
 * MARKS on slots: [R] required. [E] [G] [P]: a group, all of it or none. No mark: optional by itself.
 *  [E] events:  absent -> the host synchronises the stream instead.
 *  [G] graphs:  absent -> every operator counts as unsupported ("no kernel for this operator").
 *  [P] prepack: needed only if graph_support ever answers QIAO_SUPPORT_RELAYOUT. */
#ifndef QIAO_PLUGIN_H_
#define QIAO_PLUGIN_H_
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
#define QIAO_ABI_MAJOR 0u
#define QIAO_ABI_MINOR 1u /* of this header */
#define QIAO_EXPORT __attribute__((visibility("default")))
#define QIAO_WAIT_FOREVER UINT64_MAX

/* ---- status and error ---------------------------------------------------------------------------------------------- */
typedef int32_t qiao_status;                    /* an unknown code is read as QIAO_ERR_INTERNAL */
enum {
  QIAO_OK = 0,
  QIAO_ERR_INVALID_ARG = 1,                     /* the caller's mistake; nothing was done */
  QIAO_ERR_UNSUPPORTED = 2,                     /* no kernel, no such option; nothing was done */
  QIAO_ERR_OUT_OF_MEMORY = 3,                   /* the device stays usable */
  QIAO_ERR_NOT_READY = 4,                       /* event_query only: the point is not reached yet */
  QIAO_ERR_TIMEOUT = 5,                         /* the wait ended before the work did; poisons nothing */
  QIAO_ERR_POISONED = 6,                        /* an earlier command of the stream failed */
  QIAO_ERR_DEVICE_LOST = 7,                     /* the chip is gone until device_close and device_open */
  QIAO_ERR_ABI = 8,                             /* a struct, version or extension that is not understood */
  QIAO_ERR_INTERNAL = 9,                        /* the plugin's or the driver's own failure */
  QIAO_ERR_NOT_PRESENT = 10                     /* driver or chip is not on this machine: skipped, not failed */
};
/* Caller-owned, nullable, written only on failure; nothing to free, nothing thread-local. */
typedef struct qiao_error {
  uint32_t struct_size;
  qiao_status code;                             /* as returned */
  int64_t vendor_code;                          /* the driver's own number, 0 = none */
  int32_t operand;                              /* the operand that was wrong: its index + 1, 0 = none */
  uint32_t reason;                              /* QIAO_REASON_*, 0 = none */
  char message[232];                            /* UTF-8, NUL-ended: what was asked, what was found, how to mend it */
} qiao_error;

/* Extension chain. An unknown type is ignored unless QIAO_EXT_CRITICAL is set in it: then QIAO_ERR_UNSUPPORTED. `size` is
 * that of the whole extension, this head included. */
#define QIAO_EXT_CRITICAL 0x80000000u
typedef struct qiao_ext {
  uint32_t type, size;
  const struct qiao_ext* next;
} qiao_ext;

/* ---- handles: opaque; the host never dereferences them, so they need not be addresses -------------------------------- */
typedef struct qiao_backend qiao_backend;
typedef struct qiao_device qiao_device;
typedef struct qiao_buffer qiao_buffer;
typedef struct qiao_stream qiao_stream;
typedef struct qiao_event qiao_event;
typedef struct qiao_plan qiao_plan;

/* ---- services of the host; valid until backend_shutdown returns ------------------------------------------------------ */
enum { QIAO_LOG_ERROR = 1, QIAO_LOG_WARN = 2, QIAO_LOG_INFO = 3, QIAO_LOG_DEBUG = 4 };
typedef struct qiao_host {
  uint32_t struct_size, abi_minor;
  void* ctx;                                    /* first argument of the functions below */
  void (*log)(void* ctx, uint32_t level, const char* msg, uint64_t len);  /* any thread; never re-enters the plugin */
  const char* (*get_option)(void* ctx, const char* key);  /* what the user gave as key=value; NULL = not given; lives as
                                                             long as the host struct */
  const qiao_ext* ext;
} qiao_host;

/* ---- dtypes ------------------------------------------------------------------------------------------------------------
 * code | bits << 8 | lanes << 16: DLPack's DLDataType, bit for bit, so that a dtype can stand in a switch. lanes is 1.
 * Codes of 4 bits lie two to a byte, element 0 in the low nibble. Block formats hold their scales inside; they carry code
 * QIAO_DTYPE_BLOCK and, as bits, the number that GGUF gives the format. Sizes in comments: elements/bytes of one block. */
typedef uint32_t qiao_dtype;
#define QIAO_DTYPE(code, bits) ((code) | (bits) << 8 | 1 << 16)
#define QIAO_DTYPE_BLOCK 0xf0
/* BEGIN dtype list. From the dtype table of `core`; a test holds this part to it. */
enum {
  QIAO_F64 = QIAO_DTYPE(2, 64),
  QIAO_F32 = QIAO_DTYPE(2, 32),
  QIAO_F16 = QIAO_DTYPE(2, 16),
  QIAO_BF16 = QIAO_DTYPE(4, 16),
  QIAO_F8_E4M3 = QIAO_DTYPE(10, 8),
  QIAO_F8_E5M2 = QIAO_DTYPE(12, 8),
  QIAO_F8_E8M0 = QIAO_DTYPE(14, 8),
  QIAO_F8_E4M3FNUZ = QIAO_DTYPE(11, 8),
  QIAO_F8_E5M2FNUZ = QIAO_DTYPE(13, 8),
  QIAO_F4_E2M1 = QIAO_DTYPE(17, 4),
  QIAO_I64 = QIAO_DTYPE(0, 64),
  QIAO_I32 = QIAO_DTYPE(0, 32),
  QIAO_I16 = QIAO_DTYPE(0, 16),
  QIAO_I8 = QIAO_DTYPE(0, 8),
  QIAO_I4 = QIAO_DTYPE(0, 4),
  QIAO_U64 = QIAO_DTYPE(1, 64),
  QIAO_U32 = QIAO_DTYPE(1, 32),
  QIAO_U16 = QIAO_DTYPE(1, 16),
  QIAO_U8 = QIAO_DTYPE(1, 8),
  QIAO_U4 = QIAO_DTYPE(1, 4),
  QIAO_BOOL = QIAO_DTYPE(6, 8),
  QIAO_Q4_0 = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 2),  /* 32/18 */
  QIAO_Q4_1 = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 3),  /* 32/20 */
  QIAO_Q5_0 = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 6),  /* 32/22 */
  QIAO_Q5_1 = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 7),  /* 32/24 */
  QIAO_Q8_0 = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 8),  /* 32/34 */
  QIAO_Q2_K = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 10),  /* 256/84 */
  QIAO_Q3_K = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 11),  /* 256/110 */
  QIAO_Q4_K = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 12),  /* 256/144 */
  QIAO_Q5_K = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 13),  /* 256/176 */
  QIAO_Q6_K = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 14),  /* 256/210 */
  QIAO_IQ4_NL = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 20),  /* 32/18 */
  QIAO_IQ4_XS = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 23),  /* 256/136 */
  QIAO_MXFP4 = QIAO_DTYPE(QIAO_DTYPE_BLOCK, 39)  /* 32/17 */
};
/* END dtype list. */

/* ---- what a device is --------------------------------------------------------------------------------------------------- */
enum { QIAO_MEM_DEVICE_LOCAL = 1, QIAO_MEM_HOST_VISIBLE = 2, QIAO_MEM_PINNED = 4 };
typedef struct qiao_memory_info {
  uint32_t struct_size, flags;                  /* flags: QIAO_MEM_* */
  uint64_t total_bytes, free_bytes, max_alloc;  /* 0 = not known */
  uint64_t base_align;                          /* every allocation starts on a multiple; itself one of tensor_align, not 0 */
  uint64_t peak_bytes_per_s;                    /* declared; 0 = not declared */
} qiao_memory_info;

enum { QIAO_DTYPE_STORE = 1, QIAO_DTYPE_COMPUTE = 2 };
typedef struct qiao_dtype_info {
  uint32_t struct_size;
  qiao_dtype dtype;
  uint64_t flags;                               /* QIAO_DTYPE_STORE, QIAO_DTYPE_COMPUTE */
  uint64_t peak_ops_per_s;                      /* dense, declared; 0 = not declared */
} qiao_dtype_info;

typedef struct qiao_kv_info {                   /* one layout of KV cache pages that the attention kernels read */
  uint32_t struct_size;
  uint32_t layout;                              /* QIAO_KV_LAYOUT_* */
  uint32_t block_size;                          /* tokens a block; 0 = any */
} qiao_kv_info;

enum {
  QIAO_CAP_GRAPH = 1,                           /* plan_create takes more than one op */
  QIAO_CAP_IMPORT_HOST = 2,                     /* buffer_import works */
  QIAO_CAP_STRIDED = 4,                         /* kernels take strided operands */
  QIAO_CAP_INDEX_I64 = 8,                       /* indices may be i64; else i32 alone */
  QIAO_CAP_DETERMINISTIC = 16,                  /* same plan, same bytes in: same bytes out */
  QIAO_CAP_FLUSH_SUBNORMALS = 32,               /* subnormal numbers are flushed to zero */
  QIAO_CAP_BATCH_INVARIANT = 64                 /* a row of a result depends on its own row alone, bit for bit */
};
typedef struct qiao_device_info {
  uint32_t struct_size, flags;                  /* flags: 0 */
  uint64_t caps;                                /* QIAO_CAP_* */
  char name[64];                                /* for people, not empty: the chip's marketing name */
  char arch[32];                                /* such as "910b" */
  char driver[64];                              /* the driver's version */
  uint32_t memory_count;                        /* at least 1; memory 0 is where tensors go */
  uint32_t dtype_count, kv_count;               /* how many dtype_info and kv_info answer; preferred first */
  uint32_t reserved;                            /* 0 */
  uint64_t tensor_align;                        /* every tensor starts on a multiple of this power of two; 0 = 1 */
  uint64_t tensor_tail_pad;                     /* bytes allocated behind every tensor; at most 1 MiB */
  char peak_source[128];                        /* where the declared peaks come from, such as a data sheet */
  const qiao_ext* ext;
} qiao_device_info;

/* ---- tensors: what they are, apart from where their bytes are -------------------------------------------------------------
 * Exactly one of three says where a tensor is: bound != 0: in the binding at that position; view_of != 0: inside another
 * tensor of the graph (itself bound or temporary, never a view), view_offset bytes from its start; neither: a temporary,
 * which the plan keeps in its workspace. The start of a bound or temporary tensor is aligned to tensor_align, that of a
 * view need not be: refuse with QIAO_REASON_ALIGN what a kernel cannot take. */
#define QIAO_MAX_RANK 8u
enum { QIAO_TENSOR_CONST = 1 };                 /* its bytes never change after the first execute */
typedef struct qiao_tensor {
  uint32_t struct_size;
  qiao_dtype dtype;
  uint32_t rank, flags;                         /* rank <= QIAO_MAX_RANK; flags: QIAO_TENSOR_CONST */
  int64_t dims[QIAO_MAX_RANK];                  /* logical elements, outermost first; block formats: whole blocks innermost */
  int64_t strides[QIAO_MAX_RANK];               /* in elements, always given; 0 repeats one element along the axis */
  uint64_t layout;                              /* 0 = strided as said; else a private id that graph_support asked for */
  uint32_t bound;                               /* position in the bindings of plan_execute + 1, else 0 */
  uint32_t view_of;                             /* index of a tensor of the graph + 1, else 0 */
  uint64_t view_offset;                         /* in bytes */
  const qiao_ext* ext;
} qiao_tensor;
/* A range of a buffer. Frozen for the whole major: it travels in by-value arrays. */
typedef struct qiao_binding {
  qiao_buffer* buffer;
  uint64_t offset, bytes;
} qiao_binding;

/* ---- operators ------------------------------------------------------------------------------------------------------------
 * What a comment writes as name(operands) -> results fixes the order in qiao_op.operands. `x?` may be left out
 * (QIAO_ABSENT), `xs*` stands for any number. A result that carries the name of an operand is that operand written in
 * place; the residual stream of add_rms_norm may be given as `sum`, too. Arithmetic is IEEE and results are rounded once,
 * half to even; how far a result may be off follows from dtype and length of the sums (docs/conformance.md).
 * Attributes are fixed at plan time; whatever changes from step to step (positions, lengths, slots) is a tensor. */
/* BEGIN op list. From the op list of `core`; a test holds this part to it. */
enum {
  /* copy(x) -> y. y = x, bit for bit; any strides on either side. */
  QIAO_OP_COPY = 1,
  /* cast(x) -> y. y = x in another dtype: round half to even; fp8 saturates, f16 overflows to ∞, integers saturate and NaN
   * becomes 0. In its own dtype, bit for bit. A block format decodes to any float. */
  QIAO_OP_CAST = 2,
  /* fill() -> y. Every element is value. Attributes: qiao_attr_fill. */
  QIAO_OP_FILL = 3,
  /* gather_rows(table, ids) -> y. out[i] = table[ids[i]]. A row whose id is out of range is NaN, or 0 in integers. */
  QIAO_OP_GATHER_ROWS = 4,
  /* add(a, b) -> y. y = a + b, the two broadcast to one shape. */
  QIAO_OP_ADD = 16,
  /* sub(a, b) -> y. y = a − b, the two broadcast to one shape. */
  QIAO_OP_SUB = 17,
  /* mul(a, b) -> y. y = a · b, the two broadcast to one shape. */
  QIAO_OP_MUL = 18,
  /* div(a, b) -> y. y = a / b, the two broadcast to one shape. */
  QIAO_OP_DIV = 19,
  /* silu(x) -> y. y = x / (1 + e^−x). */
  QIAO_OP_SILU = 24,
  /* gelu(x) -> y. y = x·Φ(x). Attributes: qiao_attr_gelu. */
  QIAO_OP_GELU = 25,
  /* relu(x) -> y. y = max(x, 0); NaN stays. */
  QIAO_OP_RELU = 26,
  /* sigmoid(x) -> y. y = 1 / (1 + e^−x). */
  QIAO_OP_SIGMOID = 27,
  /* tanh(x) -> y. y = tanh x. */
  QIAO_OP_TANH = 28,
  /* exp(x) -> y. y = e^x. */
  QIAO_OP_EXP = 29,
  /* silu_mul(x, up?) -> y. y = silu(gate) · up with one rounding. One operand [.., 2d] holds both halves; with two, x is the
   * gate. Attributes: qiao_attr_silu_mul. */
  QIAO_OP_SILU_MUL = 32,
  /* matmul(a, b, bias?, residual?) -> c. c = a · b, with the epilogue, rounded once. a [.., M, K]; b [N, K] or [K, N], or
   * with a's batch dims in front. Attributes: qiao_attr_matmul. */
  QIAO_OP_MATMUL = 48,
  /* rms_norm(x, w?) -> y. y = x·(w + weight_offset) / √(mean(x²) + eps) over the last axis. Attributes: qiao_attr_norm. */
  QIAO_OP_RMS_NORM = 64,
  /* add_rms_norm(a, b, w?) -> sum, y. sum = a + b, rounded; y = rms_norm(a + b) from the unrounded sum. Attributes:
   * qiao_attr_norm. */
  QIAO_OP_ADD_RMS_NORM = 65,
  /* layer_norm(x, w?, b?) -> y. y = (x − mean)·w / √(var + eps) + b over the last axis, with the population variance.
   * Attributes: qiao_attr_layer_norm. */
  QIAO_OP_LAYER_NORM = 66,
  /* rope(x, positions, cos, sin) -> y. Rotates pairs of x [T, H, D] by the row of cos and sin [max_pos, rotary_dim/2] that
   * positions[T] names. The other elements pass. A position out of range gives NaN in what it rotates. Attributes:
   * qiao_attr_rope. */
  QIAO_OP_ROPE = 80,
  /* softmax(x, mask?) -> y. Row-wise softmax of scale·x + mask; a fully masked row gives zeros. Causal: columns beyond a
   * row's own are zeros whatever they hold; a NaN or +∞ that the row sees makes all that it sees NaN. Attributes:
   * qiao_attr_softmax. */
  QIAO_OP_SOFTMAX = 96,
  /* reduce(x) -> y. Sum, mean or largest value along one axis. Attributes: qiao_attr_reduce. */
  QIAO_OP_REDUCE = 97,
  /* argmax(x) -> y. The index of the largest value of each row; ties to the lower index, NaN is larger than all. */
  QIAO_OP_ARGMAX = 98,
  /* top_k(x) -> values, indices. The k largest values of each row and their indices, in descending order; ties to the lower
   * index, NaN is larger than all. Attributes: qiao_attr_top_k. */
  QIAO_OP_TOP_K = 99,
  /* kv_write(k, v, slots, k_cache, v_cache, k_scale?, v_scale?) -> k_cache, v_cache, k_scale?, v_scale?. Writes row t of k
   * and v [T, Hkv, D] to slot slots[t] of the caches; slot −1 is skipped. A quantised cache takes one scale per token and
   * head: max abs / 127 for i8, / 448 for fp8; fp8 without scales saturates. Attributes: qiao_attr_kv_write. */
  QIAO_OP_KV_WRITE = 112,
  /* attention_prefill(q, k, v, cu_q, kv_len, block_table?, sinks?, k_scale?, v_scale?) -> y. Attention of packed queries q
   * [ΣT, H, D], cu_q[B+1], kv_len[B]. Without a block table k and v are packed [Σkv_len, Hkv, D]; with block_table[B, maxb]
   * they are caches of pages. Rows of q from cu_q[B] on belong to no sequence: they give zeros. Attributes:
   * qiao_attr_attention. */
  QIAO_OP_ATTENTION_PREFILL = 113,
  /* attention_decode(q, k, v, kv_len, block_table, sinks?, k_scale?, v_scale?) -> y. Attention of one query per sequence, q
   * [B, H, D], over the pages that block_table[B, maxb] names; kv_len[B]. Attributes: qiao_attr_attention. */
  QIAO_OP_ATTENTION_DECODE = 114,
  /* sample(logits, u, temperature, top_k, top_p, min_p) -> y. One token per row of logits [B, V] for the uniform u[B] in [0,
   * 1): temperature, top-k, top-p, min-p (each [B]) in that order on logits sorted by (value descending, index ascending).
   * Temperature 0 is argmax; top_k 0, top_p 1 and min_p 0 are off. top_p keeps the shortest prefix whose mass reaches it,
   * min_p what has that share of the largest; the token is the first whose mass, summed up, exceeds u. A row with a NaN
   * gives the first NaN; logits as large as the largest weigh alike, infinite ones too. */
  QIAO_OP_SAMPLE = 128,
  /* matmul_quant(a, w, scales?, zeros?, g_idx?, bias?, residual?) -> c. c = a · dequantise(w)ᵀ, w [N, K] in a block format,
   * or codes with scales [⌈N/group_rows⌉, K/group]: (code − zero)·scale; g_idx[K] names each input channel's group.
   * Attributes: qiao_attr_matmul_quant. */
  QIAO_OP_MATMUL_QUANT = 144,
  /* quantize_dynamic(x) -> q, scale. Per row: scale = max abs / 127, q = round half even(x / scale), saturating; a zero row
   * has scale 0. */
  QIAO_OP_QUANTIZE_DYNAMIC = 145,
  /* scaled_matmul(a, b, sa, sb, bias?, sum_bias?) -> c. c = (a·bᵀ + sum_bias)·sa·sb + bias with an exact int32 sum; a [M,
   * K], b [N, K], sa [M] or [1], sb [N] or [1], bias [N], sum_bias i32 [N]. */
  QIAO_OP_SCALED_MATMUL = 146,
  /* quantize_static(x, scale, zero?) -> q. q = round half even(x / scale + zero) in int8, saturating; NaN becomes 0. scale
   * and zero f32 [1]. */
  QIAO_OP_QUANTIZE_STATIC = 147,
  /* concat(xs*) -> y. Operands one after the other along an axis. Attributes: qiao_attr_concat. */
  QIAO_OP_CONCAT = 160,
  /* split(x) -> ys*. Equal parts along an axis. Attributes: qiao_attr_split. */
  QIAO_OP_SPLIT = 161,
  /* slice(x) -> y. len indices from start along an axis. Attributes: qiao_attr_slice. */
  QIAO_OP_SLICE = 162,
  /* transpose(x) -> y. Axes in another order. Attributes: qiao_attr_transpose. */
  QIAO_OP_TRANSPOSE = 163,
  QIAO_OP_VENDOR_BASE = 0x10000 /* a vendor's own; the host never asks for one */
};
enum {
  QIAO_EPILOGUE_NONE = 0,
  QIAO_EPILOGUE_BIAS = 1,
  QIAO_EPILOGUE_BIAS_RESIDUAL = 2,
  QIAO_EPILOGUE_SILU_MUL = 3,
  QIAO_EPILOGUE_GELU = 4
};
enum {
  QIAO_PRECISION_IEEE = 0,
  QIAO_PRECISION_TF32 = 1
};
enum {
  QIAO_GELU_FORM_ERF = 0,
  QIAO_GELU_FORM_TANH = 1
};
enum {
  QIAO_ROPE_STYLE_HALF_SPLIT = 0,
  QIAO_ROPE_STYLE_INTERLEAVED = 1
};
enum {
  QIAO_REDUCE_KIND_SUM = 0,
  QIAO_REDUCE_KIND_MEAN = 1,
  QIAO_REDUCE_KIND_MAX = 2
};
enum {
  QIAO_KV_LAYOUT_BLOCK_TOKEN_HEAD = 0,
  QIAO_KV_LAYOUT_BLOCK_HEAD_TOKEN = 1
};
typedef struct qiao_attr_fill {
  uint32_t struct_size;
  /* The value, rounded to the output dtype. */
  float value;
} qiao_attr_fill;
typedef struct qiao_attr_gelu {
  uint32_t struct_size;
  /* erf or tanh. */
  uint32_t form;
} qiao_attr_gelu;
typedef struct qiao_attr_silu_mul {
  uint32_t struct_size;
  /* For one [.., 2d] operand: the gate is the second half. */
  uint32_t gate_second;
  /* 0 = off; else gate is cut to at most this and up to ± this first. */
  float clamp;
} qiao_attr_silu_mul;
typedef struct qiao_attr_matmul {
  uint32_t struct_size;
  /* Whether b is [N, K]. */
  uint32_t trans_b;
  /* What follows the product. */
  uint32_t epilogue;
  /* How f32 products are formed. */
  uint32_t precision;
} qiao_attr_matmul;
typedef struct qiao_attr_norm {
  uint32_t struct_size;
  /* Added to the mean square, inside the root. */
  float eps;
  /* 1 for weights stored minus one (Gemma), else 0. */
  uint32_t weight_offset;
  /* Whether the normalised value is rounded to the dtype of y before × w. */
  uint32_t round_before_weight;
} qiao_attr_norm;
typedef struct qiao_attr_layer_norm {
  uint32_t struct_size;
  /* Added to the variance, inside the root. */
  float eps;
} qiao_attr_layer_norm;
typedef struct qiao_attr_rope {
  uint32_t struct_size;
  /* How elements pair. */
  uint32_t style;
  /* How many elements of a head are rotated; 0 = all. */
  uint32_t rotary_dim;
  /* The first rotated element. */
  uint32_t offset;
} qiao_attr_rope;
typedef struct qiao_attr_softmax {
  uint32_t struct_size;
  /* Multiplies x before the mask is added; 0 = 1. */
  float scale;
  /* Row i of the last two axes [Tq, Tk] sees columns j ≤ Tk − Tq + i. */
  uint32_t causal;
} qiao_attr_softmax;
typedef struct qiao_attr_reduce {
  uint32_t struct_size;
  /* What is computed. */
  uint32_t kind;
  /* The axis that is reduced. */
  uint32_t axis;
  /* Whether the axis stays, with size 1. */
  uint32_t keep_dim;
} qiao_attr_reduce;
typedef struct qiao_attr_top_k {
  uint32_t struct_size;
  /* How many of the largest values. */
  uint32_t k;
} qiao_attr_top_k;
typedef struct qiao_attr_kv_write {
  uint32_t struct_size;
  /* How pages are laid out. */
  uint32_t kv_layout;
} qiao_attr_kv_write;
typedef struct qiao_attr_attention {
  uint32_t struct_size;
  /* Query i of a sequence sees keys j ≤ kv_len − q_len + i. A decode query sees all its keys either way. */
  uint32_t causal;
  /* 0 = 1/√D. */
  float scale;
  /* 0 = off; else scores become softcap·tanh(score/softcap). */
  float softcap;
  /* 0 = unlimited; else a query sees only its last window keys, itself included, and none behind it, causal or not. */
  uint32_t window;
  /* How pages are laid out; unused without a block table. */
  uint32_t kv_layout;
} qiao_attr_attention;
typedef struct qiao_attr_matmul_quant {
  uint32_t struct_size;
  /* Input channels per scale; 0 = all of K. Unused for block formats. */
  uint32_t group_size;
  /* Output channels per row of scales; 0 = 1. 128 for fp8 in 128×128 blocks. */
  uint32_t group_rows;
  /* What follows the product. */
  uint32_t epilogue;
} qiao_attr_matmul_quant;
typedef struct qiao_attr_concat {
  uint32_t struct_size;
  /* The axis along which operands follow each other. */
  uint32_t axis;
} qiao_attr_concat;
typedef struct qiao_attr_split {
  uint32_t struct_size;
  /* The axis that is cut. */
  uint32_t axis;
  /* Into how many equal parts. */
  uint32_t parts;
} qiao_attr_split;
typedef struct qiao_attr_slice {
  uint32_t struct_size;
  /* The axis that is cut. */
  uint32_t axis;
  /* The first index kept. */
  uint32_t start;
  /* How many indices are kept. */
  uint32_t len;
} qiao_attr_slice;
typedef struct qiao_attr_transpose {
  uint32_t struct_size;
  /* Input axis perm[i] becomes output axis i. */
  uint32_t perm;
} qiao_attr_transpose;
/* END op list. */

#define QIAO_ABSENT UINT32_MAX                  /* in qiao_op.operands: an optional operand that is left out */
typedef struct qiao_op {
  uint32_t struct_size, opcode;                 /* QIAO_OP_*; an unknown one is refused with QIAO_REASON_OPCODE */
  uint32_t revision;                            /* 0; rises when the meaning of an opcode changes */
  uint32_t flags;                               /* 0 */
  uint32_t n_in, n_out;
  const uint32_t* operands;                     /* n_in, then n_out, indices into qiao_graph.tensors */
  const void* attrs;                            /* this opcode's attribute struct; NULL where it has none */
  const qiao_ext* ext;
} qiao_op;
typedef struct qiao_graph {                     /* one op is a graph of one node; more only with QIAO_CAP_GRAPH */
  uint32_t struct_size, n_tensors, n_ops, n_bound;
  const qiao_tensor* const* tensors;
  const qiao_op* const* ops;                    /* in execution order; shapes, dtypes and attributes were checked */
  const uint32_t* bound;                        /* indices of the tensors bound at execute, in order of the bindings */
  const qiao_ext* ext;
} qiao_graph;

/* ---- support: a question with a reason -------------------------------------------------------------------------------------
 * "operand 1: dim 1 = 100 is not a multiple of 64" is reason DIM, operand 2, property 2, rule MULTIPLE_OF, value 100,
 * limit 64. A pure function of graph and device, cheap, and of one mind with plan_create: what is NATIVE must plan and run,
 * what is NO must be refused there with QIAO_ERR_UNSUPPORTED. Best written as one table that both read. */
enum { QIAO_SUPPORT_NO = 0, QIAO_SUPPORT_NATIVE = 1, QIAO_SUPPORT_RELAYOUT = 2 };
enum {
  QIAO_REASON_NONE = 0,
  QIAO_REASON_OPCODE = 1,                       /* no kernel for the operator at all */
  QIAO_REASON_REVISION = 2,
  QIAO_REASON_ATTRIBUTE = 3,                    /* property: the attribute's position in its struct (the first after
                                                   struct_size is 1); 0 = an unknown tail */
  QIAO_REASON_DTYPE = 4,                        /* value, limit: dtypes */
  QIAO_REASON_RANK = 5,
  QIAO_REASON_DIM = 6,                          /* property: axis + 1 */
  QIAO_REASON_STRIDES = 7,
  QIAO_REASON_ALIGN = 8,
  QIAO_REASON_QUANT = 9,
  QIAO_REASON_LAYOUT = 10,
  QIAO_REASON_MEMORY = 11,
  QIAO_REASON_PRESENCE = 12                     /* an optional operand is given that must not be, or the other way round */
};
enum {
  QIAO_RULE_NONE = 0,                           /* not supported at all */
  QIAO_RULE_MULTIPLE_OF = 1,
  QIAO_RULE_AT_MOST = 2,
  QIAO_RULE_AT_LEAST = 3,
  QIAO_RULE_EQUAL = 4,
  QIAO_RULE_ONE_OF = 5                          /* words lists what is allowed */
};
typedef struct qiao_support {
  uint32_t struct_size, level, reason;          /* QIAO_SUPPORT_*; QIAO_REASON_* where level is NO */
  int32_t operand;                              /* its index + 1, inputs first and results after them; 0 = the node */
  uint32_t property, rule;                      /* see QIAO_REASON_*; QIAO_RULE_* */
  int64_t value, limit;                         /* found and allowed; a float attribute as its f32 bits */
  uint64_t layout;                              /* RELAYOUT: the private layout, never 0, wanted for constant `operand` */
  qiao_dtype act_dtype;                         /* the kernel rounds activations to this first; 0 = it does not */
  uint32_t flags;                               /* 0 */
  char kernel[64];                              /* for reports, as what.how: "matmul_f16_nz.cube"; may be empty */
  char words[64];                               /* what is allowed, where a number does not say it: "f16, bf16" */
} qiao_support;
typedef struct qiao_plan_info {
  uint32_t struct_size, flags;                  /* flags: 0 */
  uint64_t workspace_bytes;                     /* for each execution in flight; the host allocates it */
  uint64_t workspace_align;                     /* the workspace starts on a multiple; 0 = tensor_align */
  uint64_t resident_bytes;                      /* what the plan itself holds on the device */
} qiao_plan_info;

/* ---- the table ---------------------------------------------------------------------------------------------------------------
 * Slots of this minor; a slot added later says "since minor N" behind its mark. */
typedef struct qiao_api {
  uint32_t struct_size, abi_minor;              /* sizeof(qiao_api) and QIAO_ABI_MINOR of the header it was built with */

  /* Starts the driver. May be called again, before or after a shutdown, with other options; each backend stands alone. */
  qiao_status (*backend_init)(const qiao_host* host, qiao_backend** out, qiao_error*);                        /*[R] [B]*/
  void        (*backend_shutdown)(qiao_backend*);                                                             /*[R] [B]*/
  /* Extras by name, "qiao.capture/1"; a struct that begins with its struct_size and lives as long as the process. */
  const void* (*get_interface)(qiao_backend*, const char* id);                                  /* NULL = has it not */
  qiao_status (*device_count)(qiao_backend*, uint32_t* out, qiao_error*);                                         /*[R]*/
  /* Opening a device twice gives two handles to one chip. */
  qiao_status (*device_open)(qiao_backend*, uint32_t ordinal, qiao_device** out, qiao_error*);                /*[R] [B]*/
  void        (*device_close)(qiao_device*);                                                                  /*[R] [B]*/

  qiao_status (*device_info)(qiao_device*, qiao_device_info* out, qiao_error*);                                   /*[R]*/
  qiao_status (*memory_info)(qiao_device*, uint32_t memory, qiao_memory_info* out, qiao_error*);                  /*[R]*/
  qiao_status (*dtype_info)(qiao_device*, uint32_t index, qiao_dtype_info* out, qiao_error*);
  qiao_status (*kv_info)(qiao_device*, uint32_t index, qiao_kv_info* out, qiao_error*);

  /* Buffers are few and large: the host suballocates. 0 bytes are an allocation like any other. What a new buffer holds is
   * not defined. buffer_import wraps host memory, read-only, without a copy; it is borrowed until buffer_free. */
  qiao_status (*buffer_alloc)(qiao_device*, uint32_t memory, uint64_t bytes, qiao_buffer** out, qiao_error*); /*[R] [B]*/
  qiao_status (*buffer_import)(qiao_device*, const void* host, uint64_t bytes, qiao_buffer** out, qiao_error*);
  void        (*buffer_free)(qiao_buffer*);                                                                   /*[R] [B]*/

  qiao_status (*stream_create)(qiao_device*, uint32_t flags, qiao_stream** out, qiao_error*);        /* flags: 0 */ /*[R]*/
  void        (*stream_destroy)(qiao_stream*);                                                                    /*[R]*/
  /* Waits until all earlier commands are done, at most timeout_ns; 0 only asks. */
  qiao_status (*stream_sync)(qiao_stream*, uint64_t timeout_ns, qiao_error*);                                 /*[R] [B]*/
  /* In stream order, between pageable host memory and a buffer, any offset, any length: upload returns when src may be
   * reused, download when dst is filled. The host calls them on a stream that it has synchronised within its time-out. */
  qiao_status (*upload)(qiao_stream*, qiao_buffer* dst, uint64_t offset, const void* src, uint64_t bytes,
                        qiao_error*);                                                                         /*[R] [B]*/
  qiao_status (*download)(qiao_stream*, void* dst, qiao_buffer* src, uint64_t offset, uint64_t bytes,
                          qiao_error*);                                                                       /*[R] [B]*/
  /* Between buffers of the device, in stream order. Absent or QIAO_ERR_UNSUPPORTED -> download and upload. Ranges do not
   * overlap. */
  qiao_status (*copy)(qiao_stream*, qiao_buffer* dst, uint64_t dst_offset, qiao_buffer* src, uint64_t src_offset,
                      uint64_t bytes, qiao_error*);
  /* Sets every byte to the low 8 bits of `byte`. Absent or QIAO_ERR_UNSUPPORTED -> an upload. */
  qiao_status (*fill)(qiao_stream*, qiao_buffer* dst, uint64_t offset, uint64_t bytes, uint32_t byte, qiao_error*);

  /* Events. An unrecorded one is reached. Recording again replaces the point; waits made before keep the old one. */
  qiao_status (*stream_wait)(qiao_stream*, qiao_event*, qiao_error*);          /* later commands wait for the point */ /*[E]*/
  qiao_status (*event_create)(qiao_device*, uint32_t flags, qiao_event** out, qiao_error*);          /* flags: 0 */ /*[E]*/
  void        (*event_destroy)(qiao_event*);                                                                      /*[E]*/
  qiao_status (*event_record)(qiao_event*, qiao_stream*, qiao_error*);                                            /*[E]*/
  qiao_status (*event_sync)(qiao_event*, uint64_t timeout_ns, qiao_error*);                                   /*[E] [B]*/
  qiao_status (*event_query)(qiao_event*, qiao_error*);      /* OK, NOT_READY, or the failure; absent -> event_sync of 0 */
  /* From a to b, both reached. Absent -> the device can't tell. */
  qiao_status (*event_elapsed_ns)(qiao_event* a, qiao_event* b, uint64_t* out, qiao_error*);

  /* One record per op of the graph, struct_size set by the host, all else 0. */
  qiao_status (*graph_support)(qiao_device*, const qiao_graph*, qiao_support* const* per_op, qiao_error*);        /*[G]*/
  /* The graph is borrowed for the call: keep what execute needs. May compile and tune. */
  qiao_status (*plan_create)(qiao_device*, const qiao_graph*, qiao_plan** out, qiao_plan_info* info,
                             qiao_error*);                                                                    /*[G] [B]*/
  void        (*plan_destroy)(qiao_plan*);                                                                        /*[G]*/
  /* n_bindings = n_bound of the graph, each at least as large as its tensor. May be executed again, on any stream and with
   * other bindings, before earlier executions have finished; each in flight has a workspace of its own (NULL where
   * workspace_bytes is 0). */
  qiao_status (*plan_execute)(qiao_plan*, qiao_stream*, const qiao_binding* bindings, uint32_t n_bindings,
                              const qiao_binding* workspace, qiao_error*);                                        /*[G]*/

  /* Once per weight at load, in stream order; afterwards the tensor carries `layout` and the source is dropped. The bytes
   * follow from tensor and layout alone, and a number stands for one order of bytes for good: with buffer_import, a process
   * may bind what another one got here. */
  qiao_status (*prepack_size)(qiao_device*, const qiao_tensor*, uint64_t layout, uint64_t* bytes, qiao_error*);   /*[P]*/
  qiao_status (*prepack)(qiao_stream*, const qiao_tensor*, const qiao_binding* src, uint64_t layout,
                         const qiao_binding* dst, qiao_error*);                                                   /*[P]*/
} qiao_api;

/* ---- the one exported function -------------------------------------------------------------------------------------------------
 * Accept if host_minor >= your plugin_min_host_minor; the host then accepts if plugin_minor >= host_min_minor. Never refuse
 * a peer for being newer. On refusal return QIAO_ERR_ABI and say in the error which versions met. */
enum { QIAO_SANITIZER_NONE = 0, QIAO_SANITIZER_ADDRESS = 1, QIAO_SANITIZER_MEMORY = 2, QIAO_SANITIZER_THREAD = 3 };
typedef struct qiao_query {
  uint32_t struct_size;
  uint32_t host_minor, host_min_minor, host_flags;          /* in;  flags: 0 */
  uint32_t plugin_minor, plugin_min_host_minor;             /* out; the header built with; the oldest host that will do */
  uint32_t sanitizer, plugin_flags;                         /* out; QIAO_SANITIZER_* it was built with; 0 */
  const qiao_api* api;                                      /* out; static for the life of the process */
  char vendor[32];                                          /* out; for people */
  char name[32];                                            /* out; of the backend: a-z 0-9 - _, "acme" as in acme:0 */
  char version[32];                                         /* out; of the plugin */
} qiao_query;
QIAO_EXPORT qiao_status qiao_plugin_query_v0(qiao_query* q, qiao_error* err);
typedef qiao_status (*qiao_plugin_query_v0_fn)(qiao_query*, qiao_error*);
#ifdef __cplusplus
}
#endif
#endif
