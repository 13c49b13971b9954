// The one header that knows compilers and chips apart: CUDA through PTX, HIP with waves of 64, compilers that read CUDA's
// words for chips of their own, and the processor, where a simulated card runs the same text. Everything below the branches is portable.
//
// Lanes are counted in groups of 32 whatever the hardware's warp is: lane32, group32 and everything called warp_ or mma_
// speak of such a group, and every lane of the group must come. What is called mma_ has PTX's m16n8 fragments.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef short i16;
typedef int i32;
typedef long long i64;

// Stored numbers: bits, and nothing else.
struct f16 { u16 bits; };
struct bf16 { u16 bits; };
struct f8_e4m3 { u8 bits; };
struct f8_e5m2 { u8 bits; };

// Sixteen and eight bytes that are moved at once.
struct alignas(16) Vec4 { u32 x, y, z, w; };
struct alignas(8) Vec2 { u32 x, y; };

// ---------------------------------------------------------------------------------------------------- the processor
#if defined(QIAO_SIMT)
#include "simt.h"

#define DEVICE inline
#define KERNEL(threads) SIMT_KERNEL(threads) void
#define KERNEL_BLOCKS(threads, blocks) SIMT_KERNEL(threads) void
#define SHARED(type, name, count)                                                                                      \
    static char name##_tag;                                                                                            \
    type(&name)[count] = *static_cast<type(*)[count]>(simt::shared_array(&name##_tag, sizeof(type) * (count), alignof(type)))
#define SHARED_DYNAMIC(type, name) type* const name = static_cast<type*>(simt::dynamic_shared())
#define WARP SIMT_WARP

DEVICE u32 bits_of(float x) { return simt::bit_cast<u32>(x); }
DEVICE float float_of(u32 bits) { return simt::bit_cast<float>(bits); }
DEVICE u64 bits_of(double x) { return simt::bit_cast<u64>(x); }
DEVICE double double_of(u64 bits) { return simt::bit_cast<double>(bits); }
DEVICE void sync() { simt::barrier(); }
DEVICE void sync_warp() { simt::gather(nullptr, 0); }
DEVICE void fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
DEVICE u32 shuffle(u32 v, u32 lane) { return simt::gather(&v, 1)[lane * simt::WORDS]; }
DEVICE u32 atomic_add(u32* at, u32 v) { return __atomic_fetch_add(at, v, __ATOMIC_SEQ_CST); }
DEVICE i32 atomic_add(i32* at, i32 v) { return __atomic_fetch_add(at, v, __ATOMIC_SEQ_CST); }
DEVICE u32 atomic_max(u32* at, u32 v) {
    u32 old = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (old < v && !__atomic_compare_exchange_n(at, &old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {}
    return old;
}
DEVICE float fast_exp(float x) { return expf(x); }
DEVICE float fast_exp2(float x) { return exp2f(x); }
DEVICE Vec4 load16_once(const void* from) { return *static_cast<const Vec4*>(from); }

// ---------------------------------------------------------------------------------------------------- CUDA's words
// Moore Threads, MetaX and Iluvatar, by the macros of their compilers that public code asks for. No chip of theirs has run this
// text. What public sources do not tell is not used: halves are converted by integers, votes are gathered by shuffles,
// products of matrices are those of the portable twin, and copies into shared memory are plain ones.
#elif defined(__MUSACC__) || defined(__MUSACC_RTC__) || defined(__MACACC__) || defined(__ILUVATAR__)
#define QIAO_PLAIN 1

#define DEVICE __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ __launch_bounds__(threads) void
#define KERNEL_BLOCKS(threads, blocks) extern "C" __global__ __launch_bounds__(threads) void
#define SHARED(type, name, count) __shared__ type name[count]
#define SHARED_DYNAMIC(type, name)                                                                                     \
    extern __shared__ Vec4 dynamic_shared_bytes[];                                                                     \
    type* const name = reinterpret_cast<type*>(dynamic_shared_bytes)
// torch_musa: 128 lanes up to mp_22, masks of 32 bits all the same; code for C500 and for BI-V150: 64, and masks of 64 bits.
#if defined(__MUSACC__) || defined(__MUSACC_RTC__)
#if defined(__MUSA_ARCH__) && __MUSA_ARCH__ <= 220
#define WARP 128
#else
#define WARP 32
#endif
#define EVERY_LANE 0xffffffffu
#else
#define WARP 64
#define EVERY_LANE 0xffffffffffffffffull
#endif

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE u64 bits_of(double x) { return (u64)__double_as_longlong(x); }
DEVICE double double_of(u64 bits) { return __longlong_as_double((i64)bits); }
DEVICE void sync() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE void fence() { __threadfence(); }
DEVICE u32 shuffle(u32 v, u32 lane) { return __shfl_sync(EVERY_LANE, v, lane, 32); }
DEVICE u32 atomic_add(u32* at, u32 v) { return atomicAdd(at, v); }
DEVICE i32 atomic_add(i32* at, i32 v) { return atomicAdd(at, v); }
DEVICE u32 atomic_max(u32* at, u32 v) { return atomicMax(at, v); }
DEVICE float fast_exp(float x) { return __expf(x); }
DEVICE float fast_exp2(float x) { return exp2f(x); }
DEVICE Vec4 load16_once(const void* from) { return *static_cast<const Vec4*>(from); }

// ---------------------------------------------------------------------------------------------------- HIP
#elif defined(__HIPCC__) || defined(__HIP__) || defined(__HIPCC_RTC__)
#if !defined(__HIPCC_RTC__)
#include <hip/hip_runtime.h>
#endif
#define QIAO_HIP 1

#define DEVICE __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ __launch_bounds__(threads) void
#define KERNEL_BLOCKS(threads, blocks) extern "C" __global__ __launch_bounds__(threads) void
#define SHARED(type, name, count) __shared__ type name[count]
#define SHARED_DYNAMIC(type, name)                                                                                     \
    extern __shared__ Vec4 dynamic_shared_bytes[];                                                                     \
    type* const name = reinterpret_cast<type*>(dynamic_shared_bytes)
#define WARP 64

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE u64 bits_of(double x) { return (u64)__double_as_longlong(x); }
DEVICE double double_of(u64 bits) { return __longlong_as_double((i64)bits); }
DEVICE void sync() { __syncthreads(); }
DEVICE void sync_warp() {
    __builtin_amdgcn_fence(__ATOMIC_RELEASE, "wavefront");
    __builtin_amdgcn_wave_barrier();
    __builtin_amdgcn_fence(__ATOMIC_ACQUIRE, "wavefront");
}
DEVICE void fence() { __threadfence(); }
DEVICE u32 shuffle(u32 v, u32 lane) { return __shfl(v, lane, 32); }
DEVICE u32 atomic_add(u32* at, u32 v) { return atomicAdd(at, v); }
DEVICE i32 atomic_add(i32* at, i32 v) { return atomicAdd(at, v); }
DEVICE u32 atomic_max(u32* at, u32 v) { return atomicMax(at, v); }
DEVICE float fast_exp(float x) { return __expf(x); }
DEVICE float fast_exp2(float x) { return exp2f(x); }
DEVICE Vec4 load16_once(const void* from) {
    typedef u32 Words __attribute__((ext_vector_type(4)));
    const Words v = __builtin_nontemporal_load(static_cast<const Words*>(from));
    return {v.x, v.y, v.z, v.w};
}

// ---------------------------------------------------------------------------------------------------- CUDA
#else
#define QIAO_PTX 1

#define DEVICE __device__ __forceinline__
#define KERNEL(threads) extern "C" __global__ __launch_bounds__(threads) void
#define KERNEL_BLOCKS(threads, blocks) extern "C" __global__ __launch_bounds__(threads, blocks) void
#define SHARED(type, name, count) __shared__ type name[count]
#define SHARED_DYNAMIC(type, name)                                                                                     \
    extern __shared__ Vec4 dynamic_shared_bytes[];                                                                     \
    type* const name = reinterpret_cast<type*>(dynamic_shared_bytes)
#define WARP 32

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }
DEVICE u64 bits_of(double x) { return (u64)__double_as_longlong(x); }
DEVICE double double_of(u64 bits) { return __longlong_as_double((i64)bits); }
DEVICE void sync() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE void fence() { __threadfence(); }
DEVICE u32 shuffle(u32 v, u32 lane) { return __shfl_sync(0xffffffffu, v, lane); }
DEVICE u32 atomic_add(u32* at, u32 v) { return atomicAdd(at, v); }
DEVICE i32 atomic_add(i32* at, i32 v) { return atomicAdd(at, v); }
DEVICE u32 atomic_max(u32* at, u32 v) { return atomicMax(at, v); }
DEVICE float fast_exp(float x) { return __expf(x); }
DEVICE float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Passes by L1 and is the first to leave L2.
DEVICE Vec4 load16_once(const void* from) {
    u64 policy;
    Vec4 v;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(__cvta_generic_to_global(from)), "l"(policy));
    return v;
}
#endif

// The first words of every kernel: the host may have started it while the one before it ends. From here on all that earlier
// kernels wrote is there, and the next kernel may be started. Chips before sm_90 and other makers' start it when all has ended.
DEVICE void take_turn() {
#if defined(QIAO_PTX) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// ---------------------------------------------------------------------------------------------------- numbers
#define F32_INF float_of(0x7f800000u)
#define F32_NAN float_of(0x7fc00000u)

DEVICE bool is_nan(float x) { return x != x; }

// The value of a small float whose magnitude lies `shift` bits below f32's and whose exponents are scaled by 1 / `scale`.
DEVICE float widen(u32 magnitude, u32 sign, int shift, float scale) {
    return float_of(bits_of(float_of(magnitude << shift) * scale) | sign);
}

// The code of |x| with MANTISSA bits, half to even, for magnitudes of less than the overflow; BIAS is the format's.
template <int MANTISSA, int BIAS> DEVICE u32 narrow(float magnitude) {
    const float lowest = float_of((128 - BIAS) << 23);
    if (magnitude < lowest) return (u32)rintf(magnitude * float_of((u32)(126 + BIAS + MANTISSA) << 23));
    const u32 bits = bits_of(magnitude);
    const u32 rounded = bits + (1u << (22 - MANTISSA)) - 1 + (bits >> (23 - MANTISSA) & 1);
    return (rounded >> (23 - MANTISSA)) - ((127 - BIAS) << MANTISSA);
}

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(i8 x) { return (float)x; }
DEVICE float to_f32(u8 x) { return (float)x; }
DEVICE float to_f32(i16 x) { return (float)x; }
DEVICE float to_f32(u16 x) { return (float)x; }
DEVICE float to_f32(i32 x) { return (float)x; }
DEVICE float to_f32(u32 x) { return (float)x; }
DEVICE float to_f32(i64 x) { return (float)x; }
DEVICE float to_f32(u64 x) { return (float)x; }
DEVICE float to_f32(bf16 x) { return float_of((u32)x.bits << 16); }
DEVICE float to_f32(f16 x) {
#if defined(QIAO_PTX)
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
#elif defined(QIAO_HIP)
    return (float)__builtin_bit_cast(_Float16, x.bits);
#else
    const u32 magnitude = x.bits & 0x7fff, sign = (u32)(x.bits & 0x8000) << 16;
    if (magnitude >= 0x7c00) return float_of((magnitude << 13) | 0x7f800000u | sign);
    return widen(magnitude, sign, 13, float_of(239u << 23));
#endif
}
DEVICE float to_f32(f8_e4m3 x) {
    const u32 magnitude = x.bits & 0x7f, sign = (u32)(x.bits & 0x80) << 24;
    return magnitude == 0x7f ? F32_NAN : widen(magnitude, sign, 20, float_of(247u << 23));
}
DEVICE float to_f32(f8_e5m2 x) { return to_f32(f16{(u16)(x.bits << 8)}); }

// Rounded once, half to even. f16 and bf16 overflow to infinity; fp8 and integers saturate; NaN is 0 in an integer.
template <class T> DEVICE T from_f32(float x);
template <> DEVICE float from_f32<float>(float x) { return x; }
template <> DEVICE f16 from_f32<f16>(float x) {
    f16 y;
#if defined(QIAO_PTX)
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#elif defined(QIAO_HIP)
    y.bits = __builtin_bit_cast(u16, (_Float16)x);
#else
    const u16 sign = bits_of(x) >> 16 & 0x8000;
    const float a = fabsf(x);
    y.bits = sign | (is_nan(x) ? 0x7e00 : a >= 65520.0f ? 0x7c00 : narrow<10, 15>(a));
#endif
    return y;
}
template <> DEVICE bf16 from_f32<bf16>(float x) {
    bf16 y;
#if defined(QIAO_PTX)
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
#else
    const u32 bits = bits_of(x);
    y.bits = is_nan(x) ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
#endif
    return y;
}
template <> DEVICE f8_e4m3 from_f32<f8_e4m3>(float x) {
    const u8 sign = bits_of(x) >> 24 & 0x80;
    const float a = fabsf(x);
    return {(u8)(sign | (is_nan(x) ? 0x7f : a >= 448.0f ? 0x7e : narrow<3, 7>(a)))};
}
template <> DEVICE f8_e5m2 from_f32<f8_e5m2>(float x) {
    const u8 sign = bits_of(x) >> 24 & 0x80;
    const float a = fabsf(x);
    return {(u8)(sign | (is_nan(x) ? 0x7f : a >= 57344.0f ? 0x7b : narrow<2, 15>(a)))};
}
template <> DEVICE i8 from_f32<i8>(float x) { return is_nan(x) ? 0 : (i8)fminf(fmaxf(rintf(x), -128.0f), 127.0f); }
template <> DEVICE u8 from_f32<u8>(float x) { return is_nan(x) ? 0 : (u8)fminf(fmaxf(rintf(x), 0.0f), 255.0f); }
template <> DEVICE i32 from_f32<i32>(float x) {
    return is_nan(x) ? 0 : x >= 2147483648.0f ? 0x7fffffff : x < -2147483648.0f ? (i32)0x80000000u : (i32)rintf(x);
}

// Two halves in one word: the first in the low half.
template <class T> DEVICE u32 pack2(float low, float high) {
    return (u32)from_f32<T>(low).bits | (u32)from_f32<T>(high).bits << 16;
}
#if defined(QIAO_PTX)
template <> DEVICE u32 pack2<f16>(float low, float high) {
    u32 y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
template <> DEVICE u32 pack2<bf16>(float low, float high) {
    u32 y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
    return y;
}
#endif
template <class T> DEVICE float unpack_low(u32 word) { return to_f32(T{(u16)word}); }
template <class T> DEVICE float unpack_high(u32 word) { return to_f32(T{(u16)(word >> 16)}); }

// Each half of a·b + c, where the result is a half exactly; otherwise the twin may round twice.
template <class T> DEVICE u32 fma2(u32 a, u32 b, u32 c) {
    const float low = fmaf(unpack_low<T>(a), unpack_low<T>(b), unpack_low<T>(c));
    return pack2<T>(low, fmaf(unpack_high<T>(a), unpack_high<T>(b), unpack_high<T>(c)));
}
#if defined(QIAO_PTX)
template <> DEVICE u32 fma2<f16>(u32 a, u32 b, u32 c) {
    u32 y;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}
template <> DEVICE u32 fma2<bf16>(u32 a, u32 b, u32 c) {
    u32 y;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}
#endif

// Byte i of the result is that of the eight bytes of a and b which nibble i of the selector names.
DEVICE u32 byte_perm(u32 a, u32 b, u32 selector) {
#if defined(QIAO_SIMT) || defined(QIAO_PLAIN)
    const u64 both = (u64)b << 32 | a;
    u32 y = 0;
    for (int i = 0; i < 4; i++) y |= (u32)(both >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return y;
#else
    return __byte_perm(a, b, selector);
#endif
}

// The sum of c and four products of signed bytes.
DEVICE i32 dot4(u32 a, u32 b, i32 c) {
#if defined(QIAO_PTX)
    return __dp4a((i32)a, (i32)b, c);
#elif defined(__gfx906__) || defined(__gfx908__) || defined(__gfx90a__)
    return __builtin_amdgcn_sdot4((i32)a, (i32)b, c, false);
#else
    for (int i = 0; i < 4; i++) c += (i32)(i8)(a >> 8 * i) * (i32)(i8)(b >> 8 * i);
    return c;
#endif
}

// ---------------------------------------------------------------------------------------------------- memory
DEVICE Vec4 load16(const void* from) { return *static_cast<const Vec4*>(from); }
DEVICE void store16(void* to, Vec4 v) { *static_cast<Vec4*>(to) = v; }
DEVICE Vec2 load8(const void* from) { return *static_cast<const Vec2*>(from); }
DEVICE void store8(void* to, Vec2 v) { *static_cast<Vec2*>(to) = v; }

// Copies 16 bytes into shared memory, or zeroes them where not valid. They are there after the wait for their group, and a
// barrier for other threads. Nothing is read where not valid, but the address must be one that may be read.
DEVICE void copy_async16(void* shared, const void* global, bool valid) {
#if defined(QIAO_PTX)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
                 : "memory");
#elif defined(QIAO_SIMT) && SIMT_WARP == 32
    simt::copy_later(shared, global, valid);
#else
    store16(shared, valid ? load16(global) : Vec4{0, 0, 0, 0});
#endif
}
// The same of bytes that are read once: the first to leave L2, whose lines come whole.
DEVICE void copy_async16_once(void* shared, const void* global, bool valid) {
#if defined(QIAO_PTX)
    u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;" ::"r"(
                     (u32)__cvta_generic_to_shared(shared)),
                 "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0), "l"(policy)
                 : "memory");
#else
    copy_async16(shared, global, valid);
#endif
}
// Closes a group of copies.
DEVICE void copy_async_commit() {
#if defined(QIAO_PTX)
    asm volatile("cp.async.commit_group;" ::: "memory");
#elif defined(QIAO_SIMT) && SIMT_WARP == 32
    simt::copy_close();
#endif
}
// Waits until at most PENDING of the latest groups are under way.
template <int PENDING> DEVICE void copy_async_wait() {
#if defined(QIAO_PTX)
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#elif defined(QIAO_SIMT) && SIMT_WARP == 32
    simt::copy_wait(PENDING);
#endif
}

// ---------------------------------------------------------------------------------------------------- lanes
DEVICE u32 lane32() { return threadIdx.x & 31; }
DEVICE u32 group32() { return threadIdx.x >> 5; }

DEVICE u32 warp_from(u32 v, u32 lane) { return shuffle(v, lane & 31); }
DEVICE i32 warp_from(i32 v, u32 lane) { return (i32)shuffle((u32)v, lane & 31); }
DEVICE float warp_from(float v, u32 lane) { return float_of(shuffle(bits_of(v), lane & 31)); }
DEVICE u64 warp_from(u64 v, u32 lane) {
    const u64 low = shuffle((u32)v, lane & 31);
    return low | (u64)shuffle((u32)(v >> 32), lane & 31) << 32;
}
template <class T> DEVICE T warp_xor(T v, u32 mask) { return warp_from(v, lane32() ^ mask); }
#if defined(QIAO_PTX)
template <> DEVICE u32 warp_xor<u32>(u32 v, u32 mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
template <> DEVICE i32 warp_xor<i32>(i32 v, u32 mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
template <> DEVICE float warp_xor<float>(float v, u32 mask) { return __shfl_xor_sync(0xffffffffu, v, mask); }
#endif

// One bit per lane of the group.
DEVICE u32 warp_ballot(bool v) {
#if defined(QIAO_PTX)
    return __ballot_sync(0xffffffffu, v);
#elif defined(QIAO_SIMT)
    const u32 word = v;
    const u32* all = simt::gather(&word, 1);
    u32 bits = 0;
    for (int lane = 0; lane < 32; lane++) bits |= all[lane * simt::WORDS] << lane;
    return bits;
#elif defined(QIAO_PLAIN)
    u32 bits = (u32)v << lane32();
    for (u32 mask = 16; mask > 0; mask >>= 1) bits |= shuffle(bits, lane32() ^ mask);
    return bits;
#else
    return (u32)(__ballot(v) >> (threadIdx.x & 32));
#endif
}
DEVICE bool warp_any(bool v) { return warp_ballot(v) != 0; }
DEVICE bool warp_all(bool v) { return warp_ballot(v) == 0xffffffffu; }

// The result is the same bits in every lane.
template <class T> DEVICE T warp_sum(T v) {
#pragma unroll
    for (u32 mask = 16; mask > 0; mask >>= 1) v += warp_xor(v, mask);
    return v;
}
DEVICE float warp_max(float v) {
#pragma unroll
    for (u32 mask = 16; mask > 0; mask >>= 1) v = fmaxf(v, warp_xor(v, mask));
    return v;
}
DEVICE float warp_min(float v) {
#pragma unroll
    for (u32 mask = 16; mask > 0; mask >>= 1) v = fminf(v, warp_xor(v, mask));
    return v;
}

// Over a block of THREADS threads, all of which must come; the result is the same bits in every thread.
template <int THREADS> DEVICE float block_sum(float v) {
    v = warp_sum(v);
    if (THREADS <= 32) return v;
    SHARED(float, partial, THREADS / 32 > 0 ? THREADS / 32 : 1);
    if (lane32() == 0) partial[group32()] = v;
    sync();
    v = warp_sum(lane32() < THREADS / 32 ? partial[lane32()] : 0.0f);
    sync();
    return v;
}
template <int THREADS> DEVICE float block_max(float v) {
    v = warp_max(v);
    if (THREADS <= 32) return v;
    SHARED(float, partial, THREADS / 32 > 0 ? THREADS / 32 : 1);
    if (lane32() == 0) partial[group32()] = v;
    sync();
    v = warp_max(lane32() < THREADS / 32 ? partial[lane32()] : -F32_INF);
    sync();
    return v;
}

// ---------------------------------------------------------------------------------------------------- matrices
// Lane l has g = l / 4 and t = l % 4. For elements of E bytes and w = 4 / E per word, a[0] holds A[g][wt..], a[1]
// A[g + 8][wt..], a[2] and a[3] the same 4w columns on; b[0] B[wt..][g], b[1] the same 4w rows on; d[0] and d[1] D[g][2t],
// D[g][2t + 1], d[2] and d[3] the same of row g + 8.
struct Halves {
    template <class T> static DEVICE float dot(u32 a, u32 b, float c) {
        c = fmaf(unpack_low<T>(a), unpack_low<T>(b), c);
        return fmaf(unpack_high<T>(a), unpack_high<T>(b), c);
    }
};
struct DotF16 { DEVICE float operator()(u32 a, u32 b, float c) const { return Halves::dot<f16>(a, b, c); } };
struct DotBf16 { DEVICE float operator()(u32 a, u32 b, float c) const { return Halves::dot<bf16>(a, b, c); } };
struct DotTf32 { DEVICE float operator()(u32 a, u32 b, float c) const { return fmaf(float_of(a), float_of(b), c); } };
struct DotI8 { DEVICE i32 operator()(u32 a, u32 b, i32 c) const { return dot4(a, b, c); } };
struct DotE4m3 {
    DEVICE float operator()(u32 a, u32 b, float c) const {
        for (int i = 0; i < 4; i++) c = fmaf(to_f32(f8_e4m3{(u8)(a >> 8 * i)}), to_f32(f8_e4m3{(u8)(b >> 8 * i)}), c);
        return c;
    }
};

// The portable twin: what each lane needs of the others comes by shuffles.
template <class Dot, class T> DEVICE void mma_by_shuffles(T* d, const u32* a, const u32* b, Dot dot) {
    const u32 lane = lane32(), row = lane & ~3u, column = (lane & 3) * 8;
    // Four times the text for each mma of a tile is more than compilers care to read.
#pragma unroll 1
    for (u32 step = 0; step < 4; step++) {
#pragma unroll
        for (u32 half = 0; half < 2; half++) {
            const u32 top = warp_from(a[2 * half], row + step), bottom = warp_from(a[2 * half + 1], row + step);
            const u32 left = warp_from(b[half], column + step), right = warp_from(b[half], column + 4 + step);
            d[0] = dot(top, left, d[0]);
            d[1] = dot(top, right, d[1]);
            d[2] = dot(bottom, left, d[2]);
            d[3] = dot(bottom, right, d[3]);
        }
    }
}

#if defined(QIAO_PTX)
#define QIAO_MMA(shape, types, reg)                                                                                    \
    asm volatile("mma.sync.aligned." shape ".row.col." types " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "         \
                 "{%0, %1, %2, %3};"                                                                                   \
                 : "+" reg(d[0]), "+" reg(d[1]), "+" reg(d[2]), "+" reg(d[3])                                          \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#define QIAO_TWIN(dot)
#elif defined(QIAO_SIMT) && SIMT_WARP == 32
#define QIAO_TWIN(dot) mma_by_gather(d, a, b, dot)
// As by shuffles, with one exchange.
template <class Dot, class T> DEVICE void mma_by_gather(T* d, const u32* a, const u32* b, Dot dot) {
    const u32 mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const u32* all = simt::gather(mine, 6);
    const u32 lane = lane32();
    for (u32 step = 0; step < 4; step++) {
        const u32* rows = all + ((lane & ~3u) + step) * simt::WORDS;
        const u32* left = all + ((lane & 3) * 8 + step) * simt::WORDS;
        const u32* right = left + 4 * simt::WORDS;
        for (u32 half = 0; half < 2; half++) {
            d[0] = dot(rows[2 * half], left[4 + half], d[0]);
            d[1] = dot(rows[2 * half], right[4 + half], d[1]);
            d[2] = dot(rows[2 * half + 1], left[4 + half], d[2]);
            d[3] = dot(rows[2 * half + 1], right[4 + half], d[3]);
        }
    }
}
#elif defined(QIAO_SIMT)
#define QIAO_TWIN(dot) mma_by_shuffles(d, a, b, dot)
#else
#define QIAO_TWIN(dot) mma_by_call(d, a, b, dot)
// As by shuffles, out of line: a tile has hundreds of them.
template <class T> struct Quad { T x, y, z, w; };
template <class Dot, class T>
__device__ __attribute__((noinline)) Quad<T> mma_called(Quad<T> d, u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
    T sums[4] = {d.x, d.y, d.z, d.w};
    const u32 a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    mma_by_shuffles(sums, a, b, Dot());
    return {sums[0], sums[1], sums[2], sums[3]};
}
template <class Dot, class T> DEVICE void mma_by_call(T* d, const u32* a, const u32* b, Dot) {
    const Quad<T> sums = mma_called<Dot>(Quad<T>{d[0], d[1], d[2], d[3]}, a[0], a[1], a[2], a[3], b[0], b[1]);
    d[0] = sums.x;
    d[1] = sums.y;
    d[2] = sums.z;
    d[3] = sums.w;
}
#endif

// m16n8k16, sums in f32.
DEVICE void mma_f16(float* d, const u32* a, const u32* b) {
#if defined(QIAO_PTX)
    QIAO_MMA("m16n8k16", "f32.f16.f16.f32", "f");
#else
    QIAO_TWIN(DotF16());
#endif
}
DEVICE void mma_bf16(float* d, const u32* a, const u32* b) {
#if defined(QIAO_PTX)
    QIAO_MMA("m16n8k16", "f32.bf16.bf16.f32", "f");
#else
    QIAO_TWIN(DotBf16());
#endif
}
// An f32's bits, rounded to the 11 significant bits of tf32.
DEVICE u32 to_tf32(u32 bits) {
#if defined(QIAO_PTX)
    u32 y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(float_of(bits)));
    return y;
#else
    return is_nan(float_of(bits)) ? bits | 0x400000u : (bits + 0x1000u) & 0xffffe000u;
#endif
}
// m16n8k8 of f32 that to_tf32 has rounded, sums in f32.
DEVICE void mma_tf32(float* d, const u32* a, const u32* b) {
#if defined(QIAO_PTX)
    QIAO_MMA("m16n8k8", "f32.tf32.tf32.f32", "f");
#else
    QIAO_TWIN(DotTf32());
#endif
}
// m16n8k32 of signed bytes, sums in i32.
DEVICE void mma_i8(i32* d, const u32* a, const u32* b) {
#if defined(QIAO_PTX)
    QIAO_MMA("m16n8k32", "s32.s8.s8.s32", "r");
#else
    QIAO_TWIN(DotI8());
#endif
}
// m16n8k32, sums in f32; chips before sm_89 have no such unit and take the twin.
DEVICE void mma_e4m3(float* d, const u32* a, const u32* b) {
#if defined(QIAO_PTX) && __CUDA_ARCH__ >= 890
    QIAO_MMA("m16n8k32", "f32.e4m3.e4m3.f32", "f");
#elif defined(QIAO_PTX)
    mma_by_shuffles(d, a, b, DotE4m3());
#else
    QIAO_TWIN(DotE4m3());
#endif
}
// The mma of a stored type.
template <class T> struct Mma;
template <> struct Mma<f16> { static DEVICE void go(float* d, const u32* a, const u32* b) { mma_f16(d, a, b); } };
template <> struct Mma<bf16> { static DEVICE void go(float* d, const u32* a, const u32* b) { mma_bf16(d, a, b); } };

// Four 8x8 matrices of halves: lane 8i + j gives the shared address of row j of matrix i, 16 bytes on a multiple of 16, and
// gets in r[i] elements 2t and 2t + 1 of row g; transposed, elements g of rows 2t and 2t + 1.
DEVICE void load_matrix_x4(u32* r, const void* shared_row) {
#if defined(QIAO_PTX)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((u32)__cvta_generic_to_shared(shared_row)));
#else
    const u32 lane = lane32();
    for (u32 i = 0; i < 4; i++) {
        const u64 row = warp_from((u64)shared_row, 8 * i + lane / 4);
        r[i] = reinterpret_cast<const u32*>(row)[lane % 4];
    }
#endif
}
DEVICE void load_matrix_x4_trans(u32* r, const void* shared_row) {
#if defined(QIAO_PTX)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"((u32)__cvta_generic_to_shared(shared_row)));
#else
    const u32 lane = lane32();
    for (u32 i = 0; i < 4; i++) {
        const u64 even = warp_from((u64)shared_row, 8 * i + lane % 4 * 2);
        const u64 odd = warp_from((u64)shared_row, 8 * i + lane % 4 * 2 + 1);
        r[i] = reinterpret_cast<const u16*>(even)[lane / 4] | (u32)reinterpret_cast<const u16*>(odd)[lane / 4] << 16;
    }
#endif
}
