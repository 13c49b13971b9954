// Products with weights in Q6_K.
#include "quant_product.cuh"

QUANT_KERNELS(q6_k, Q6_K, f16)
QUANT_KERNELS(q6_k, Q6_K, bf16)
