// Products with fp8 codes in groups, channels or blocks.
#include "quant_product.cuh"

QUANT_KERNELS(f8_e4m3, E4m3, f16)
QUANT_KERNELS(f8_e4m3, E4m3, bf16)
