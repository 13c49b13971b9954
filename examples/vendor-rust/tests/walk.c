/* A host in C: opens the plugin it is given and walks through the calls of a run, in the order of the header. */
#include "qiao_plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 3
#define COLS 64
#define BYTES (ROWS * COLS * sizeof(float))

static qiao_error err = {.struct_size = sizeof err};

#define OK(call)                                                                                    \
  do {                                                                                              \
    qiao_status status = (call);                                                                    \
    if (status != QIAO_OK) {                                                                        \
      fprintf(stderr, "line %d: %s: status %d: %s\n", __LINE__, #call, (int)status, err.message);   \
      exit(1);                                                                                      \
    }                                                                                               \
  } while (0)

#define CHECK(what)                                                                                 \
  do {                                                                                              \
    if (!(what)) {                                                                                  \
      fprintf(stderr, "line %d: %s; last message: %s\n", __LINE__, #what, err.message);             \
      exit(1);                                                                                      \
    }                                                                                               \
  } while (0)

static void host_log(void* ctx, uint32_t level, const char* msg, uint64_t len) {
  (void)ctx;
  fprintf(stderr, "%u %.*s\n", level, (int)len, msg);
}

static const char* host_option(void* ctx, const char* key) {
  (void)ctx, (void)key;
  return NULL;
}

/* A bound f32 tensor of ROWS x COLS. */
static qiao_tensor matrix(uint32_t position) {
  qiao_tensor t = {.struct_size = sizeof t, .dtype = QIAO_F32, .rank = 2, .bound = position + 1};
  t.dims[0] = ROWS, t.dims[1] = COLS;
  t.strides[0] = COLS, t.strides[1] = 1;
  return t;
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!library) fprintf(stderr, "%s\n", dlerror());
  CHECK(library);
  qiao_plugin_query_v0_fn query_fn;
  *(void**)&query_fn = dlsym(library, "qiao_plugin_query_v0");
  CHECK(query_fn);

  /* who are you */
  qiao_query query = {.struct_size = sizeof query, .host_minor = QIAO_ABI_MINOR, .host_min_minor = QIAO_ABI_MINOR};
  OK(query_fn(&query, &err));
  CHECK(query.plugin_minor == QIAO_ABI_MINOR && query.api && !strcmp(query.name, "acme"));
  const qiao_api* api = query.api;
  CHECK(api->struct_size == sizeof *api);

  /* start the driver; open a chip */
  qiao_host host = {.struct_size = sizeof host, .abi_minor = QIAO_ABI_MINOR, .log = host_log, .get_option = host_option};
  qiao_backend* backend = NULL;
  OK(api->backend_init(&host, &backend, &err));
  uint32_t count = 0;
  OK(api->device_count(backend, &count, &err));
  CHECK(count == 1);
  qiao_device* device = NULL;
  CHECK(api->device_open(backend, 1, &device, &err) == QIAO_ERR_INVALID_ARG && err.message[0]);
  OK(api->device_open(backend, 0, &device, &err));

  /* what is it */
  qiao_device_info info = {.struct_size = sizeof info};
  OK(api->device_info(device, &info, &err));
  CHECK(!strcmp(info.name, "ACME NPU") && info.memory_count == 1 && info.dtype_count == 1);
  qiao_memory_info memory = {.struct_size = sizeof memory};
  OK(api->memory_info(device, 0, &memory, &err));
  CHECK(memory.base_align % info.tensor_align == 0);
  qiao_dtype_info dtype = {.struct_size = sizeof dtype};
  OK(api->dtype_info(device, 0, &dtype, &err));
  CHECK(dtype.dtype == QIAO_F32 && dtype.flags == (QIAO_DTYPE_STORE | QIAO_DTYPE_COMPUTE));

  /* a queue; memory, in one large piece */
  qiao_stream* stream = NULL;
  OK(api->stream_create(device, 0, &stream, &err));
  qiao_buffer* buffer = NULL;
  OK(api->buffer_alloc(device, 0, 4 * BYTES, &buffer, &err));

  /* can you run t = a + b; y = rms_norm(t), and if not, why not */
  qiao_tensor a = matrix(0), b = matrix(1), y = matrix(2), t = matrix(0);
  t.bound = 0; /* a temporary */
  const qiao_tensor* tensors[] = {&a, &b, &y, &t};
  const uint32_t bound[] = {0, 1, 2}, sum[] = {0, 1, 3}, norm[] = {3, QIAO_ABSENT, 2};
  qiao_attr_norm eps = {.struct_size = sizeof eps, .eps = 1e-6f};
  qiao_op add = {.struct_size = sizeof add, .opcode = QIAO_OP_ADD, .n_in = 2, .n_out = 1, .operands = sum};
  qiao_op rms = {.struct_size = sizeof rms, .opcode = QIAO_OP_RMS_NORM, .n_in = 2, .n_out = 1, .operands = norm,
                 .attrs = &eps};
  const qiao_op* ops[] = {&add, &rms};
  qiao_graph graph = {.struct_size = sizeof graph, .n_tensors = 4, .n_ops = 2, .n_bound = 3,
                      .tensors = tensors, .ops = ops, .bound = bound};
  qiao_support answer[2] = {{.struct_size = sizeof answer[0]}, {.struct_size = sizeof answer[1]}};
  qiao_support* answers[] = {&answer[0], &answer[1]};
  OK(api->graph_support(device, &graph, answers, &err));
  CHECK(answer[0].level == QIAO_SUPPORT_NATIVE && !strcmp(answer[0].kernel, "add_f32.acme"));
  CHECK(answer[1].level == QIAO_SUPPORT_NATIVE && !strcmp(answer[1].kernel, "rms_norm_f32.acme"));
  t.dtype = QIAO_F16;
  OK(api->graph_support(device, &graph, answers, &err));
  CHECK(answer[0].level == QIAO_SUPPORT_NO && answer[0].reason == QIAO_REASON_DTYPE && answer[0].operand == 3);
  CHECK(answer[0].rule == QIAO_RULE_ONE_OF && answer[0].value == QIAO_F16 && !strcmp(answer[0].words, "f32"));
  t.dtype = QIAO_F32;

  /* prepare */
  qiao_plan* plan = NULL;
  qiao_plan_info needs = {.struct_size = sizeof needs};
  OK(api->plan_create(device, &graph, &plan, &needs, &err));
  CHECK(needs.workspace_bytes >= BYTES);
  qiao_buffer* workspace = NULL;
  OK(api->buffer_alloc(device, 0, needs.workspace_bytes, &workspace, &err));

  /* per token */
  static float ones[ROWS * COLS], twos[ROWS * COLS], out[ROWS * COLS];
  for (int i = 0; i < ROWS * COLS; i++) ones[i] = 1, twos[i] = i % 2 ? 2 : -4;
  qiao_event* event = NULL;
  OK(api->event_create(device, 0, &event, &err));
  for (int token = 0; token < 3; token++) {
    OK(api->upload(stream, buffer, 0, ones, BYTES, &err));
    OK(api->upload(stream, buffer, BYTES, twos, BYTES, &err));
    qiao_binding bindings[] = {{buffer, 0, BYTES}, {buffer, BYTES, BYTES}, {buffer, 2 * BYTES, BYTES}};
    qiao_binding scratch = {workspace, 0, needs.workspace_bytes};
    OK(api->plan_execute(plan, stream, bindings, 3, &scratch, &err));
    OK(api->event_record(event, stream, &err));
    OK(api->event_sync(event, QIAO_WAIT_FOREVER, &err));
    OK(api->stream_sync(stream, QIAO_WAIT_FOREVER, &err));
    memset(out, 0, sizeof out);
    OK(api->download(stream, out, buffer, 2 * BYTES, BYTES, &err));
    /* rows of 3 and -3 have the root mean square 3 */
    for (int i = 0; i < ROWS * COLS; i++) CHECK(out[i] > (i % 2 ? 0.9999f : -1.0001f) && out[i] < (i % 2 ? 1.0001f : -0.9999f));
    CHECK(api->plan_execute(plan, stream, bindings, 2, &scratch, &err) == QIAO_ERR_INVALID_ARG);
  }

  /* everything goes back; once more is no harm, and neither is NULL */
  for (int twice = 0; twice < 2; twice++) {
    api->event_destroy(event);
    api->plan_destroy(plan);
    api->buffer_free(workspace);
    api->buffer_free(buffer);
    api->stream_destroy(stream);
    api->device_close(device);
    api->backend_shutdown(backend);
  }
  CHECK(api->stream_sync(stream, 0, &err) == QIAO_ERR_INVALID_ARG && err.message[0]);
  api->event_destroy(NULL);
  api->backend_shutdown(NULL);

  /* and again from the start */
  OK(api->backend_init(&host, &backend, &err));
  OK(api->device_open(backend, 0, &device, &err));
  api->backend_shutdown(backend);
  puts("walked");
  return 0;
}
