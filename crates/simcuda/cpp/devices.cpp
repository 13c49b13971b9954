// Devices, their attributes, contexts, and results by name.
#include <cstdio>
#include <cstring>

#include "card.h"

using namespace card;

namespace {

bool is_device(int ordinal) { return ordinal >= 0 && static_cast<size_t>(ordinal) < state().devices.size(); }

int attribute(int which) {
    const Knobs& k = state().knobs;
    switch (which) {
        case 1: return 1024;                                 // threads of a block
        case 2: case 3: return 1024;                         // block along x and y
        case 4: return 64;                                   // and z
        case 5: return 0x7fffffff;                           // grid along x
        case 6: case 7: return 65535;                        // and y and z
        case 8: return DEFAULT_SHARED;                       // shared bytes of a block
        case 9: return 65536;                                // constant bytes
        case 10: return family().warp;
        case 12: case 82: return 65536;                      // registers of a block, of a multiprocessor
        case 13: return 1'755'000;                           // kHz
        case 14: return 512;                                 // texture alignment
        case 16: return static_cast<int>(k.processors);
        case 31: case 19: case 41: case 78: return 1;        // concurrent kernels, host mapping, unified addresses, priorities
        case 36: return 2'619'000;                           // memory kHz
        case 37: return 5120;                                // memory bus bits
        case 38: return 50 << 20;                            // L2 bytes
        case 39: return 2048;                                // threads of a multiprocessor
        case 40: return 3;                                   // copy engines
        case 75: return static_cast<int>(k.arch / 10);
        case 76: return static_cast<int>(k.arch % 10);
        case 81: return static_cast<int>(shared_optin() + 1024);
        case 97: return static_cast<int>(shared_optin());
        case 106: return 32;                                 // blocks of a multiprocessor
        case 111: return 1024;                               // shared bytes that the system keeps of a block
        case 115: return 1;                                  // memory pools
        default: return 0;
    }
}

}  // namespace

namespace card {

uint64_t shared_optin() {
    const Knobs& k = state().knobs;
    if (k.shared != 0) return k.shared;
    if (family().arch[0] != 0) return 65536;
    return k.arch == 90 ? 232448 : k.arch == 80 ? 166912 : 101376;
}

}  // namespace card

EXPORT CUresult cuInit(unsigned flags) {
    Guard guard("cuInit", false);
    if (guard.refuse != CUDA_SUCCESS) return guard.refuse;
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    State& s = state();
    if (s.knobs.devices == 0) return CUDA_ERROR_NO_DEVICE;
    while (s.devices.size() < s.knobs.devices) {
        s.devices.push_back(std::make_unique<Device>());
        s.devices.back()->primary.device = static_cast<int>(s.devices.size()) - 1;
    }
    s.initialised = true;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int* version) {
    *version = 13000;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int* count) {
    ENTER(cuDeviceGetCount);
    *count = static_cast<int>(state().devices.size());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice* device, int ordinal) {
    ENTER(cuDeviceGet);
    if (!is_device(ordinal)) return CUDA_ERROR_INVALID_DEVICE;
    *device = ordinal;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char* name, int bytes, CUdevice device) {
    ENTER(cuDeviceGetName);
    if (!is_device(device) || bytes < 1) return CUDA_ERROR_INVALID_VALUE;
    snprintf(name, static_cast<size_t>(bytes), "%s", state().name.c_str());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetUuid_v2(void* uuid, CUdevice device) {
    ENTER(cuDeviceGetUuid_v2);
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    memset(uuid, device + 1, 16);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetPCIBusId(char* id, int bytes, CUdevice device) {
    ENTER(cuDeviceGetPCIBusId);
    if (!is_device(device) || bytes < 13) return CUDA_ERROR_INVALID_VALUE;
    // No bus has this domain: whoever asks the kernel for the place finds nothing.
    snprintf(id, static_cast<size_t>(bytes), "FFFF:%02X:00.0", static_cast<unsigned>(device) + 1);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
    ENTER(cuDeviceTotalMem_v2);
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *bytes = state().knobs.memory;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int* value, int which, CUdevice device) {
    ENTER(cuDeviceGetAttribute);
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *value = attribute(which);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
    ENTER(cuDevicePrimaryCtxRetain);
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    Device& d = *state().devices[device];
    if (d.lost != CUDA_SUCCESS) return d.lost;
    Context& primary = d.primary;
    if (primary.retained++ == 0) {
        primary.null_stream = std::make_shared<Stream>();
        primary.null_stream->context = &primary;
        primary.null_stream->blocking = true;
    }
    *context = reinterpret_cast<CUcontext>(&primary);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
    ENTER(cuDevicePrimaryCtxRelease_v2);
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    Context& primary = state().devices[device]->primary;
    if (primary.retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
    if (--primary.retained == 0) {
        drain(primary);
        primary.sticky = CUDA_SUCCESS;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
    ENTER(cuDevicePrimaryCtxGetState);
    if (!is_device(device)) return CUDA_ERROR_INVALID_DEVICE;
    *flags = 0;
    *active = state().devices[device]->primary.retained > 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxSetFlags_v2(CUdevice device, unsigned) {
    ENTER(cuDevicePrimaryCtxSetFlags_v2);
    return is_device(device) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}

EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
    ENTER(cuCtxSetCurrent);
    auto* wanted = reinterpret_cast<Context*>(context);
    bool known = wanted == nullptr;
    for (const auto& device : state().devices) known |= wanted == &device->primary && wanted->retained > 0;
    if (!known) return CUDA_ERROR_INVALID_CONTEXT;
    set_current(wanted);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext* context) {
    ENTER(cuCtxGetCurrent);
    *context = reinterpret_cast<CUcontext>(peek_current());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetDevice(CUdevice* device) {
    ENTER(cuCtxGetDevice);
    CONTEXT(context);
    *device = context->device;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize() {
    ENTER(cuCtxSynchronize);
    CONTEXT(context);
    if (CUresult why = allowed_in_capture(nullptr)) return why;
    if (CUresult why = drain(*context)) return why;
    return check_zones("a synchronisation of the context");
}

EXPORT CUresult cuCtxSetFlags(unsigned) {
    ENTER(cuCtxSetFlags);
    CONTEXT(context);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    ENTER(cuCtxGetStreamPriorityRange);
    CONTEXT(context);
    if (least != nullptr) *least = 0;
    if (greatest != nullptr) *greatest = -5;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorName(CUresult result, const char** name) {
    switch (static_cast<int>(result)) {
#define CU_RESULT_CASE(number, id, words) case number: *name = #id; return CUDA_SUCCESS;
        CU_RESULTS(CU_RESULT_CASE)
#undef CU_RESULT_CASE
        default: *name = nullptr; return CUDA_ERROR_INVALID_VALUE;
    }
}

EXPORT CUresult cuGetErrorString(CUresult result, const char** text) {
    switch (static_cast<int>(result)) {
#define CU_RESULT_CASE(number, id, words) case number: *text = words; return CUDA_SUCCESS;
        CU_RESULTS(CU_RESULT_CASE)
#undef CU_RESULT_CASE
        default: *text = nullptr; return CUDA_ERROR_INVALID_VALUE;
    }
}
