// Device memory between zones, pinned memory, copies and fills.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "block.h"
#include "card.h"

using namespace card;

namespace {

constexpr size_t PAGE = 4096;
constexpr size_t GRAIN = 512;
// Freed memory that stays out of reach, so that its use is noticed.
constexpr size_t KEPT = 256;

size_t up(size_t bytes, size_t grain) { return (bytes + grain - 1) / grain * grain; }

CUresult allocate(CUdeviceptr* out, size_t bytes, Context& context) {
    State& s = state();
    Device& device = *s.devices[context.device];
    if (bytes == 0 || out == nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (bytes > s.knobs.memory || device.used + up(bytes, GRAIN) > s.knobs.memory) return CUDA_ERROR_OUT_OF_MEMORY;
    const size_t inner = up(Memory::ZONE + bytes + Memory::ZONE, PAGE), all = inner + 2 * PAGE;
    void* map = mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    char* low = static_cast<char*>(map);
    mprotect(low, PAGE, PROT_NONE);
    mprotect(low + PAGE + inner, PAGE, PROT_NONE);
    const Memory memory{low, all, reinterpret_cast<uintptr_t>(low + PAGE + Memory::ZONE), bytes, context.device};
    simt::poison(low + PAGE, Memory::ZONE);
    simt::poison(low + PAGE + Memory::ZONE + bytes, inner - Memory::ZONE - bytes);
    if (bytes <= s.knobs.poison_limit) simt::poison(reinterpret_cast<void*>(memory.at), bytes);
    device.used += up(bytes, GRAIN);
    s.memory.emplace(memory.at, memory);
    *out = memory.at;
    return CUDA_SUCCESS;
}

// What was written outside of the allocation, in words; nothing if nothing was.
std::string trespass(const Memory& m) {
    const size_t front = simt::unpoisoned(m.map + PAGE, Memory::ZONE);
    const char* end = reinterpret_cast<char*>(m.at) + m.bytes;
    const size_t behind = static_cast<size_t>(m.map + m.map_bytes - PAGE - end);
    const size_t back = simt::unpoisoned(end, behind);
    const std::string of = " of an allocation of " + std::to_string(m.bytes) + " bytes";
    if (front < Memory::ZONE) return std::to_string(Memory::ZONE - front) + " bytes before the start" + of;
    if (back < behind) return std::to_string(back) + " bytes after the end" + of;
    return "";
}

void mend(const Memory& m) {
    char* end = reinterpret_cast<char*>(m.at) + m.bytes;
    simt::poison(m.map + PAGE, Memory::ZONE);
    simt::poison(end, static_cast<size_t>(m.map + m.map_bytes - PAGE - end));
}

CUresult release(CUdeviceptr at) {
    State& s = state();
    const auto found = s.memory.find(at);
    if (found == s.memory.end()) {
        for (const Memory& m : s.freed)
            if (m.at == at) report("memory is freed twice");
        return CUDA_ERROR_INVALID_VALUE;
    }
    const Memory memory = found->second;
    const std::string where = trespass(memory);
    s.memory.erase(found);
    s.devices[memory.device]->used -= up(memory.bytes, GRAIN);
    mmap(memory.map, memory.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    s.freed.push_back(memory);
    if (s.freed.size() > KEPT) {
        munmap(s.freed.front().map, s.freed.front().map_bytes);
        s.freed.pop_front();
    }
    if (where.empty()) return CUDA_SUCCESS;
    report("found at its release: something is written " + where);
    s.devices[memory.device]->primary.sticky = CUDA_ERROR_ILLEGAL_ADDRESS;
    return CUDA_ERROR_ILLEGAL_ADDRESS;
}

// Checks a range of device memory that a call names.
CUresult device_range(CUdeviceptr at, size_t bytes, const char* call) {
    if (memory_of(at, bytes) != nullptr) return CUDA_SUCCESS;
    report(std::string(call) + ": " + std::to_string(bytes) + " bytes at the given address are not in one allocation");
    return CUDA_ERROR_INVALID_VALUE;
}

// Copies, unless memory that was there at the call is gone by now.
CUresult move(uintptr_t to, uintptr_t from, size_t bytes, bool to_device, bool from_device) {
    if ((to_device && memory_of(to, bytes) == nullptr) || (from_device && memory_of(from, bytes) == nullptr)) {
        report("a copy in a stream meets memory that has been freed");
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
    return CUDA_SUCCESS;
}

CUresult copy_now(CUdeviceptr to, uintptr_t from, size_t bytes, bool to_device, bool from_device) {
    CONTEXT(context);
    if (CUresult why = allowed_in_capture(nullptr)) return why;
    if (CUresult why = drain(*context->null_stream)) return why;
    return move(to, from, bytes, to_device, from_device);
}

CUresult copy_in_stream(uintptr_t to, uintptr_t from, size_t bytes, bool to_device, bool from_device, CUstream handle) {
    CONTEXT(context);
    STREAM(stream, handle, context);
    const bool pageable = (!to_device && !is_pinned(reinterpret_cast<void*>(to), bytes)) ||
                          (!from_device && !is_pinned(reinterpret_cast<void*>(from), bytes));
    if (pageable && stream->capture) return allowed_in_capture(stream.get());
    if (pageable && to_device && bytes <= size_t(64) << 20) {
        const auto* bytes_at = reinterpret_cast<const char*>(from);
        const auto staged = std::make_shared<std::vector<char>>(bytes_at, bytes_at + bytes);
        return enqueue(*stream, [=] {
            return move(to, reinterpret_cast<uintptr_t>(staged->data()), bytes, true, false);
        });
    }
    if (CUresult why = enqueue(*stream, [=] { return move(to, from, bytes, to_device, from_device); })) return why;
    return pageable ? drain(*stream) : CUDA_SUCCESS;
}

template <class T> CUresult fill(CUdeviceptr at, T value, size_t count) {
    if (memory_of(at, count * sizeof(T)) == nullptr) {
        report("a fill in a stream meets memory that has been freed");
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    auto* p = reinterpret_cast<T*>(at);
    for (size_t i = 0; i < count; i++) p[i] = value;
    return CUDA_SUCCESS;
}

template <class T> CUresult fill_in_stream(CUdeviceptr at, T value, size_t count, CUstream handle, const char* call) {
    CONTEXT(context);
    STREAM(stream, handle, context);
    if (count == 0) return CUDA_SUCCESS;
    if (CUresult why = device_range(at, count * sizeof(T), call)) return why;
    return enqueue(*stream, [=] { return fill<T>(at, value, count); });
}

}  // namespace

namespace card {

const Memory* memory_of(CUdeviceptr at, size_t bytes) {
    State& s = state();
    auto next = s.memory.upper_bound(at);
    if (next == s.memory.begin()) return nullptr;
    const Memory& m = std::prev(next)->second;
    return at - m.at <= m.bytes && bytes <= m.bytes - (at - m.at) ? &m : nullptr;
}

bool is_pinned(const void* at, size_t bytes) {
    State& s = state();
    const auto address = reinterpret_cast<uintptr_t>(at);
    auto next = s.pinned.upper_bound(address);
    if (next == s.pinned.begin()) return false;
    const auto& [start, size] = *std::prev(next);
    return address - start <= size && bytes <= size - (address - start);
}

CUresult check_zones(const std::string& after) {
    CUresult result = CUDA_SUCCESS;
    for (const auto& [at, memory] : state().memory) {
        const std::string where = trespass(memory);
        if (where.empty()) continue;
        report("after " + after + ": something is written " + where);
        mend(memory);
        result = state().devices[memory.device]->primary.sticky = CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    return result;
}

}  // namespace card

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr* at, size_t bytes) {
    ENTER(cuMemAlloc_v2);
    CONTEXT(context);
    if (CUresult why = allowed_in_capture(nullptr)) return why;
    return allocate(at, bytes, *context);
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr at) {
    ENTER(cuMemFree_v2);
    CONTEXT(context);
    if (at == 0) return CUDA_SUCCESS;
    if (CUresult why = allowed_in_capture(nullptr)) return why;
    if (CUresult why = drain(*context)) return why;
    return release(at);
}

EXPORT CUresult cuMemAllocAsync(CUdeviceptr* at, size_t bytes, CUstream handle) {
    ENTER(cuMemAllocAsync);
    CONTEXT(context);
    STREAM(stream, handle, context);
    if (CUresult why = allowed_in_capture(stream.get())) return why;
    return allocate(at, bytes, *context);
}

EXPORT CUresult cuMemFreeAsync(CUdeviceptr at, CUstream handle) {
    ENTER(cuMemFreeAsync);
    CONTEXT(context);
    STREAM(stream, handle, context);
    if (CUresult why = allowed_in_capture(stream.get())) return why;
    if (memory_of(at, 1) == nullptr) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(*stream, [at] { return release(at); });
}

EXPORT CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER(cuMemGetInfo_v2);
    CONTEXT(context);
    *total = state().knobs.memory;
    *free = *total - state().devices[context->device]->used;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostAlloc(void** at, size_t bytes, unsigned) {
    ENTER(cuMemHostAlloc);
    CONTEXT(context);
    if (CUresult why = allowed_in_capture(nullptr)) return why;
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    *at = aligned_alloc(PAGE, up(bytes, PAGE));
    if (*at == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
    if (bytes <= state().knobs.poison_limit) simt::poison(*at, bytes);
    state().pinned.emplace(reinterpret_cast<uintptr_t>(*at), bytes);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAllocHost_v2(void** at, size_t bytes) { return cuMemHostAlloc(at, bytes, 0); }

EXPORT CUresult cuMemFreeHost(void* at) {
    ENTER(cuMemFreeHost);
    CONTEXT(context);
    if (CUresult why = allowed_in_capture(nullptr)) return why;
    if (CUresult why = drain(*context)) return why;
    if (state().pinned.erase(reinterpret_cast<uintptr_t>(at)) == 0) return CUDA_ERROR_INVALID_VALUE;
    free(at);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostRegister_v2(void* at, size_t bytes, unsigned) {
    ENTER(cuMemHostRegister_v2);
    CONTEXT(context);
    if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    if (is_pinned(at, 1)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
    state().pinned.emplace(reinterpret_cast<uintptr_t>(at), bytes);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostUnregister(void* at) {
    ENTER(cuMemHostUnregister);
    CONTEXT(context);
    if (CUresult why = drain(*context)) return why;
    const bool known = state().pinned.erase(reinterpret_cast<uintptr_t>(at)) != 0;
    return known ? CUDA_SUCCESS : CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED;
}

EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t bytes) {
    ENTER(cuMemcpyHtoD_v2);
    if (CUresult why = device_range(to, bytes, "cuMemcpyHtoD_v2")) return why;
    return copy_now(to, reinterpret_cast<uintptr_t>(from), bytes, true, false);
}

EXPORT CUresult cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t bytes) {
    ENTER(cuMemcpyDtoH_v2);
    if (CUresult why = device_range(from, bytes, "cuMemcpyDtoH_v2")) return why;
    return copy_now(reinterpret_cast<uintptr_t>(to), from, bytes, false, true);
}

EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    ENTER(cuMemcpyDtoD_v2);
    if (CUresult why = device_range(to, bytes, "cuMemcpyDtoD_v2")) return why;
    if (CUresult why = device_range(from, bytes, "cuMemcpyDtoD_v2")) return why;
    return copy_now(to, from, bytes, true, true);
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
    ENTER(cuMemcpyHtoDAsync_v2);
    if (CUresult why = device_range(to, bytes, "cuMemcpyHtoDAsync_v2")) return why;
    return copy_in_stream(to, reinterpret_cast<uintptr_t>(from), bytes, true, false, stream);
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(cuMemcpyDtoHAsync_v2);
    if (CUresult why = device_range(from, bytes, "cuMemcpyDtoHAsync_v2")) return why;
    return copy_in_stream(reinterpret_cast<uintptr_t>(to), from, bytes, false, true, stream);
}

EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(cuMemcpyDtoDAsync_v2);
    if (CUresult why = device_range(to, bytes, "cuMemcpyDtoDAsync_v2")) return why;
    if (CUresult why = device_range(from, bytes, "cuMemcpyDtoDAsync_v2")) return why;
    return copy_in_stream(to, from, bytes, true, true, stream);
}

EXPORT CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t bytes, CUstream stream) {
    ENTER(cuMemcpyPeerAsync);
    if (CUresult why = device_range(to, bytes, "cuMemcpyPeerAsync")) return why;
    if (CUresult why = device_range(from, bytes, "cuMemcpyPeerAsync")) return why;
    return copy_in_stream(to, from, bytes, true, true, stream);
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr at, unsigned char value, size_t count, CUstream stream) {
    ENTER(cuMemsetD8Async);
    return fill_in_stream<unsigned char>(at, value, count, stream, "cuMemsetD8Async");
}

EXPORT CUresult cuMemsetD16Async(CUdeviceptr at, unsigned short value, size_t count, CUstream stream) {
    ENTER(cuMemsetD16Async);
    return fill_in_stream<unsigned short>(at, value, count, stream, "cuMemsetD16Async");
}

EXPORT CUresult cuMemsetD32Async(CUdeviceptr at, unsigned value, size_t count, CUstream stream) {
    ENTER(cuMemsetD32Async);
    return fill_in_stream<unsigned>(at, value, count, stream, "cuMemsetD32Async");
}

EXPORT CUresult cuMemsetD8_v2(CUdeviceptr at, unsigned char value, size_t count) {
    ENTER(cuMemsetD8_v2);
    if (CUresult why = fill_in_stream<unsigned char>(at, value, count, nullptr, "cuMemsetD8_v2")) return why;
    CONTEXT(context);
    return drain(*context->null_stream);
}
