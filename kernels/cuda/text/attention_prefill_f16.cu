// Queries and pages, or packed keys, of f16.
#include "attention_prefill.cuh"

ATTENTION_PREFILL_SIZES(attention_prefill_f16, f16, f16, false)
