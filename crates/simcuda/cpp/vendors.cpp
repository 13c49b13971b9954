// What other vendors' calls have otherwise than CUDA's; the rest of them are names only.
#include <cstdlib>
#include <cstring>

#include "card.h"

using namespace card;

extern "C" CUresult cuDeviceGetAttribute(int* value, int which, CUdevice device);
extern "C" CUresult cuDeviceGetName(char* name, int bytes, CUdevice device);
extern "C" CUresult cuGetErrorName(CUresult result, const char** name);
extern "C" CUresult cuGetErrorString(CUresult result, const char** text);
extern "C" CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long flags);
extern "C" CUresult cuMemsetD8Async(CUdeviceptr at, unsigned char value, size_t count, CUstream stream);

namespace card {

const Family& family() {
    // Name, card, architecture, capability, lanes of a warp, bytes of shared memory that need no asking.
    static const Family all[] = {
        {"cuda", "Simulated NVIDIA card", "", 90, 32, DEFAULT_SHARED},
        {"hip", "Simulated Hygon card", "gfx906", 90, 64, 64 * 1024},
        {"musa", "Simulated MTT card", "mp_31", 31, 32, DEFAULT_SHARED},
        {"maca", "Simulated MetaX card", "xcore1000", 100, 64, 64 * 1024},
        {"corex", "Simulated Iluvatar card", "ivcore11", 71, 64, DEFAULT_SHARED},
    };
    static const Family& chosen = []() -> const Family& {
        const char* name = getenv("QIAO_SIMCUDA_FAMILY");
        for (const Family& one : all)
            if (name != nullptr && strcmp(name, one.name) == 0) return one;
        return all[0];
    }();
    return chosen;
}

}  // namespace card

// Words are the answer.
EXPORT const char* simvendor_error_name(CUresult result) {
    const char* name = nullptr;
    cuGetErrorName(result, &name);
    return name;
}
EXPORT const char* simvendor_error_text(CUresult result) {
    const char* text = nullptr;
    cuGetErrorString(result, &text);
    return text;
}

// HIP's numbers of attributes.
EXPORT CUresult simhip_attribute(int* value, int which, CUdevice device) {
    static const std::pair<int, int> numbers[] = {{23, 75}, {61, 76}, {63, 16}, {87, 10}, {60, 36}, {59, 37}, {74, 97}};
    for (const auto& [hip, cuda] : numbers)
        if (which == hip) return cuDeviceGetAttribute(value, cuda, device);
    return CUDA_ERROR_INVALID_VALUE;
}

// The properties, of which the name and the architecture are filled in, where HIP 5 has them.
EXPORT CUresult simhip_properties(char* out, int device) {
    constexpr size_t NAME = 256, ARCHITECTURE = 640, BYTES = 792;
    memset(out, 0, BYTES);
    if (CUresult why = cuDeviceGetName(out, NAME, device)) return why;
    strcpy(out + ARCHITECTURE, family().arch);
    strcat(out + ARCHITECTURE, ":sramecc+:xnack-");
    return CUDA_SUCCESS;
}

// The value is an int.
EXPORT CUresult simmaca_memset(CUdeviceptr at, int value, size_t bytes, CUstream stream) {
    return cuMemsetD8Async(at, static_cast<unsigned char>(value), bytes, stream);
}

// CUDA 11's arguments.
EXPORT CUresult simmaca_instantiate(CUgraphExec* executable, CUgraph graph, CUgraphNode*, char*, size_t) {
    return cuGraphInstantiateWithFlags(executable, graph, 0);
}
