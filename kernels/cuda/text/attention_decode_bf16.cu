// Decoding over pages of bf16.
#include "attention_decode.cuh"

ATTENTION_DECODE_SIZES(attention_decode_bf16, bf16, false, KERNEL(128))
