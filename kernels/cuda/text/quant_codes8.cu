// Products with bytes in groups or channels.
#include "quant_product.cuh"

QUANT_KERNELS(i8, Codes8<true>, f16)
QUANT_KERNELS(i8, Codes8<true>, bf16)
QUANT_KERNELS(u8, Codes8<false>, f16)
QUANT_KERNELS(u8, Codes8<false>, bf16)
