// Products with weights in Q8_0.
#include "quant_product.cuh"

QUANT_KERNELS(q8_0, Q8_0, f16)
QUANT_KERNELS(q8_0, Q8_0, bf16)
