/* The vendor's example with altered answers: what a plugin can get wrong, and what it may do differently. VARIANT names one. */
#include "qiao_plugin.h"

#undef QIAO_EXPORT
#define QIAO_EXPORT static
#define qiao_plugin_query_v0 acme_query
#include "../../../examples/vendor-c/acme_npu.c"
#undef qiao_plugin_query_v0

#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))

#define CUT_BEFORE_PREPACK    1 /* an older, smaller table */
#define CUT_BEFORE_GRAPHS     2
#define CUT_WITHIN_A_SLOT     3
#define FOURTEEN              4 /* the required slots alone */
#define LARGER                5 /* slots that this host does not know, and a minor far ahead */
#define CRITICAL_EXTENSION    6
#define OTHER_EXTENSION       7
#define MISSING_SLOTS         8
#define HALF_A_GROUP          9
#define WRONG_MAJOR          10 /* another major alone */
#define TWO_MAJORS           11
#define HOST_TOO_OLD         12 /* says so itself */
#define HOST_TOO_OLD_UNSAID  13 /* leaves it to the host */
#define TOO_OLD_FOR_HOST     14
#define SANITIZED            15
#define EXTRA_SYMBOLS        16
#define ABORTS_WHEN_LOADED   17
#define HANGS_WHEN_LOADED    18
#define EXITS_WHEN_LOADED    19
#define CRASHES_IN_INIT      20
#define NOT_PRESENT          21
#define NO_DEVICES           22
#define NO_TABLE             23
#define BAD_NAME             24
#define QUERY_FAILS          25
#define NO_SUCH_LIBRARY      26 /* linked against one that is not there */
#define INIT_FAILS           27
#define CRASHES_IN_SHUTDOWN  28
#define TALKS                29 /* on both outputs, without an end of line */
#define BEHIND_DEVICE_INFO   30 /* writes behind a struct that it is given */
#define BEHIND_MEMORY_INFO   31
#define BEHIND_SUPPORT       32
#define BEHIND_PLAN_INFO     33
#define BEHIND_ERROR         34
#define BEHIND_QUERY         35

#if VARIANT == EXTRA_SYMBOLS || VARIANT == TWO_MAJORS
EXPORT int acme_internal_state;
EXPORT int acme_internal(void);
EXPORT int acme_internal(void) { return acme_internal_state; }
#endif

#if VARIANT == ABORTS_WHEN_LOADED
__attribute__((constructor)) static void at_load(void) { abort(); }
#elif VARIANT == HANGS_WHEN_LOADED
#include <unistd.h>
__attribute__((constructor)) static void at_load(void) { for (;;) pause(); }
#elif VARIANT == EXITS_WHEN_LOADED
__attribute__((constructor)) static void at_load(void) { _Exit(7); }
#endif

static qiao_status altered_info(qiao_device* device, qiao_device_info* out, qiao_error* e) {
  static const qiao_ext second = {VARIANT == CRITICAL_EXTENSION ? 0x42u | QIAO_EXT_CRITICAL : 0x42u, sizeof(qiao_ext), NULL};
  static const qiao_ext first = {0x41, sizeof(qiao_ext), &second};
  qiao_status status = device_info(device, out, e);
  out->ext = &first;
  return status;
}

static qiao_status altered_init(const qiao_host* host, qiao_backend** out, qiao_error* e) {
  if (VARIANT == NOT_PRESENT) return fail(e, QIAO_ERR_NOT_PRESENT, "libacme_driver.so.1 is not on this machine");
  if (VARIANT == INIT_FAILS) {
    if (e) e->vendor_code = 507011;
    return fail(e, QIAO_ERR_INTERNAL, "the driver's version is %s", "too old");
  }
  if (VARIANT == CRASHES_IN_INIT) {
    volatile uintptr_t nowhere = 8;
    *(volatile int*)nowhere = 1;
  }
  if (VARIANT == TALKS) {
    printf("initialising ...\nqiao-probe {nonsense"), fflush(stdout);
    fprintf(stderr, "warning: a driver says more than it should");
  }
  return backend_init(host, out, e);
}

static void altered_shutdown(qiao_backend* backend) {
  fprintf(stderr, "free(): invalid pointer\n");
  backend_shutdown(backend);
  abort();
}

/* As a plugin of a newer header does that writes whole structs of its own. */
static void write_behind(void* out) {
  uint32_t size;
  memcpy(&size, out, sizeof size);
  memset((char*)out + size, 0, 40);
}

static qiao_status long_info(qiao_device* device, qiao_device_info* out, qiao_error* e) {
  write_behind(VARIANT == BEHIND_ERROR ? (void*)e : (void*)out);
  return device_info(device, out, e);
}

static qiao_status long_memory(qiao_device* device, uint32_t memory, qiao_memory_info* out, qiao_error* e) {
  write_behind(out);
  return memory_info(device, memory, out, e);
}

static qiao_status long_support(qiao_device* device, const qiao_graph* graph, qiao_support* const* out, qiao_error* e) {
  write_behind(out[0]);
  return graph_support(device, graph, out, e);
}

static qiao_status long_plan(qiao_device* device, const qiao_graph* graph, qiao_plan** out, qiao_plan_info* info,
                             qiao_error* e) {
  write_behind(info);
  return plan_create(device, graph, out, info, e);
}

static qiao_status no_devices(qiao_backend* backend, uint32_t* out, qiao_error* e) {
  (void)backend, (void)e;
  *out = 0;
  return QIAO_OK;
}

static struct { qiao_api api; void (*more[8])(void); } table;

static qiao_status altered_query(qiao_query* query, qiao_error* e) {
  if (VARIANT == QUERY_FAILS) return fail(e, QIAO_ERR_INTERNAL, "the query does more than it should");
  qiao_status status = acme_query(query, e);
  qiao_api* t = &table.api;
  if (status != QIAO_OK) return status;
  *t = *query->api;
  query->api = t;
  switch (VARIANT) {
    case CUT_BEFORE_PREPACK: t->struct_size = offsetof(qiao_api, prepack_size); break;
    case CUT_BEFORE_GRAPHS: t->struct_size = offsetof(qiao_api, graph_support); break;
    case CUT_WITHIN_A_SLOT: t->struct_size = offsetof(qiao_api, graph_support) + 5; break;
    case FOURTEEN:
      t->dtype_info = NULL, t->graph_support = NULL, t->plan_create = NULL, t->plan_destroy = NULL, t->plan_execute = NULL;
      break;
    case LARGER:
      t->struct_size = sizeof table, t->abi_minor = query->plugin_minor = 900;
      for (int i = 0; i < 8; i++) table.more[i] = abort;
      break;
    case CRITICAL_EXTENSION: case OTHER_EXTENSION: t->device_info = altered_info; break;
    case MISSING_SLOTS: t->stream_sync = NULL, t->device_close = NULL; break;
    case HALF_A_GROUP: t->plan_execute = NULL; break;
    case HOST_TOO_OLD:
      query->plugin_minor = 9, query->plugin_min_host_minor = 7;
      return fail(e, QIAO_ERR_ABI, "the host speaks minor %u, this plugin needs 7; use a newer Qiao", query->host_minor);
    case HOST_TOO_OLD_UNSAID: query->plugin_minor = 9, query->plugin_min_host_minor = 7; break;
    case TOO_OLD_FOR_HOST: query->plugin_minor = 0; break;
    case SANITIZED: query->sanitizer = QIAO_SANITIZER_ADDRESS; break;
    case CRASHES_IN_SHUTDOWN: t->backend_shutdown = altered_shutdown; break;
    case NOT_PRESENT: case CRASHES_IN_INIT: case INIT_FAILS: case TALKS: t->backend_init = altered_init; break;
    case NO_DEVICES: t->device_count = no_devices; break;
    case BEHIND_DEVICE_INFO: case BEHIND_ERROR: t->device_info = long_info; break;
    case BEHIND_MEMORY_INFO: t->memory_info = long_memory; break;
    case BEHIND_SUPPORT: t->graph_support = long_support; break;
    case BEHIND_PLAN_INFO: t->plan_create = long_plan; break;
    case BEHIND_QUERY: write_behind(query); break;
    case NO_TABLE: query->api = NULL; break;
    case BAD_NAME: snprintf(query->name, sizeof query->name, "Acme NPU"); break;
  }
  return QIAO_OK;
}

#if VARIANT == WRONG_MAJOR || VARIANT == TWO_MAJORS
EXPORT qiao_status qiao_plugin_query_v9(qiao_query* query, qiao_error* e);
EXPORT qiao_status qiao_plugin_query_v9(qiao_query* query, qiao_error* e) { return altered_query(query, e); }
#endif
#if VARIANT != WRONG_MAJOR
EXPORT qiao_status qiao_plugin_query_v0(qiao_query* query, qiao_error* e);
EXPORT qiao_status qiao_plugin_query_v0(qiao_query* query, qiao_error* e) { return altered_query(query, e); }
#endif
