// Products with weights in Q4_0.
#include "quant_product.cuh"

QUANT_KERNELS(q4_0, Q4_0, f16)
QUANT_KERNELS(q4_0, Q4_0, bf16)
