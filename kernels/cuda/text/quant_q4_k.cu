// Products with weights in Q4_K.
#include "quant_product.cuh"

QUANT_KERNELS(q4_k, Q4_K, f16)
QUANT_KERNELS(q4_k, Q4_K, bf16)
