// Products of one a in one launch: up to three, each with blocks of its own. With silu_mul of two weights there is one
// product, whose gate is the first weight and whose up half is the second.
#pragma once
#include "vendor.cuh"

// What all of them share, and what each has of its own, which is zero in what they share. The host writes it field by field.
template <class P, class O> struct Several {
    P shared;
    O own[3];
    u32 start[2];  // the first block of the second product, and of the third; behind the last block where there is none
    u32 gated;     // whether the second weight is the up half of the first
    u32 unused;
};

// The product that a block works for, and which of that product's blocks it is.
template <class S> DEVICE u32 product_of(const S& all) {
    return (u32)(blockIdx.x >= all.start[0]) + (u32)(blockIdx.x >= all.start[1]);
}
template <class S> DEVICE u32 block_of(const S& all, u32 product) {
    return product == 0 ? blockIdx.x : blockIdx.x - all.start[product - 1];
}

// One of three addresses, with no place in memory for all of them.
template <class T> DEVICE T* pick(u32 i, T* const* all) { return i == 0 ? all[0] : i == 1 ? all[1] : all[2]; }
