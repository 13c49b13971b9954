// Queries of f16 or bf16 over pages of i8 and fp8 codes; weights and values meet as bf16.
#include "attention_prefill.cuh"

ATTENTION_PREFILL_SIZES(attention_prefill_codes_f16, f16, bf16, true)
ATTENTION_PREFILL_SIZES(attention_prefill_codes_bf16, bf16, bf16, true)
