/* A whole Qiao plugin in one file: copy it, rename it, and put your driver's calls where the comments say "YOUR DRIVER".
 *
 * The chip here is the host's own memory and processor, and every command is done when its call returns. That is enough to
 * be right; streams that run by themselves, events, more operators and dtypes are added one at a time (PORTING.md). What
 * each function must do is written at its slot in qiao_plugin.h. */
#include "qiao_plugin.h"

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALIGN 64u                               /* of every tensor */
#define MEMORY (1ull << 30)                     /* bytes of the chip */
#define MAX_OPERANDS 8u

/* ---- what the handles stand for -------------------------------------------------------------------------------------- */
struct qiao_backend { qiao_host host; };
struct qiao_device { atomic_ullong used; };
struct qiao_stream { qiao_device* device; };
struct qiao_buffer { qiao_device* device; char* data; uint64_t bytes; };

static qiao_status fail(qiao_error* e, qiao_status code, const char* format, ...) {
  if (e) {
    va_list args;
    va_start(args, format);
    e->code = code;
    vsnprintf(e->message, sizeof e->message, format, args);
    va_end(args);
  }
  return code;
}

/* Reads a struct of the host's, which may be older or newer than ours (rule R2). 0: it says something we do not know. */
static int take(void* own, uint32_t size, const void* from) {
  uint32_t theirs;
  memcpy(&theirs, from, sizeof theirs);
  memset(own, 0, size);
  memcpy(own, from, theirs < size ? theirs : size);
  for (uint32_t i = size; i < theirs; i++)
    if (((const char*)from)[i]) return 0;
  return 1;
}

/* Writes a struct of ours into the host's (rule R2). */
static void give(void* to, void* own, uint32_t size) {
  uint32_t theirs;
  memcpy(&theirs, to, sizeof theirs);
  memcpy(own, &theirs, sizeof theirs);
  memcpy(to, own, theirs < size ? theirs : size);
}

/* ---- backend and device ------------------------------------------------------------------------------------------------ */
static qiao_status backend_init(const qiao_host* host, qiao_backend** out, qiao_error* e) {
  /* YOUR DRIVER: dlopen it here; where it is not on this machine, answer QIAO_ERR_NOT_PRESENT. */
  qiao_backend* backend = calloc(1, sizeof *backend);
  if (!backend) return fail(e, QIAO_ERR_OUT_OF_MEMORY, "no host memory for the backend");
  if (!take(&backend->host, sizeof backend->host, host)) {
    free(backend);
    return fail(e, QIAO_ERR_ABI, "qiao_host says more than minor %u of this plugin knows", QIAO_ABI_MINOR);
  }
  *out = backend;
  return QIAO_OK;
}

static void backend_shutdown(qiao_backend* backend) { free(backend); }

static qiao_status device_count(qiao_backend* backend, uint32_t* out, qiao_error* e) {
  (void)backend, (void)e;
  *out = 1;
  return QIAO_OK;
}

static qiao_status device_open(qiao_backend* backend, uint32_t ordinal, qiao_device** out, qiao_error* e) {
  (void)backend;
  if (ordinal != 0) return fail(e, QIAO_ERR_INVALID_ARG, "no device %u: there is 1, counted from 0", ordinal);
  *out = calloc(1, sizeof **out);
  return *out ? QIAO_OK : fail(e, QIAO_ERR_OUT_OF_MEMORY, "no host memory for the device");
}

static void device_close(qiao_device* device) { free(device); }

static qiao_status device_info(qiao_device* device, qiao_device_info* out, qiao_error* e) {
  (void)device, (void)e;
  qiao_device_info info = {.caps = QIAO_CAP_STRIDED | QIAO_CAP_DETERMINISTIC, .memory_count = 1, .dtype_count = 2,
                           .tensor_align = ALIGN};
  snprintf(info.name, sizeof info.name, "ACME NPU");
  snprintf(info.arch, sizeof info.arch, "acme-1");
  snprintf(info.driver, sizeof info.driver, "1.0");
  give(out, &info, sizeof info);
  return QIAO_OK;
}

static qiao_status memory_info(qiao_device* device, uint32_t memory, qiao_memory_info* out, qiao_error* e) {
  if (memory != 0) return fail(e, QIAO_ERR_INVALID_ARG, "no memory %u: there is 1, counted from 0", memory);
  qiao_memory_info info = {.flags = QIAO_MEM_DEVICE_LOCAL, .total_bytes = MEMORY, .max_alloc = MEMORY,
                           .free_bytes = MEMORY - atomic_load(&device->used), .base_align = ALIGN};
  give(out, &info, sizeof info);
  return QIAO_OK;
}

static qiao_status dtype_info(qiao_device* device, uint32_t index, qiao_dtype_info* out, qiao_error* e) {
  (void)device;
  qiao_dtype_info infos[] = {{.dtype = QIAO_F32, .flags = QIAO_DTYPE_STORE | QIAO_DTYPE_COMPUTE},
                             {.dtype = QIAO_I32, .flags = QIAO_DTYPE_STORE}};
  if (index >= 2) return fail(e, QIAO_ERR_INVALID_ARG, "no dtype %u: there are 2, counted from 0", index);
  give(out, &infos[index], sizeof infos[index]);
  return QIAO_OK;
}

/* ---- memory ---------------------------------------------------------------------------------------------------------------- */
static qiao_status buffer_alloc(qiao_device* device, uint32_t memory, uint64_t bytes, qiao_buffer** out, qiao_error* e) {
  if (memory != 0) return fail(e, QIAO_ERR_INVALID_ARG, "no memory %u: there is 1, counted from 0", memory);
  unsigned long long used = atomic_load(&device->used);
  do {
    if (bytes > MEMORY - used)
      return fail(e, QIAO_ERR_OUT_OF_MEMORY, "%llu bytes were asked for, %llu are free", (unsigned long long)bytes,
                  MEMORY - used);
  } while (!atomic_compare_exchange_weak(&device->used, &used, used + bytes));
  qiao_buffer* buffer = calloc(1, sizeof *buffer);
  /* YOUR DRIVER: its malloc. */
  char* data = aligned_alloc(ALIGN, (bytes / ALIGN + 1) * ALIGN);
  if (!buffer || !data) {
    free(buffer), free(data);
    atomic_fetch_sub(&device->used, bytes);
    return fail(e, QIAO_ERR_OUT_OF_MEMORY, "the driver has no %llu bytes", (unsigned long long)bytes);
  }
  *buffer = (qiao_buffer){device, data, bytes};
  *out = buffer;
  return QIAO_OK;
}

static void buffer_free(qiao_buffer* buffer) {
  if (!buffer) return;
  atomic_fetch_sub(&buffer->device->used, buffer->bytes);
  free(buffer->data); /* YOUR DRIVER: its free, once no queued work uses the buffer (rule R8). */
  free(buffer);
}

/* ---- streams ----------------------------------------------------------------------------------------------------------------- */
static qiao_status stream_create(qiao_device* device, uint32_t flags, qiao_stream** out, qiao_error* e) {
  (void)flags;
  *out = calloc(1, sizeof **out);
  if (!*out) return fail(e, QIAO_ERR_OUT_OF_MEMORY, "no host memory for the stream");
  (*out)->device = device;
  return QIAO_OK;
}

static void stream_destroy(qiao_stream* stream) { free(stream); }

static qiao_status stream_sync(qiao_stream* stream, uint64_t timeout_ns, qiao_error* e) {
  (void)stream, (void)timeout_ns, (void)e; /* YOUR DRIVER: wait, at most timeout_ns; then QIAO_ERR_TIMEOUT. */
  return QIAO_OK;
}

static qiao_status within(const qiao_buffer* buffer, uint64_t offset, uint64_t bytes, qiao_error* e) {
  if (offset <= buffer->bytes && bytes <= buffer->bytes - offset) return QIAO_OK;
  return fail(e, QIAO_ERR_INVALID_ARG, "bytes %llu + %llu of a buffer of %llu", (unsigned long long)offset,
              (unsigned long long)bytes, (unsigned long long)buffer->bytes);
}

static qiao_status upload(qiao_stream* s, qiao_buffer* dst, uint64_t offset, const void* src, uint64_t n, qiao_error* e) {
  (void)s;
  qiao_status status = within(dst, offset, n, e);
  if (status == QIAO_OK && n) memcpy(dst->data + offset, src, n); /* YOUR DRIVER: host to device. */
  return status;
}

static qiao_status download(qiao_stream* s, void* dst, qiao_buffer* src, uint64_t offset, uint64_t n, qiao_error* e) {
  (void)s;
  qiao_status status = within(src, offset, n, e);
  if (status == QIAO_OK && n) memcpy(dst, src->data + offset, n); /* YOUR DRIVER: device to host. */
  return status;
}

/* ---- a plan: one operator with its operands -------------------------------------------------------------------------------------- */
typedef struct operand {
  qiao_tensor t;
  uint32_t given, position;                     /* position in the bindings */
  uint64_t offset;                              /* in bytes, of a view */
  float* data;                                  /* set by plan_execute */
} operand;

typedef union attributes {                      /* begins with struct_size, whichever it is */
  qiao_attr_silu_mul silu_mul;
  qiao_attr_matmul matmul;
  qiao_attr_norm norm;
  qiao_attr_gelu gelu;
} attributes;

struct qiao_plan {
  uint32_t opcode, n_in, n_out, n_bound;
  operand x[MAX_OPERANDS];                      /* inputs, then results */
  attributes attrs;
  const struct kernel* kernel;
};

/* The element of t that index i of y names, t being broadcast to y. */
static float* at(const operand* t, const operand* y, const int64_t* i) {
  int64_t offset = 0;
  for (uint32_t a = 0; a < t->t.rank; a++)
    if (t->t.dims[a] != 1) offset += i[a + y->t.rank - t->t.rank] * t->t.strides[a];
  return t->data + offset;
}

/* The next index within the first `rank` dims; 0 after the last. */
static int next(const operand* y, uint32_t rank, int64_t* i) {
  while (rank-- > 0) {
    if (++i[rank] < y->t.dims[rank]) return 1;
    i[rank] = 0;
  }
  return 0;
}

static int empty(const operand* y) {
  for (uint32_t a = 0; a < y->t.rank; a++)
    if (y->t.dims[a] == 0) return 1;
  return 0;
}

/* ---- kernels: YOUR DRIVER launches here ---------------------------------------------------------------------------------------------- */
static double silu(double x) { return x / (1 + exp(-x)); }

static void elementwise(const qiao_plan* p) {
  const operand *a = &p->x[0], *b = &p->x[1], *y = &p->x[p->n_in];
  int64_t i[QIAO_MAX_RANK] = {0};
  if (empty(y)) return;
  do {
    float u = *at(a, y, i), v = p->n_in > 1 ? *at(b, y, i) : 0, out = 0;
    switch (p->opcode) {
      case QIAO_OP_ADD: out = u + v; break;
      case QIAO_OP_SUB: out = u - v; break;
      case QIAO_OP_MUL: out = u * v; break;
      case QIAO_OP_DIV: out = u / v; break;
      case QIAO_OP_SILU: out = (float)silu(u); break;
      case QIAO_OP_GELU: out = (float)(0.5 * (double)u * erfc(-(double)u * 0.70710678118654752)); break;
    }
    *at(y, y, i) = out;
  } while (next(y, y->t.rank, i));
}

static void silu_mul(const qiao_plan* p) {
  const operand *x = &p->x[0], *y = &p->x[p->n_in], *up = p->n_in > 1 && p->x[1].given ? &p->x[1] : NULL;
  uint32_t last = y->t.rank - 1;
  int64_t half = y->t.dims[last], step = x->t.strides[last], i[QIAO_MAX_RANK] = {0};
  if (empty(y)) return;
  do {
    const float* first = at(x, y, i);
    double g = *first, u = up ? *at(up, y, i) : first[half * step], clamp = p->attrs.silu_mul.clamp;
    if (!up && p->attrs.silu_mul.gate_second) g = first[half * step], u = *first;
    if (clamp != 0) g = g > clamp ? clamp : g, u = u > clamp ? clamp : u < -clamp ? -clamp : u;
    *at(y, y, i) = (float)(silu(g) * u);
  } while (next(y, y->t.rank, i));
}

static void rms_norm(const qiao_plan* p) {
  const operand *x = &p->x[0], *w = p->n_in > 1 && p->x[1].given ? &p->x[1] : NULL, *y = &p->x[p->n_in];
  uint32_t last = y->t.rank - 1;
  int64_t n = y->t.dims[last], i[QIAO_MAX_RANK] = {0};
  if (empty(y)) return;
  do {
    const float* row = at(x, y, i);
    double sum = 0;
    for (int64_t j = 0; j < n; j++) sum += (double)row[j * x->t.strides[last]] * row[j * x->t.strides[last]];
    double scale = 1 / sqrt(sum / (double)n + p->attrs.norm.eps);
    for (int64_t j = 0; j < n; j++) {
      double v = row[j * x->t.strides[last]] * scale;
      if (p->attrs.norm.round_before_weight) v = (float)v;
      if (w) v *= (double)w->data[j * w->t.strides[0]] + p->attrs.norm.weight_offset;
      at(y, y, i)[j * y->t.strides[last]] = (float)v;
    }
  } while (next(y, last, i));
}

static void matmul(const qiao_plan* p) {
  const operand *a = &p->x[0], *b = &p->x[1], *c = &p->x[p->n_in];
  uint32_t row = c->t.rank - 2, col = c->t.rank - 1, trans = p->attrs.matmul.trans_b;
  int64_t k = a->t.dims[a->t.rank - 1], i[QIAO_MAX_RANK] = {0};
  int64_t step_a = a->t.strides[a->t.rank - 1], step_b = b->t.strides[trans ? b->t.rank - 1 : b->t.rank - 2];
  if (empty(c)) return;
  do {
    int64_t in_a[QIAO_MAX_RANK], in_b[QIAO_MAX_RANK];
    memcpy(in_a, i, sizeof in_a), memcpy(in_b, i, sizeof in_b);
    in_a[col] = 0, in_b[row] = trans ? i[col] : 0, in_b[col] = trans ? 0 : i[col];
    const float *u = at(a, c, in_a), *v = at(b, c, in_b);
    float sum = 0;
    for (int64_t j = 0; j < k; j++) sum += u[j * step_a] * v[j * step_b];
    *at(c, c, i) = sum;
  } while (next(c, c->t.rank, i));
}

/* ---- the table: support and plan_create read the same row --------------------------------------------------------------------------------- */
typedef struct kernel {
  uint32_t opcode, attrs_size;
  const char* name;
  void (*run)(const qiao_plan*);
} kernel;

static const kernel kernels[] = {
    {QIAO_OP_ADD, 0, "add_f32.acme", elementwise},
    {QIAO_OP_SUB, 0, "sub_f32.acme", elementwise},
    {QIAO_OP_MUL, 0, "mul_f32.acme", elementwise},
    {QIAO_OP_DIV, 0, "div_f32.acme", elementwise},
    {QIAO_OP_SILU, 0, "silu_f32.acme", elementwise},
    {QIAO_OP_GELU, sizeof(qiao_attr_gelu), "gelu_f32.acme", elementwise},
    {QIAO_OP_SILU_MUL, sizeof(qiao_attr_silu_mul), "silu_mul_f32.acme", silu_mul},
    {QIAO_OP_RMS_NORM, sizeof(qiao_attr_norm), "rms_norm_f32.acme", rms_norm},
    {QIAO_OP_MATMUL, sizeof(qiao_attr_matmul), "matmul_f32.acme", matmul},
};

static void refuse(qiao_support* s, uint32_t reason, uint32_t operand, uint32_t property, uint32_t rule, int64_t value,
                   int64_t limit) {
  s->level = QIAO_SUPPORT_NO, s->reason = reason, s->operand = (int32_t)operand, s->property = property, s->rule = rule;
  s->value = value, s->limit = limit;
}

/* Reads one op of a graph into a plan, and says in `s` whether a kernel runs it. Both questions to the chip end here. */
static void read_op(const qiao_graph* g, uint32_t index, qiao_plan* p, qiao_support* s) {
  qiao_op op;
  memset(p, 0, sizeof *p);
  if (!take(&op, sizeof op, g->ops[index])) { refuse(s, QIAO_REASON_REVISION, 0, 0, QIAO_RULE_NONE, 0, 0); return; }
  if (op.revision) { refuse(s, QIAO_REASON_REVISION, 0, 0, QIAO_RULE_AT_MOST, op.revision, 0); return; }
  for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++)
    if (kernels[k].opcode == op.opcode) p->kernel = &kernels[k];
  if (!p->kernel || op.n_in + op.n_out > MAX_OPERANDS) { refuse(s, QIAO_REASON_OPCODE, 0, 0, QIAO_RULE_NONE, 0, 0); return; }
  p->opcode = op.opcode, p->n_in = op.n_in, p->n_out = op.n_out, p->n_bound = g->n_bound;
  if (p->kernel->attrs_size && op.attrs && !take(&p->attrs, p->kernel->attrs_size, op.attrs)) {
    refuse(s, QIAO_REASON_ATTRIBUTE, 0, 0, QIAO_RULE_NONE, 0, 0);
    return;
  }
  for (uint32_t i = 0; i < op.n_in + op.n_out; i++) {
    operand* x = &p->x[i];
    if (op.operands[i] == QIAO_ABSENT) continue;
    qiao_tensor owner;
    if (!take(&x->t, sizeof x->t, g->tensors[op.operands[i]]) ||
        !take(&owner, sizeof owner, g->tensors[x->t.view_of ? x->t.view_of - 1 : op.operands[i]])) {
      refuse(s, QIAO_REASON_LAYOUT, i + 1, 0, QIAO_RULE_NONE, 0, 0);
      return;
    }
    if (x->t.layout || !owner.bound) { /* no layout of our own, and nothing but bound tensors without QIAO_CAP_GRAPH */
      refuse(s, QIAO_REASON_LAYOUT, i + 1, 0, QIAO_RULE_NONE, 0, 0);
      return;
    }
    x->given = 1, x->position = owner.bound - 1, x->offset = x->t.view_offset;
    if (x->t.dtype != QIAO_F32) {
      refuse(s, QIAO_REASON_DTYPE, i + 1, 0, QIAO_RULE_ONE_OF, x->t.dtype, 0);
      snprintf(s->words, sizeof s->words, "f32");
      return;
    }
    if (x->offset % sizeof(float)) {
      refuse(s, QIAO_REASON_ALIGN, i + 1, 0, QIAO_RULE_MULTIPLE_OF, (int64_t)x->offset, sizeof(float));
      return;
    }
  }
  if (op.opcode == QIAO_OP_MATMUL && p->attrs.matmul.epilogue) { /* the host adds what follows as operators of its own */
    refuse(s, QIAO_REASON_ATTRIBUTE, 0, 2, QIAO_RULE_EQUAL, p->attrs.matmul.epilogue, QIAO_EPILOGUE_NONE);
    return;
  }
  if (op.opcode == QIAO_OP_GELU && p->attrs.gelu.form != QIAO_GELU_FORM_ERF) {
    refuse(s, QIAO_REASON_ATTRIBUTE, 0, 1, QIAO_RULE_EQUAL, p->attrs.gelu.form, QIAO_GELU_FORM_ERF);
    return;
  }
  s->level = QIAO_SUPPORT_NATIVE;
  snprintf(s->kernel, sizeof s->kernel, "%s", p->kernel->name);
}

static qiao_status graph_support(qiao_device* device, const qiao_graph* graph, qiao_support* const* out, qiao_error* e) {
  (void)device;
  qiao_graph g;
  if (!take(&g, sizeof g, graph)) return fail(e, QIAO_ERR_ABI, "qiao_graph says more than this plugin knows");
  for (uint32_t i = 0; i < g.n_ops; i++) {
    qiao_plan plan;
    qiao_support answer = {0};
    read_op(&g, i, &plan, &answer);
    give(out[i], &answer, sizeof answer);
  }
  return QIAO_OK;
}

static qiao_status plan_create(qiao_device* device, const qiao_graph* graph, qiao_plan** out, qiao_plan_info* info,
                               qiao_error* e) {
  (void)device, (void)info; /* no workspace, nothing resident: what the host set to 0 is right */
  qiao_graph g;
  qiao_support answer = {0};
  if (!take(&g, sizeof g, graph)) return fail(e, QIAO_ERR_ABI, "qiao_graph says more than this plugin knows");
  if (g.n_ops != 1) return fail(e, QIAO_ERR_UNSUPPORTED, "%u operators in a plan; give one", g.n_ops);
  qiao_plan* plan = malloc(sizeof *plan);
  if (!plan) return fail(e, QIAO_ERR_OUT_OF_MEMORY, "no host memory for the plan");
  read_op(&g, 0, plan, &answer);
  if (answer.level != QIAO_SUPPORT_NATIVE) {
    free(plan);
    return fail(e, QIAO_ERR_UNSUPPORTED, "no kernel for this operator; ask graph_support why");
  }
  *out = plan;
  return QIAO_OK;
}

static void plan_destroy(qiao_plan* plan) { free(plan); }

static qiao_status plan_execute(qiao_plan* plan, qiao_stream* stream, const qiao_binding* bindings, uint32_t n,
                                const qiao_binding* workspace, qiao_error* e) {
  (void)stream, (void)workspace;
  if (n != plan->n_bound) return fail(e, QIAO_ERR_INVALID_ARG, "%u bindings; give %u", n, plan->n_bound);
  qiao_plan run = *plan; /* other executions of the plan may be in flight */
  for (uint32_t i = 0; i < run.n_in + run.n_out; i++) {
    if (!run.x[i].given) continue;
    const qiao_binding* b = &bindings[run.x[i].position];
    qiao_status status = within(b->buffer, b->offset, b->bytes, e);
    if (status != QIAO_OK) return status;
    run.x[i].data = (float*)(void*)(b->buffer->data + b->offset + run.x[i].offset);
  }
  run.kernel->run(&run);
  return QIAO_OK;
}

/* ---- the one exported function ------------------------------------------------------------------------------------------------------------------ */
static const qiao_api api = {
    .struct_size = sizeof(qiao_api), .abi_minor = QIAO_ABI_MINOR,
    .backend_init = backend_init, .backend_shutdown = backend_shutdown, .device_count = device_count,
    .device_open = device_open, .device_close = device_close, .device_info = device_info, .memory_info = memory_info,
    .dtype_info = dtype_info, .buffer_alloc = buffer_alloc, .buffer_free = buffer_free, .stream_create = stream_create,
    .stream_destroy = stream_destroy, .stream_sync = stream_sync, .upload = upload, .download = download,
    .graph_support = graph_support, .plan_create = plan_create, .plan_destroy = plan_destroy, .plan_execute = plan_execute,
};

QIAO_EXPORT qiao_status qiao_plugin_query_v0(qiao_query* query, qiao_error* e) {
  qiao_query q;
  if (!take(&q, sizeof q, query)) return fail(e, QIAO_ERR_ABI, "qiao_query says more than this plugin knows");
  q.plugin_minor = QIAO_ABI_MINOR, q.plugin_min_host_minor = 1, q.api = &api;
  if (q.host_minor < q.plugin_min_host_minor)
    return fail(e, QIAO_ERR_ABI, "the host speaks minor %u, this plugin needs %u; use a newer Qiao", q.host_minor,
                q.plugin_min_host_minor);
  snprintf(q.vendor, sizeof q.vendor, "ACME");
  snprintf(q.name, sizeof q.name, "acme");
  snprintf(q.version, sizeof q.version, "1.0.0");
  give(query, &q, sizeof q);
  return QIAO_OK;
}
