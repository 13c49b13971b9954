// Products with 4-bit codes in groups.
#include "quant_product.cuh"

QUANT_KERNELS(i4, Codes4<true>, f16)
QUANT_KERNELS(i4, Codes4<true>, bf16)
QUANT_KERNELS(u4, Codes4<false>, f16)
QUANT_KERNELS(u4, Codes4<false>, bf16)
