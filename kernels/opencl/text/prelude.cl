// What every program begins with. GROUP is the number of work-items of a group, PROCESSOR whether a processor runs it.
#pragma OPENCL FP_CONTRACT OFF

// How every function begins. Static, since some drivers keep C's rule of inline; always inlined, since in PoCL 3.1 what a function
// of its own reads as get_local_id is shared by all threads.
#define INLINE static inline __attribute__((always_inline))

#define KERNEL(...) __kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void run(__VA_ARGS__)

// An address: a memory object, and bytes behind its start. One that was left out is no object.
#define P(x) __global uchar *x, ulong x##_at
#define AT(T, x) ((__global T *)(x + x##_at))
#define GIVEN(x) (x != 0)

// Every work-item of a group comes to every meeting: none stands in a branch, or in a loop that some leave early.
#if GROUP == 1
#define MEET
#else
#define MEET barrier(CLK_LOCAL_MEM_FENCE)
#endif

// Numbers of two bytes as bits; nearest, ties to even. What is no number stays so.
#ifdef HAS_FP16
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
INLINE float f16_to_f32(uint bits) { return convert_float(as_half((ushort)bits)); }
INLINE uint f32_to_f16(float x) { return as_ushort(convert_half_rte(x)); }
#else
INLINE float f16_to_f32(uint bits) {
    ushort h = (ushort)bits;
    return vload_half(0, (const half *)&h);
}
INLINE uint f32_to_f16(float x) {
    ushort h;
    vstore_half_rte(x, 0, (half *)&h);
    return h;
}
#endif
INLINE float bf16_to_f32(uint bits) { return as_float(bits << 16); }
INLINE uint f32_to_bf16(float x) {
    const uint bits = as_uint(x);
    return isnan(x) ? (bits >> 16) | 0x40u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

// The numbers by which launches know the dtypes of activations.
#define F32 0
#define F16 1
#define BF16 2

INLINE float load_as(__global const uchar *base, uint dtype, ulong at) {
    if (dtype == F32) return ((__global const float *)base)[at];
    if (dtype == F16) return vload_half(at, (__global const half *)base);
    return bf16_to_f32(((__global const ushort *)base)[at]);
}
INLINE void store_as(__global uchar *base, uint dtype, ulong at, float x) {
    if (dtype == F32) ((__global float *)base)[at] = x;
    else if (dtype == F16) vstore_half_rte(x, at, (__global half *)base);
    else ((__global ushort *)base)[at] = (ushort)f32_to_bf16(x);
}
// x as the dtype holds it.
INLINE float round_as(uint dtype, float x) {
    if (dtype == F16) return f16_to_f32(f32_to_f16(x));
    if (dtype == BF16) return bf16_to_f32(f32_to_bf16(x));
    return x;
}
