// Queries and pages, or packed keys, of bf16.
#include "attention_prefill.cuh"

ATTENTION_PREFILL_SIZES(attention_prefill_bf16, bf16, bf16, false)
