// Decoding over pages of f16.
#include "attention_decode.cuh"

ATTENTION_DECODE_SIZES(attention_decode_f16, f16, false, KERNEL(128))
