// Weights into the tiles that products read, activations into rows that they can read, and the joining of partial sums.
#include "quant.cuh"

// A weight to be packed: rows of `row_bytes` bytes, and for codes of a byte `step` bytes between inputs.
struct Packing {
    u64 row_bytes, step, tile_bytes;
    u32 n, k, chunks, tiles;
    // As a product's.
    u32 tile_rows, half_rows, limit;
    // Xor'd into every code; whether NaN among e4m3 codes is looked for.
    u32 flip, taint, unused;
};

// The source of row r of a tile, or none.
DEVICE const u8* source(const Packing& p, const u8* from, u32 tile, u32 r) {
    const u32 base = tile * p.tile_rows + r % 8, row = base + r / 8 * p.half_rows;
    return base < p.limit && row < p.n ? from + row * p.row_bytes : nullptr;
}

// Every word of every tile: `word(tile, index)` is its value.
template <class F> DEVICE void each_word(const Packing& p, u8* to, F word) {
    const u64 words = p.tile_bytes / 4, all = words * p.tiles, step = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += step) {
        reinterpret_cast<u32*>(to)[i] = word((u32)(i / words), (u32)(i % words));
    }
}

// The inverse of nibble_place and byte_place: row and input of field e of a word of the codes.
struct Spot { u32 r, k; };
DEVICE Spot nibble_spot(u32 word, u32 e) {
    const u32 lane = word % 128 / 4, j = word % 4;
    return {lane / 4 + e % 2 * 8, word / 128 * 64 + j / 2 * 32 + lane % 4 * 8 + j % 2 * 4 + e % 4 / 2 * 2 + e / 4};
}
DEVICE Spot byte_spot(u32 word, u32 e) {
    const u32 lane = word % 128 / 4, j = word % 4;
    return {lane / 4 + j % 2 * 8, word / 128 * 32 + lane % 4 * 8 + j / 2 * 4 + e};
}
// Fields of 6-bit codes lie by halves of a block.
DEVICE Spot low_spot(u32 word, u32 e) {
    const u32 lane = word % 128 / 4, j = word % 4;
    return {lane / 4 + e % 2 * 8, word / 128 * 64 + j * 16 + lane % 4 * 4 + e % 4 / 2 * 2 + e / 4};
}
DEVICE Spot high_spot(u32 word, u32 e) {
    const u32 lane = word % 64 / 2, field = e % 8;
    return {lane / 4 + field % 2 * 8,
            word / 64 * 64 + word % 2 * 32 + field / 4 * 16 + lane % 4 * 4 + field % 4 / 2 * 2 + e / 8};
}

// Two bytes that need not lie on an even address.
DEVICE u32 pair_of(const u8* at) { return at == nullptr ? 0 : at[0] | (u32)at[1] << 8; }

// Scales of blocks of 32: for lane row g, blocks 0 to 3 of row g, then of row g + 8. `bytes` is the block's size.
DEVICE u32 block_scales(const Packing& p, const u8* from, u32 tile, u32 word, u32 bytes) {
    const u32 chunk = word / 32, g = word % 32 / 4, j = word % 4;
    const u8* row = source(p, from, tile, g + j / 2 * 8);
    u32 out = 0;
    for (u32 e = 0; e < 2; e++) {
        const u32 block = chunk * 4 + j % 2 * 2 + e;
        if (row != nullptr && block * 32 < p.k) out |= pair_of(row + (u64)block * bytes) << 16 * e;
    }
    return out;
}

KERNEL(256) quant_pack_q4_0(const u8* from, u8* to, Packing p) {
    take_turn();
    each_word(p, to, [&](u32 tile, u32 word) -> u32 {
        if (word >= p.chunks * 256) return block_scales(p, from, tile, word - p.chunks * 256, 18);
        u32 out = 0;
        for (u32 e = 0; e < 8; e++) {
            const Spot at = nibble_spot(word, e);
            const u8* row = source(p, from, tile, at.r);
            if (row == nullptr || at.k >= p.k) continue;
            const u32 byte = row[at.k / 32 * 18ull + 2 + at.k % 16];
            out |= (at.k % 32 < 16 ? byte & 15 : byte >> 4) << 4 * e;
        }
        return out;
    });
}

KERNEL(256) quant_pack_q8_0(const u8* from, u8* to, Packing p) {
    take_turn();
    each_word(p, to, [&](u32 tile, u32 word) -> u32 {
        if (word >= p.chunks * 512) return block_scales(p, from, tile, word - p.chunks * 512, 34);
        u32 out = 0;
        for (u32 e = 0; e < 4; e++) {
            const Spot at = byte_spot(word, e);
            const u8* row = source(p, from, tile, at.r);
            if (row != nullptr && at.k < p.k) out |= (u32)row[at.k / 32 * 34ull + 2 + at.k % 32] << 8 * e;
        }
        return out;
    });
}

KERNEL(256) quant_pack_q4_k(const u8* from, u8* to, Packing p) {
    take_turn();
    each_word(p, to, [&](u32 tile, u32 word) -> u32 {
        if (word >= p.chunks * 256) {
            const u32 at = word - p.chunks * 256;
            const u8* row = source(p, from, tile, at % 64 / 4);
            if (row == nullptr) return 0;
            const u8* head = row + at / 64 * 144ull + at % 4 * 4;
            return pair_of(head) | pair_of(head + 2) << 16;
        }
        u32 out = 0;
        for (u32 e = 0; e < 8; e++) {
            const Spot at = nibble_spot(word, e);
            const u8* row = source(p, from, tile, at.r);
            if (row == nullptr) continue;
            const u32 byte = row[at.k / 256 * 144ull + 16 + at.k % 256 / 64 * 32 + at.k % 32];
            out |= (at.k % 64 < 32 ? byte & 15 : byte >> 4) << 4 * e;
        }
        return out;
    });
}

KERNEL(256) quant_pack_q6_k(const u8* from, u8* to, Packing p) {
    take_turn();
    each_word(p, to, [&](u32 tile, u32 word) -> u32 {
        u32 out = 0;
        if (word < p.chunks * 256) {
            for (u32 e = 0; e < 8; e++) {
                const Spot at = low_spot(word, e);
                const u8* row = source(p, from, tile, at.r);
                if (row == nullptr) continue;
                const u32 byte = row[at.k / 256 * 210ull + at.k % 256 / 128 * 64 + at.k % 64];
                out |= (at.k % 128 < 64 ? byte & 15 : byte >> 4) << 4 * e;
            }
        } else if (word < p.chunks * 384) {
            for (u32 e = 0; e < 16; e++) {
                const Spot at = high_spot(word - p.chunks * 256, e);
                const u8* row = source(p, from, tile, at.r);
                if (row == nullptr) continue;
                const u32 byte = row[at.k / 256 * 210ull + 128 + at.k % 256 / 128 * 32 + at.k % 32];
                out |= (byte >> at.k % 128 / 32 * 2 & 3) << 2 * e;
            }
        } else if (word < p.chunks * 416) {
            const u32 at = word - p.chunks * 384;
            const u8* row = source(p, from, tile, at % 32 / 4 + at % 4 / 2 * 8);
            if (row == nullptr) return 0;
            const u8* scales = row + at / 64 * 210ull + 192 + at % 64 / 32 * 8 + at % 2 * 4;
            return pair_of(scales) | pair_of(scales + 2) << 16;
        } else {
            const u32 at = word - p.chunks * 416;
            for (u32 h = 0; h < 2; h++) {
                const u8* row = source(p, from, tile, at % 8 + 8 * h);
                if (row != nullptr) out |= pair_of(row + at / 8 * 210ull + 208) << 16 * h;
            }
        }
        return out;
    });
}

// Codes of 4 bits, two a byte.
KERNEL(256) quant_pack_codes4(const u8* from, u8* to, Packing p) {
    take_turn();
    each_word(p, to, [&](u32 tile, u32 word) -> u32 {
        u32 out = 0;
        for (u32 e = 0; e < 8; e++) {
            const Spot at = nibble_spot(word, e);
            const u8* row = source(p, from, tile, at.r);
            const u32 code = row == nullptr || at.k >= p.k ? 0 : row[at.k / 2] >> at.k % 2 * 4 & 15;
            out |= (code ^ p.flip) << 4 * e;
        }
        return out;
    });
}

// Codes of a byte, and where it is asked for a NaN for each row that holds one.
KERNEL(256) quant_pack_codes8(const u8* from, u8* to, Packing p) {
    take_turn();
    each_word(p, to, [&](u32 tile, u32 word) -> u32 {
        u32 out = 0;
        if (word >= p.chunks * 512) {
            const u8* row = source(p, from, tile, word - p.chunks * 512);
            for (u32 k = 0; row != nullptr && k < p.k; k++) {
                if ((row[k * p.step] & 0x7f) == 0x7f) out = 0x7fc00000u;
            }
            return out;
        }
        for (u32 e = 0; e < 4; e++) {
            const Spot at = byte_spot(word, e);
            const u8* row = source(p, from, tile, at.r);
            const u32 code = row == nullptr || at.k >= p.k ? 0 : row[at.k * p.step];
            out |= ((code ^ p.flip) & 0xff) << 8 * e;
        }
        return out;
    });
}

// Rows of activations to be laid end to end, `chunks` chunks each, zeros behind their inputs. Strides are elements.
struct Staging {
    u64 row, step;
    u32 m, k, chunks;
};

template <class T, class F> DEVICE void each_input(const Staging& p, const T* a, F place) {
    const u64 inputs = (u64)p.chunks * CHUNK, all = inputs * p.m, step = (u64)gridDim.x * blockDim.x;
    for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i < all; i += step) {
        const u64 m = i / inputs, k = i % inputs;
        place(i, k < p.k ? a[m * p.row + k * p.step] : T{});
    }
}

KERNEL(256) quant_stage_8(const u8* a, u8* to, Staging p) {
    take_turn();
    each_input(p, a, [&](u64 i, u8 x) { to[i] = x; });
}
KERNEL(256) quant_stage_16(const u16* a, u16* to, Staging p) {
    take_turn();
    each_input(p, a, [&](u64 i, u16 x) { to[i] = x; });
}
// An f32 as three bf16 that hold it: its highest bits; 2^8 times the highest of the rest; 2^16 times the rest. So
// scaled, none is below what bf16 reaches. m rows of each, one after the other. What is no finite number is the first
// alone.
KERNEL(256) quant_stage_f32(const float* a, u16* to, Staging p) {
    take_turn();
    const u64 plane = (u64)p.chunks * CHUNK * p.m;
    each_input(p, a, [&](u64 i, float x) {
        const bool finite = (bits_of(x) & 0x7f800000u) != 0x7f800000u;
        const u32 high = is_nan(x) ? 0x7fc00000u : bits_of(x) & 0xffff0000u;
        const float rest = finite ? (x - float_of(high)) * 256.0f : 0.0f;
        const u32 middle = bits_of(rest) & 0xffff0000u;
        to[i] = (u16)(high >> 16);
        to[plane + i] = (u16)(middle >> 16);
        to[2 * plane + i] = (u16)(bits_of((rest - float_of(middle)) * 256.0f) >> 16);
    });
}
