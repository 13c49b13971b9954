// How kernels that work row by row reach their operands: any strides and dtypes, f32 in registers, and a team of work-items for
// each row.
//
// A group has ROWS rows. Its work-items share them as teams; where a group is one work-item, it takes them in turn. Rows of the
// dtype that T names are dense, and are read eight elements at a time; without T rows have any dtype and any step.

#if GROUP == 1
#define TEAM 1
#define EACH_ROW(row) for (uint row = (uint)get_group_id(0) * ROWS; row < ((uint)get_group_id(0) + 1) * ROWS; row++)
#else
#define TEAM (GROUP / ROWS)
#define EACH_ROW(row) const uint row = (uint)get_group_id(0) * ROWS + (uint)get_local_id(0) / TEAM;
#endif
#define LANE ((uint)get_local_id(0) % TEAM)

// A tensor's rows as launches tell them: `step` elements between neighbours of a row; the outer axes, outermost first.
typedef struct {
    uint dtype, axes;
    ulong step;
    uint size[8];
    ulong stride[8];
} Rows;

// The first element of a row, in elements from the tensor's first.
INLINE ulong row_at(const Rows *rows, uint row) {
    ulong offset = 0;
    for (uint axis = rows->axes; axis > 0; axis--) {
        offset += (row % rows->size[axis - 1]) * rows->stride[axis - 1];
        row /= rows->size[axis - 1];
    }
    return offset;
}

// A row.
typedef struct {
    __global uchar *base;
    ulong at, step;
    uint dtype;
} Row;

INLINE Row any_row(__global uchar *base, const Rows *rows, uint r) {
    return (Row){base, row_at(rows, r), rows->step, rows->dtype};
}
INLINE float get(Row row, uint i) { return load_as(row.base, row.dtype, row.at + i * row.step); }
INLINE void put(Row row, uint i, float v) { store_as(row.base, row.dtype, row.at + i * row.step, v); }

INLINE float8 load8_as(__global const uchar *base, uint dtype, ulong at) {
    if (dtype == F32) return vload8(0, (__global const float *)base + at);
    if (dtype == F16) return vload_half8(0, (__global const half *)base + at);
    return as_float8(convert_uint8(vload8(0, (__global const ushort *)base + at)) << 16);
}
INLINE uint8 bf16_of(float8 v) {
    const uint8 bits = as_uint8(v);
    return select((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16, (bits >> 16) | 0x40u, isnan(v));
}
INLINE void store8_as(__global uchar *base, uint dtype, ulong at, float8 v) {
    if (dtype == F32) vstore8(v, 0, (__global float *)base + at);
    else if (dtype == F16) vstore_half8_rte(v, 0, (__global half *)base + at);
    else vstore8(convert_ushort8(bf16_of(v)), 0, (__global ushort *)base + at);
}

#ifdef T
// The first elements of a row, which are read and written eight at a time; the others follow one by one.
#define WHOLE(n) ((n) & ~7u)
INLINE Row row_of(__global uchar *base, const Rows *rows, uint r) { return (Row){base, row_at(rows, r), 1, T}; }
INLINE float8 get8(Row row, uint i) { return load8_as(row.base, T, row.at + i); }
INLINE void put8(Row row, uint i, float8 v) { store8_as(row.base, T, row.at + i, v); }
#else
#define WHOLE(n) 0u
INLINE Row row_of(__global uchar *base, const Rows *rows, uint r) { return any_row(base, rows, r); }
INLINE float8 get8(Row row, uint i) { return 0.0f; }
INLINE void put8(Row row, uint i, float8 v) {}
#endif
#define EIGHTS(i, n) for (uint i = LANE * 8; i < WHOLE(n); i += TEAM * 8)
#define ONES(i, n) for (uint i = WHOLE(n) + LANE; i < (n); i += TEAM)

INLINE float8 round8_as(uint dtype, float8 v) {
    if (dtype == F32) return v;
    if (dtype == BF16) return as_float8(bf16_of(v) << 16);
    ushort8 bits;
    vstore_half8_rte(v, 0, (half *)&bits);
    return vload_half8(0, (const half *)&bits);
}

INLINE float sum8(float8 v) {
    const float4 four = v.lo + v.hi;
    const float2 two = four.lo + four.hi;
    return two.x + two.y;
}

// One value of each work-item of a team joined; every one of the team gets the same bits. All of the group come.
#if TEAM == 1
#define JOIN(name, V, join)                                                                                            \
    INLINE V name(__local V *part, V v) { return v; }
#else
#define JOIN(name, V, join)                                                                                            \
    INLINE V name(__local V *part, V v) {                                                                              \
        __local V *mine = part + get_local_id(0);                                                                      \
        MEET;                                                                                                          \
        *mine = v;                                                                                                     \
        for (uint apart = TEAM / 2; apart > 0; apart /= 2) {                                                           \
            MEET;                                                                                                      \
            const V a = *mine, b = LANE < apart ? mine[apart] : a;                                                     \
            if (LANE < apart) *mine = join;                                                                            \
        }                                                                                                              \
        MEET;                                                                                                          \
        return part[get_local_id(0) / TEAM * TEAM];                                                                    \
    }
#endif

// NaN is larger than all.
INLINE float larger(float a, float b) { return isnan(a) || a > b ? a : b; }

#if defined(HAS_SUBGROUPS) && TEAM > 1 && ROWS == 1
#ifdef cl_khr_subgroups
#pragma OPENCL EXTENSION cl_khr_subgroups : enable
#endif
// The same by sub-groups, each of which adds up its own.
INLINE float team_sum(__local float *part, float v) {
    v = sub_group_reduce_add(v);
    MEET;
    if (get_sub_group_local_id() == 0) part[get_sub_group_id()] = v;
    MEET;
    float sum = 0.0f;
    for (uint i = 0; i < get_num_sub_groups(); i++) sum += part[i];
    return sum;
}
#else
JOIN(team_sum, float, a + b)
#endif
JOIN(team_larger, float, larger(a, b))
JOIN(team_most, uint, max(a, b))
JOIN(team_first, ulong, max(a, b))
JOIN(team_total, ulong, a + b)
