// Rotary positions: groups for each token, whose work-items take pairs and what passes of its heads in turn.

typedef struct {
    // Heads as rows: tokens outermost.
    Rows x, y;
    uint heads, dim, half_dim, offset;
    uint interleaved, wide_positions, table_rows;
    uint unused;
    ulong position_step;
    ulong cos_pitch, cos_step, sin_pitch, sin_step;
} RopeShape;

KERNEL(P(x), P(positions), P(cos_in), P(sin_in), P(y), RopeShape s) {
    const uint token = get_group_id(0);
    const ulong where = token * s.position_step;
    const long position = s.wide_positions ? AT(long, positions)[where] : (long)AT(int, positions)[where];
    // A position out of range gives NaN.
    const int known = position >= 0 && position < (long)s.table_rows;
    __global const float *cosines = AT(float, cos_in) + (known ? (ulong)position * s.cos_pitch : 0);
    __global const float *sines = AT(float, sin_in) + (known ? (ulong)position * s.sin_pitch : 0);
    // Pairs of a head that turn, and elements that pass.
    const uint pairs = s.half_dim, behind = s.offset + 2 * pairs, count = s.dim - pairs;
    for (uint i = get_group_id(1) * GROUP + get_local_id(0); i < s.heads * count; i += get_num_groups(1) * GROUP) {
        const uint row = token * s.heads + i / count, slot = i % count;
        const Row from = row_of(AT(uchar, x), &s.x, row), to = row_of(AT(uchar, y), &s.y, row);
        if (slot < pairs) {
            const uint first = s.offset + (s.interleaved ? 2 * slot : slot);
            const uint second = first + (s.interleaved ? 1 : pairs);
            const float c = known ? cosines[slot * s.cos_step] : NAN, d = known ? sines[slot * s.sin_step] : NAN;
            const float a = get(from, first), b = get(from, second);
            put(to, first, a * c - b * d);
            put(to, second, b * c + a * d);
        } else {
            const uint rest = slot - pairs, at = rest < s.offset ? rest : rest - s.offset + behind;
            put(to, at, get(from, at));
        }
    }
}
