// Elements of strided tensors, one after the other.

// So many elements, the innermost axis first; up to three tensors step along the axes, in elements.
typedef struct {
    ulong count;
    ulong dims[8];
    ulong steps[3][8];
    uint rank, pad;
} Walk;

// Where element `i` lies in each tensor; those behind the last take no step.
INLINE ulong3 walk_to(const Walk *walk, ulong i) {
    ulong3 at = 0;
    if (walk->count <= 0xffffffffu) {
        uint rest = (uint)i;
        for (uint axis = 0; axis < walk->rank; axis++) {
            const uint dim = (uint)walk->dims[axis], outer = rest / dim, index = rest - outer * dim;
            at += (ulong)index * (ulong3)(walk->steps[0][axis], walk->steps[1][axis], walk->steps[2][axis]);
            rest = outer;
        }
    } else {
        ulong rest = i;
        for (uint axis = 0; axis < walk->rank; axis++) {
            const ulong outer = rest / walk->dims[axis], index = rest - outer * walk->dims[axis];
            at += index * (ulong3)(walk->steps[0][axis], walk->steps[1][axis], walk->steps[2][axis]);
            rest = outer;
        }
    }
    return at;
}

// Every element falls to one work-item of the launch.
#define EACH(i, count) for (ulong i = get_global_id(0); i < (count); i += get_global_size(0))

// The id of an entry; one that is negative is larger than any row.
INLINE ulong id_at(__global const uchar *ids, uint wide, ulong at) {
    return wide ? (ulong)((__global const long *)ids)[at] : (ulong)(long)((__global const int *)ids)[at];
}
