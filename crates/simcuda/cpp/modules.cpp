// Modules, and launches of their kernels.
#include <cstdlib>
#include <sstream>

#include "card.h"
#include "image.h"
#include "launch.h"

using namespace card;

namespace {

const simt::Entry* entry_of(const std::string& unit, const std::string& symbol) {
    for (const simt::Unit& u : simt::units())
        if (u.name == unit)
            for (const simt::Entry& e : u.entries)
                if (e.symbol == symbol) return &e;
    return nullptr;
}

// Whether code for `name`, sm_90a or compute_80, runs here.
bool runs_here(const std::string& name) {
    if (family().arch[0] != 0) return name == family().arch;
    const auto digits = name.find_first_of("0123456789");
    if (digits == std::string::npos) return false;
    const uint64_t wanted = strtoull(name.c_str() + digits, nullptr, 10), here = state().knobs.arch;
    const bool only_there = name.back() == 'a';
    if (name.rfind("compute_", 0) == 0) return only_there ? wanted == here : wanted <= here;
    return only_there ? wanted == here : wanted <= here && wanted / 10 == here / 10;
}

// Reads what the simulated compiler wrote: lines of "arch", "unit" and "symbol".
CUresult read(const char* bytes, Module& module) {
    const std::string body = image::open(bytes);
    if (body.empty()) return CUDA_ERROR_INVALID_IMAGE;
    std::istringstream lines(body);
    std::string key, value, unit;
    while (lines >> key >> value) {
        if (key == "arch" && !runs_here(value)) return CUDA_ERROR_NO_BINARY_FOR_GPU;
        if (key == "unit") unit = value;
        if (key == "end") return CUDA_SUCCESS;
        if (key != "symbol") continue;
        auto function = std::make_unique<Function>();
        function->module = &module;
        function->symbol = value;
        function->entry = entry_of(unit, value);
        module.functions[value] = std::move(function);
    }
    return CUDA_ERROR_INVALID_IMAGE;
}

struct Shape {
    unsigned grid[3], block[3], shared;
};

CUresult check(const Shape& shape, const Function& function) {
    const uint64_t threads = uint64_t(shape.block[0]) * shape.block[1] * shape.block[2];
    if (threads == 0 || shape.grid[0] == 0 || shape.grid[1] == 0 || shape.grid[2] == 0) return CUDA_ERROR_INVALID_VALUE;
    if (threads > 1024 || shape.block[0] > 1024 || shape.block[1] > 1024 || shape.block[2] > 64 ||
        shape.grid[0] > 0x7fffffffu || shape.grid[1] > 65535 || shape.grid[2] > 65535)
        return CUDA_ERROR_INVALID_VALUE;
    if (shape.shared > function.dynamic_limit) return CUDA_ERROR_INVALID_VALUE;
    if (function.entry != nullptr && threads > function.entry->threads) return CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES;
    return CUDA_SUCCESS;
}

// A launch whose parameters have been copied.
struct Frame {
    std::vector<std::vector<unsigned char>> bytes;
    std::vector<void*> params;
};

Frame copy(const simt::Entry& entry, void** params) {
    Frame frame;
    for (size_t i = 0; entry.sizes[i] != 0; i++) {
        const auto* from = static_cast<const unsigned char*>(params[i]);
        frame.bytes.emplace_back(from, from + entry.sizes[i]);
    }
    for (auto& bytes : frame.bytes) frame.params.push_back(bytes.data());
    return frame;
}

CUresult launch(CUfunction handle, const Shape& shape, CUstream stream_handle, void** params, void** extra) {
    CONTEXT(context);
    STREAM(stream, stream_handle, context);
    auto* function = reinterpret_cast<Function*>(handle);
    if (state().functions.count(function) == 0) return CUDA_ERROR_INVALID_HANDLE;
    if (extra != nullptr) return CUDA_ERROR_INVALID_VALUE;
    if (CUresult why = check(shape, *function)) {
        report("kernel " + function->symbol + ": a launch of such a size is not possible");
        return why;
    }
    const simt::Entry* entry = function->entry;
    if (entry == nullptr) {
        report("kernel " + function->symbol + ": its text is not one that this card was built with");
        return CUDA_ERROR_NOT_SUPPORTED;
    }
    if (params == nullptr && entry->sizes[0] != 0) return CUDA_ERROR_INVALID_VALUE;
    const auto frame = std::make_shared<Frame>(copy(*entry, params));
    const size_t limit = shared_optin();
    return enqueue(*stream, [=] {
        const simt::Launch what{entry->symbol, entry->run, frame->params.data(),
                                {shape.grid[0], shape.grid[1], shape.grid[2]},
                                {shape.block[0], shape.block[1], shape.block[2]},
                                shape.shared, DEFAULT_SHARED, limit, state().knobs.both_ways != 0};
        const std::string fault = simt::run(what);
        if (fault.empty()) return check_zones(std::string("kernel ") + entry->symbol);
        report(fault);
        return fault.find("illegal access") != std::string::npos ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_ERROR_LAUNCH_FAILED;
    });
}

}  // namespace

EXPORT CUresult cuModuleLoadData(CUmodule* handle, const void* image) {
    ENTER(cuModuleLoadData);
    CONTEXT(context);
    if (CUresult why = allowed_in_capture(nullptr)) return why;
    auto module = std::make_unique<Module>();
    module->context = context;
    if (CUresult why = read(static_cast<const char*>(image), *module)) return why;
    for (const auto& [symbol, function] : module->functions) state().functions.insert(function.get());
    *handle = reinterpret_cast<CUmodule>(module.get());
    state().modules.insert(module.release());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleLoadDataEx(CUmodule* handle, const void* image, unsigned, void*, void**) {
    ENTER(cuModuleLoadDataEx);
    return cuModuleLoadData(handle, image);
}

EXPORT CUresult cuModuleUnload(CUmodule handle) {
    ENTER(cuModuleUnload);
    CONTEXT(context);
    auto* module = reinterpret_cast<Module*>(handle);
    if (state().modules.count(module) == 0) return CUDA_ERROR_INVALID_HANDLE;
    if (CUresult why = drain(*context)) return why;
    for (const auto& [symbol, function] : module->functions) state().functions.erase(function.get());
    state().modules.erase(module);
    delete module;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleGetFunction(CUfunction* handle, CUmodule module_handle, const char* symbol) {
    ENTER(cuModuleGetFunction);
    auto* module = reinterpret_cast<Module*>(module_handle);
    if (state().modules.count(module) == 0) return CUDA_ERROR_INVALID_HANDLE;
    const auto found = module->functions.find(symbol);
    if (found == module->functions.end()) return CUDA_ERROR_NOT_FOUND;
    *handle = reinterpret_cast<CUfunction>(found->second.get());
    return CUDA_SUCCESS;
}

EXPORT CUresult cuFuncGetAttribute(int* value, int which, CUfunction handle) {
    ENTER(cuFuncGetAttribute);
    auto* function = reinterpret_cast<Function*>(handle);
    if (state().functions.count(function) == 0) return CUDA_ERROR_INVALID_HANDLE;
    switch (which) {
        case 0: *value = function->entry == nullptr ? 1024 : static_cast<int>(function->entry->threads); break;
        case 4: *value = 32; break;
        case 8: *value = static_cast<int>(function->dynamic_limit); break;
        default: *value = 0;
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuFuncSetAttribute(CUfunction handle, int which, int value) {
    ENTER(cuFuncSetAttribute);
    auto* function = reinterpret_cast<Function*>(handle);
    if (state().functions.count(function) == 0) return CUDA_ERROR_INVALID_HANDLE;
    if (which == 8) {
        if (value < 0 || static_cast<uint64_t>(value) > shared_optin()) return CUDA_ERROR_INVALID_VALUE;
        function->dynamic_limit = static_cast<unsigned>(value);
    }
    return CUDA_SUCCESS;
}

EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction handle, int threads, size_t) {
    ENTER(cuOccupancyMaxActiveBlocksPerMultiprocessor);
    if (state().functions.count(reinterpret_cast<Function*>(handle)) == 0) return CUDA_ERROR_INVALID_HANDLE;
    *blocks = threads > 0 ? 2048 / threads : 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void** params,
                               void** extra) {
    ENTER(cuLaunchKernel);
    return launch(function, {{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared}, stream, params, extra);
}

// CUlaunchAttribute and CUlaunchConfig, as the driver's header has them.
struct LaunchAttribute {
    unsigned id;
    unsigned pad;
    union {
        char bytes[64];
        int allowed;
    };
};
struct LaunchConfig {
    unsigned grid[3], block[3], shared;
    CUstream stream;
    LaunchAttribute* attributes;
    unsigned attribute_count;
};
// That a kernel may start while the one before it ends. Kernels run one after the other here; that each begins by waiting
// is a rule for their texts.
constexpr unsigned PROGRAMMATIC_STREAM_SERIALIZATION = 6;

EXPORT CUresult cuLaunchKernelEx(const LaunchConfig* config, CUfunction function, void** params, void** extra) {
    ENTER(cuLaunchKernelEx);
    const LaunchConfig& c = *config;
    for (unsigned i = 0; i < c.attribute_count; i++) {
        const LaunchAttribute& attribute = c.attributes[i];
        if (attribute.id != PROGRAMMATIC_STREAM_SERIALIZATION || attribute.allowed != 1) return CUDA_ERROR_INVALID_VALUE;
    }
    const Shape shape{{c.grid[0], c.grid[1], c.grid[2]}, {c.block[0], c.block[1], c.block[2]}, c.shared};
    return launch(function, shape, c.stream, params, extra);
}
