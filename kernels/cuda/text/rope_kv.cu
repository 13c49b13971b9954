// Queries and keys are turned, and keys and values go to their slots of the cache, which holds what they are: blocks for each
// token, whose threads take slots of the queries, of the keys and of the values in turn.
#include "rope.cuh"

struct RopeKvShape {
    // Of the queries; keys turn alike.
    RopeShape rope;
    Rows k, v;
    // Elements between blocks, heads and tokens.
    u64 k_cache[3], v_cache[3];
    u64 slot_step, capacity;
    u32 kv_heads, v_dim, block_size, wide_slots;
};

// Where a head of the token lies in a cache.
template <class T> DEVICE T* in_cache(T* cache, const u64* stride, u64 slot, u32 block_size, u32 head) {
    return cache + slot / block_size * stride[0] + head * stride[1] + slot % block_size * stride[2];
}

template <class T>
DEVICE void rope_kv(const void* q, const void* k, const void* v, const void* positions, const float* cos,
                    const float* sin, const void* slots, void* q_to, T* k_cache, T* v_cache, const RopeKvShape& s) {
    typedef Dense<T> A;
    const u32 token = blockIdx.x;
    const Angles angles(positions, cos, sin, token, s.rope);
    const Slots<A> head(s.rope);
    const u64 at = token * s.slot_step;
    const i64 slot = s.wide_slots ? static_cast<const i64*>(slots)[at] : (i64) static_cast<const i32*>(slots)[at];
    const bool kept = slot >= 0 && (u64)slot < s.capacity;
    const u32 v_slots = (s.v_dim + A::VEC - 1) / A::VEC;
    const u32 queries = s.rope.heads * head.count, keys = kept ? s.kv_heads * head.count : 0;
    const u32 all = queries + keys + (kept ? s.kv_heads * v_slots : 0);
    for (u32 i = blockIdx.y * blockDim.x + threadIdx.x; i < all; i += gridDim.y * blockDim.x) {
        if (i < queries) {
            const u32 row = token * s.rope.heads + i / head.count;
            head.go(i % head.count, A(q, s.rope.x, row), A(q_to, s.rope.y, row), angles, s.rope);
        } else if (i < queries + keys) {
            const u32 h = (i - queries) / head.count, j = (i - queries) % head.count;
            const A to(in_cache(k_cache, s.k_cache, slot, s.block_size, h));
            head.go(j, A(k, s.k, token * s.kv_heads + h), to, angles, s.rope);
        } else {
            const u32 h = (i - queries - keys) / v_slots, j = (i - queries - keys) % v_slots * A::VEC;
            const A from(v, s.v, token * s.kv_heads + h), to(in_cache(v_cache, s.v_cache, slot, s.block_size, h));
            to.put(j, s.v_dim, from.fetch(j, s.v_dim));
        }
    }
}

#define ROPE_KV(name, T)                                                                                               \
    KERNEL(128)                                                                                                        \
    rope_kv_##name(const void* q, const void* k, const void* v, const void* positions, const float* cos,               \
                   const float* sin, const void* slots, void* q_to, T* k_cache, T* v_cache, RopeKvShape s) {           \
        take_turn();                                                                                                   \
        rope_kv<T>(q, k, v, positions, cos, sin, slots, q_to, k_cache, v_cache, s);                                    \
    }

ROPE_KV(f32, float)
ROPE_KV(f16, f16)
ROPE_KV(bf16, bf16)
