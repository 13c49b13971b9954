// The part of cuBLASLt that products of matrices need: descriptions, one algorithm, and plain loops in a stream's queue.
//
// It holds to what the library's manual says of sizes, distances and types, and refuses what it does not know, so that a
// wrong description is an answer and not a wrong result.
#include <cstring>

#include "card.h"

#define QIAO_SIMT 1
#include "vendor.cuh"

using namespace card;

namespace {

enum Status { SUCCESS = 0, NOT_INITIALISED = 1, ALLOC_FAILED = 3, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Type : uint32_t { R_32F = 0, R_16F = 2, R_16BF = 14 };
constexpr uint32_t COMPUTE_32F = 68, OP_N = 0, OP_T = 1;
// What the algorithm asks for, and how one knows it.
constexpr size_t WORKSPACE = 4096;
constexpr uint64_t ALGORITHM = 0x71616f;

struct Handle {
    Context* context;
};
struct Product {
    uint32_t transposed[2] = {OP_N, OP_N};
};
struct Layout {
    uint32_t type;
    uint64_t rows, columns;
    int64_t distance;
    // Bytes from the first element to the end of the last.
    size_t bytes() const { return ((columns - 1) * distance + rows) * (type == R_32F ? 4 : 2); }
};
struct Preference {
    uint64_t workspace = 0;
};
struct Algorithm {
    uint64_t data[8];
};
struct Found {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

float get(uint32_t type, uint64_t base, size_t i) {
    if (type == R_32F) return reinterpret_cast<const float*>(base)[i];
    if (type == R_16F) return to_f32(reinterpret_cast<const f16*>(base)[i]);
    return to_f32(reinterpret_cast<const bf16*>(base)[i]);
}
void put(uint32_t type, uint64_t base, size_t i, float x) {
    if (type == R_32F) reinterpret_cast<float*>(base)[i] = x;
    else if (type == R_16F) reinterpret_cast<f16*>(base)[i] = from_f32<f16>(x);
    else reinterpret_cast<bf16*>(base)[i] = from_f32<bf16>(x);
}

struct Call {
    Product product;
    Layout a, b, c, d;
    uint64_t at_a, at_b, at_c, at_d;
    float alpha, beta;
};

// d = alpha op(a) op(b) + beta c, columns first.
void run(const Call& s) {
    const bool turn_a = s.product.transposed[0] == OP_T, turn_b = s.product.transposed[1] == OP_T;
    const size_t depth = turn_a ? s.a.rows : s.a.columns;
    for (size_t j = 0; j < s.d.columns; j++) {
        for (size_t i = 0; i < s.d.rows; i++) {
            float sum = 0.0f;
            for (size_t k = 0; k < depth; k++) {
                const float x = get(s.a.type, s.at_a, turn_a ? i * s.a.distance + k : k * s.a.distance + i);
                const float y = get(s.b.type, s.at_b, turn_b ? k * s.b.distance + j : j * s.b.distance + k);
                sum = fmaf(x, y, sum);
            }
            sum *= s.alpha;
            if (s.beta != 0.0f) sum += s.beta * get(s.c.type, s.at_c, j * s.c.distance + i);
            put(s.d.type, s.at_d, j * s.d.distance + i, sum);
        }
    }
}

// Whether the sizes of op(a), op(b), c and d meet and the types are ones that are multiplied.
bool meets(const Product& p, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    const bool turn_a = p.transposed[0] == OP_T, turn_b = p.transposed[1] == OP_T;
    const uint64_t rows = turn_a ? a.columns : a.rows, depth = turn_a ? a.rows : a.columns;
    const uint64_t columns = turn_b ? b.rows : b.columns, other = turn_b ? b.columns : b.rows;
    const bool sizes = depth == other && d.rows == rows && d.columns == columns && c.rows == rows && c.columns == columns;
    return sizes && a.type == b.type && c.type == d.type && (d.type == a.type || d.type == R_32F);
}

template <class T> int destroy(T* what) {
    delete what;
    return SUCCESS;
}

}  // namespace

EXPORT int cublasLtCreate(Handle** out) {
    Guard guard("cublasLtCreate");
    Context* context = nullptr;
    if (guard.refuse != CUDA_SUCCESS || current(context) != CUDA_SUCCESS) return NOT_INITIALISED;
    *out = new Handle{context};
    return SUCCESS;
}
EXPORT int cublasLtDestroy(Handle* handle) { return destroy(handle); }

EXPORT int cublasLtMatmulDescCreate(Product** out, uint32_t compute, uint32_t scale) {
    if (compute != COMPUTE_32F || scale != R_32F) return NOT_SUPPORTED;
    *out = new Product;
    return SUCCESS;
}
EXPORT int cublasLtMatmulDescSetAttribute(Product* product, uint32_t attribute, const void* value, size_t bytes) {
    // 3 and 4 say what is done to a and b first.
    if (attribute < 3 || attribute > 4 || bytes != 4) return INVALID_VALUE;
    uint32_t word;
    memcpy(&word, value, 4);
    if (word > OP_T) return INVALID_VALUE;
    product->transposed[attribute - 3] = word;
    return SUCCESS;
}
EXPORT int cublasLtMatmulDescDestroy(Product* product) { return destroy(product); }

EXPORT int cublasLtMatrixLayoutCreate(Layout** out, uint32_t type, uint64_t rows, uint64_t columns, int64_t distance) {
    if (type != R_32F && type != R_16F && type != R_16BF) return NOT_SUPPORTED;
    if (rows == 0 || columns == 0 || distance < static_cast<int64_t>(rows)) return INVALID_VALUE;
    *out = new Layout{type, rows, columns, distance};
    return SUCCESS;
}
EXPORT int cublasLtMatrixLayoutDestroy(Layout* layout) { return destroy(layout); }

EXPORT int cublasLtMatmulPreferenceCreate(Preference** out) {
    *out = new Preference;
    return SUCCESS;
}
EXPORT int cublasLtMatmulPreferenceSetAttribute(Preference* preference, uint32_t attribute, const void* value,
                                                size_t bytes) {
    // 1 is the most workspace, 3 how parts of K may be added, 5 to 8 what addresses are multiples of.
    if (attribute == 1 && bytes == 8) {
        memcpy(&preference->workspace, value, 8);
        return SUCCESS;
    }
    uint32_t word;
    if (bytes != 4) return INVALID_VALUE;
    memcpy(&word, value, 4);
    const bool known = (attribute == 3 && word < 8) || (attribute >= 5 && attribute <= 8 && word % 16 == 0 && word != 0);
    return known ? SUCCESS : INVALID_VALUE;
}
EXPORT int cublasLtMatmulPreferenceDestroy(Preference* preference) { return destroy(preference); }

EXPORT size_t cublasLtGetVersion() {
    return 130901;
}

EXPORT int cublasLtMatmulAlgoGetHeuristic(Handle* handle, Product* product, Layout* a, Layout* b, Layout* c, Layout* d,
                                          Preference* preference, int asked, Found* found, int* count) {
    Guard guard("cublasLtMatmulAlgoGetHeuristic");
    *count = 0;
    if (guard.refuse != CUDA_SUCCESS) return NOT_SUPPORTED;
    if (handle == nullptr || asked < 1 || !meets(*product, *a, *b, *c, *d)) return INVALID_VALUE;
    if (preference->workspace < WORKSPACE) return NOT_SUPPORTED;
    // A result may be there and say itself that it is none.
    Guard result("result of cublasLtMatmulAlgoGetHeuristic");
    *found = {{{ALGORITHM}}, WORKSPACE, result.refuse == CUDA_SUCCESS ? SUCCESS : NOT_SUPPORTED, 1.0f, {}};
    *count = 1;
    return SUCCESS;
}

EXPORT int cublasLtMatmul(Handle* handle, Product* product, const float* alpha, uint64_t at_a, Layout* a, uint64_t at_b,
                          Layout* b, const float* beta, uint64_t at_c, Layout* c, uint64_t at_d, Layout* d,
                          const Algorithm* algorithm, uint64_t workspace, size_t workspace_bytes, CUstream stream) {
    Guard guard("cublasLtMatmul");
    Context* context = nullptr;
    if (guard.refuse != CUDA_SUCCESS || current(context) != CUDA_SUCCESS) return EXECUTION_FAILED;
    const auto queue = stream_of(stream, *context);
    if (!queue || handle->context != context) return INVALID_VALUE;
    if (!meets(*product, *a, *b, *c, *d) || algorithm->data[0] != ALGORITHM) return INVALID_VALUE;
    const std::pair<uint64_t, size_t> operands[] = {
        {at_a, a->bytes()}, {at_b, b->bytes()}, {at_c, c->bytes()}, {at_d, d->bytes()}, {workspace, WORKSPACE}};
    for (const auto& [at, bytes] : operands) {
        if (at % 16 == 0 && memory_of(at, bytes) != nullptr) continue;
        report("cublasLtMatmul: an operand does not lie in memory, or not on a multiple of 16");
        return INVALID_VALUE;
    }
    if (workspace_bytes < WORKSPACE) return INVALID_VALUE;
    const Call call{*product, *a, *b, *c, *d, at_a, at_b, at_c, at_d, *alpha, *beta};
    const auto work = [call, workspace] {
        memset(reinterpret_cast<void*>(workspace), 0xff, WORKSPACE);
        run(call);
        return check_zones("cublasLtMatmul");
    };
    return enqueue(*queue, work) == CUDA_SUCCESS ? SUCCESS : EXECUTION_FAILED;
}
