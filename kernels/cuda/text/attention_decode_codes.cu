// Decoding over pages of i8 and fp8 codes.
#include "attention_decode.cuh"

ATTENTION_DECODE_SIZES(attention_decode_codes, bf16, true, KERNEL_BLOCKS(128, 2))
