// What the kernels' text finds in place of a device when it is compiled for the processor.
//
// Each thread of a block is a fiber. A fiber runs until it meets a barrier or an exchange of its group of 32, and goes on
// when all others have come; who never comes is an error of the launch.
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#ifndef SIMT_WARP
#define SIMT_WARP 32
#endif

// Stays in the preprocessed text, so that the symbols and their threads can be read there.
#define SIMT_KERNEL(threads) [[simt::kernel(threads)]]

#define threadIdx (simt::here->thread)
#define blockIdx (simt::here->block)
#define blockDim (simt::here->threads)
#define gridDim (simt::here->blocks)

namespace simt {

// Words that a lane can show its group at once.
constexpr unsigned WORDS = 8;

struct Dim {
    unsigned x, y, z;
};

// The indices of the thread that runs.
struct Here {
    Dim thread, block, threads, blocks;
};
extern __thread Here* here __attribute__((tls_model("initial-exec")));

// Waits for every thread of the block that has not ended.
void barrier();

// Shows `count` words to the group of 32 and waits for all its lanes; word w of lane l is at [l * WORDS + w] until the lane's
// next exchange but one.
const uint32_t* gather(const uint32_t* words, unsigned count);

// The array of the block that this tag stands for.
void* shared_array(const void* tag, size_t bytes, size_t align);

// The launch's dynamic shared bytes.
void* dynamic_shared();

// Copies of 16 bytes that happen when they are waited for; until then the target holds rubbish.
void copy_later(void* shared, const void* global, bool valid);
void copy_close();
void copy_wait(unsigned pending);

template <class To, class From> inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "casts bits to as many");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}

}  // namespace simt

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
template <class T> inline T min(T a, T b) { return b < a ? b : a; }
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
