// Rows of keys and values go to their slots of a cache.
//
// Where a cache has scales, the row's largest magnitude sets the scale and each element becomes the code of what remains.

// Keys or values. Strides count elements.
typedef struct {
    ulong rows_stride[3];   // token, head, element
    ulong cache_stride[3];  // block, head, token
    ulong scale_stride[3];  // block, head, token
    uint size;              // elements of a row
    uint whole;
} KvTarget;
typedef struct {
    KvTarget target[2];
    ulong slots_stride;
    ulong capacity;
    uint tokens, heads, block_size, wide;
} KvWrite;

// The numbers of codes beside those of activations.
#define CODES_I8 3
#define CODES_E4M3 4
#define CODES_E5M2 5
#if FROM == F32
#define ELEMENT uint
#else
#define ELEMENT ushort
#endif
#define LARGEST (TO == CODES_I8 ? 127.0f : 448.0f)

INLINE void put_cache(__global uchar *cache, ulong at, float x) {
#if TO == CODES_I8
    ((__global char *)cache)[at] = convert_char_sat_rte(x);
#elif TO == CODES_E4M3
    cache[at] = (uchar)encode(format_of(AS_F8E4M3), of_f32(x));
#elif TO == CODES_E5M2
    cache[at] = (uchar)encode(format_of(AS_F8E5M2), of_f32(x));
#else
    store_as(cache, TO, at, x);
#endif
}

KERNEL(P(k), P(v), P(slots), P(k_cache), P(v_cache), P(k_scale), P(v_scale), KvWrite a) {
    __local uint part[GROUP];
    const uint values = get_group_id(1);
    const KvTarget to = a.target[values];
    __global const uchar *rows = values ? AT(uchar, v) : AT(uchar, k);
    __global uchar *cache = values ? AT(uchar, v_cache) : AT(uchar, k_cache);
    __global float *scales = values ? AT(float, v_scale) : AT(float, k_scale);
    const int has_scale = TO >= CODES_I8 && (values ? GIVEN(v_scale) : GIVEN(k_scale));
    EACH_ROW(index) {
        const int there = index < (ulong)a.tokens * a.heads;
        const uint token = there ? index / a.heads : 0, head = there ? index % a.heads : 0;
        const ulong place = token * a.slots_stride;
        const long slot = a.wide ? AT(long, slots)[place] : (long)AT(int, slots)[place];
        const int live = there && slot >= 0 && (ulong)slot < a.capacity;
        const uint n = live ? to.size : 0;
        const ulong block = live ? (ulong)slot / a.block_size : 0, at = live ? (ulong)slot % a.block_size : 0;
        const ulong from = token * to.rows_stride[0] + head * to.rows_stride[1];
        const ulong into = block * to.cache_stride[0] + head * to.cache_stride[1] + at * to.cache_stride[2];
#if FROM == TO
        // Bit for bit.
        for (uint i = LANE; i < n; i += TEAM)
            ((__global ELEMENT *)cache)[into + i] = ((__global const ELEMENT *)rows)[from + i * to.rows_stride[2]];
#else
        float factor = 1.0f;
#if TO >= CODES_I8
        // The bits of magnitudes are in order, NaN above all.
        uint most = 0;
        for (uint i = LANE; i < n; i += TEAM)
            most = max(most, as_uint(load_as(rows, FROM, from + i * to.rows_stride[2])) & 0x7fffffffu);
        most = team_most(part, most);
        if (has_scale) factor = as_float(most) / LARGEST;
        if (has_scale && live && LANE == 0)
            scales[block * to.scale_stride[0] + head * to.scale_stride[1] + at * to.scale_stride[2]] = factor;
#endif
        for (uint i = LANE; i < n; i += TEAM) {
            const float x = load_as(rows, FROM, from + i * to.rows_stride[2]);
            put_cache(cache, into + i, factor == 0.0f ? 0.0f : factor == 1.0f ? x : x / factor);
        }
#endif
    }
}
