// Operators that move elements without looking at them: as many bytes at a time as every address and every step allows.

// A pattern of eight bytes, repeated or cut.
INLINE UNIT pattern_of(ulong pattern) {
    const ulong2 twice = pattern;
    return *(const UNIT *)&twice;
}

#ifdef MOVE
KERNEL(P(x_in), P(y_out), Walk walk) {
    __global const UNIT *x = AT(UNIT, x_in);
    __global UNIT *y = AT(UNIT, y_out);
    if (walk.rank == 1 && walk.steps[0][0] == 1 && walk.steps[1][0] == 1) {
        EACH(i, walk.count) y[i] = x[i];
    } else {
        EACH(i, walk.count) {
            const ulong3 at = walk_to(&walk, i);
            y[at.y] = x[at.x];
        }
    }
}
#endif

#ifdef FILL
KERNEL(P(y_out), Walk walk, ulong pattern) {
    __global UNIT *y = AT(UNIT, y_out);
    const UNIT value = pattern_of(pattern);
    EACH(i, walk.count) y[walk_to(&walk, i).x] = value;
}
#endif

#ifdef GATHER
// The walk steps through a row of the table, through the ids, and through the result.
KERNEL(P(table_in), P(ids), P(y_out), Walk walk, ulong rows, ulong row_step, uint wide, ulong missing) {
    __global const UNIT *table = AT(UNIT, table_in);
    __global UNIT *y = AT(UNIT, y_out);
    const UNIT none = pattern_of(missing);
    EACH(i, walk.count) {
        const ulong3 at = walk_to(&walk, i);
        const ulong id = id_at(AT(uchar, ids), wide, at.y);
        if (id < rows) y[at.z] = table[id * row_step + at.x];
        else y[at.z] = none;
    }
}
#endif
