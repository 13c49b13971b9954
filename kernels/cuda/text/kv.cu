// Rows of keys and values go to their slots of a cache.
//
// A group of lanes takes one head of one token. Where a cache has scales, the row's largest magnitude sets the scale
// and each element becomes the code of what remains.
#include "vendor.cuh"

// Keys or values. Strides count elements.
struct KvTarget {
    u64 rows_stride[3];   // token, head, element
    u64 cache_stride[3];  // block, head, token
    u64 scale_stride[3];  // block, head, token
    u32 size;             // elements of a row
    u32 whole;            // whether rows lie in whole 16 bytes on both sides
};
struct KvWrite {
    KvTarget target[2];
    u64 slots_stride;
    u64 capacity;
    u32 tokens, heads, block_size, wide;
};

template <class C> struct Codes { static const int LARGEST = 0; };
template <> struct Codes<i8> { static const int LARGEST = 127; };
template <> struct Codes<f8_e4m3> { static const int LARGEST = 448; };
template <> struct Codes<f8_e5m2> { static const int LARGEST = 448; };

// Whether two types are one.
template <class T, class C> struct Same { static const bool YES = false; };
template <class T> struct Same<T, T> { static const bool YES = true; };

template <class T, class C>
DEVICE void write_row(const KvTarget& to, const T* row, C* cache, float* scale) {
    float factor = 1.0f;
    if (Codes<C>::LARGEST != 0 && scale != nullptr) {
        // The bits of magnitudes are in order, NaN above all.
        u32 most = 0;
        for (u32 i = lane32(); i < to.size; i += 32) {
            const u32 bits = bits_of(to_f32(row[i * to.rows_stride[2]])) & 0x7fffffffu;
            most = bits > most ? bits : most;
        }
#pragma unroll
        for (u32 mask = 16; mask > 0; mask >>= 1) {
            const u32 other = warp_xor(most, mask);
            most = other > most ? other : most;
        }
        factor = float_of(most) / (float)(Codes<C>::LARGEST + (Codes<C>::LARGEST == 0));
        if (lane32() == 0) *scale = factor;
    }
    for (u32 i = lane32(); i < to.size; i += 32) {
        const T element = row[i * to.rows_stride[2]];
        // An element of the cache's own type keeps its bits, those of a NaN too.
        if constexpr (Same<T, C>::YES) {
            cache[i] = element;
        } else {
            const float x = to_f32(element);
            cache[i] = from_f32<C>(factor == 0.0f ? 0.0f : factor == 1.0f ? x : x / factor);
        }
    }
}

template <class T, class C>
DEVICE void kv_write(const KvWrite& a, const T* rows, C* cache, float* scales, const void* slots, const KvTarget& to) {
    const u64 index = (u64)blockIdx.x * 4 + group32();
    if (index >= (u64)a.tokens * a.heads) return;
    const u32 token = (u32)(index / a.heads), head = (u32)(index % a.heads);
    const i64 slot = a.wide ? static_cast<const i64*>(slots)[token * a.slots_stride]
                            : (i64)static_cast<const i32*>(slots)[token * a.slots_stride];
    if (slot < 0 || (u64)slot >= a.capacity) return;
    const u64 block = (u64)slot / a.block_size, at = (u64)slot % a.block_size;
    const T* row = rows + token * to.rows_stride[0] + head * to.rows_stride[1];
    C* out = cache + block * to.cache_stride[0] + head * to.cache_stride[1] + at * to.cache_stride[2];
    float* scale = scales == nullptr ? nullptr : scales + block * to.scale_stride[0] + head * to.scale_stride[1] + at * to.scale_stride[2];
    if (to.whole) {
        const u32 chunks = to.size * (u32)sizeof(T) / 16;
        const char* from = reinterpret_cast<const char*>(row);
        for (u32 i = lane32(); i < chunks; i += 32) store16(reinterpret_cast<char*>(out) + 16 * i, load16(from + 16 * i));
        return;
    }
    write_row<T, C>(to, row, out, scale);
}

// Blocks with y = 0 take the keys, those with y = 1 the values.
#define KV_WRITE(from, T, to, C)                                                                                       \
    KERNEL(128) kv_write_##from##_##to(const T* k, const T* v, const void* slots, C* k_cache, C* v_cache,              \
                                       float* k_scale, float* v_scale, const KvWrite a) {                              \
        take_turn();                                                                                                   \
        if (blockIdx.y == 0) kv_write<T, C>(a, k, k_cache, k_scale, slots, a.target[0]);                               \
        else kv_write<T, C>(a, v, v_cache, v_scale, slots, a.target[1]);                                               \
    }
#define KV_WRITE_FROM(from, T)                                                                                         \
    KV_WRITE(from, T, f32, float)                                                                                      \
    KV_WRITE(from, T, f16, f16)                                                                                        \
    KV_WRITE(from, T, bf16, bf16)                                                                                      \
    KV_WRITE(from, T, i8, i8)                                                                                          \
    KV_WRITE(from, T, f8_e4m3, f8_e4m3)                                                                                \
    KV_WRITE(from, T, f8_e5m2, f8_e5m2)

KV_WRITE_FROM(f32, float)
KV_WRITE_FROM(f16, f16)
KV_WRITE_FROM(bf16, bf16)
