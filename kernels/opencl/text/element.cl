// Elements of the dtype that T names, which the compiler knows.
#ifdef T
#define LOAD(base, at) load_as((__global const uchar *)(base), T, at)
#define STORE(base, at, x) store_as((__global uchar *)(base), T, at, x)
#define SIZE (T == F32 ? 4 : 2)
#endif
