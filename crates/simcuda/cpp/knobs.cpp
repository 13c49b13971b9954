// What tests set and ask.
#include <cstdio>
#include <cstring>

#include "card.h"

using namespace card;

namespace {

uint64_t* knob(const std::string& name) {
    Knobs& k = state().knobs;
    const std::pair<const char*, uint64_t*> all[] = {
        {"devices", &k.devices}, {"memory", &k.memory},   {"arch", &k.arch},     {"processors", &k.processors},
        {"eager", &k.eager},     {"poison_limit", &k.poison_limit}, {"stalled", &k.stalled}, {"shared", &k.shared},
        {"both_ways", &k.both_ways},
    };
    for (const auto& [known, at] : all)
        if (name == known) return at;
    return nullptr;
}

size_t give(const std::string& words, char* out, size_t bytes) {
    if (bytes > 0) snprintf(out, bytes, "%s", words.c_str());
    return words.size();
}

}  // namespace

// 0 where no knob has the name; `before` gets the value that it had.
EXPORT int simcuda_set(const char* name, uint64_t value, uint64_t* before) {
    std::lock_guard<std::recursive_mutex> hold(state().lock);
    uint64_t* at = knob(name);
    if (at == nullptr) return 0;
    *before = *at;
    *at = value;
    return 1;
}

// The call of this name fails `times` times with the code, after `after` calls that do not.
EXPORT void simcuda_fail(const char* name, uint64_t after, uint64_t times, int code) {
    std::lock_guard<std::recursive_mutex> hold(state().lock);
    state().failures[name] = {after, times, static_cast<CUresult>(code)};
}

// Every call on the device answers this code from now on; 0 brings it back.
EXPORT void simcuda_lose(int device, int code) {
    std::lock_guard<std::recursive_mutex> hold(state().lock);
    const auto at = static_cast<size_t>(device);
    if (at < state().devices.size()) state().devices[at]->lost = static_cast<CUresult>(code);
}

EXPORT uint64_t simcuda_calls(const char* name) {
    std::lock_guard<std::recursive_mutex> hold(state().lock);
    const auto found = state().calls.find(name);
    return found == state().calls.end() ? 0 : found->second;
}

// How many things of a kind there are.
EXPORT uint64_t simcuda_live(const char* kind) {
    std::lock_guard<std::recursive_mutex> hold(state().lock);
    State& s = state();
    const std::string what = kind;
    if (what == "memory") return s.memory.size();
    if (what == "pinned") return s.pinned.size();
    if (what == "events") return s.events.size();
    if (what == "modules") return s.modules.size();
    if (what == "graphs") return s.graphs.size();
    if (what == "executables") return s.executables.size();
    uint64_t count = 0;
    for (const auto& device : s.devices) {
        if (what == "bytes") count += device->used;
        if (what == "contexts") count += device->primary.retained;
        if (what != "streams" && what != "queued") continue;
        for (const auto& stream : device->primary.streams)
            count += what == "queued" ? stream->queue.size() : !stream->destroyed;
    }
    return count;
}

// Forgets what broke contexts and lost devices, failures that were asked for, calls, names and the last fault.
EXPORT void simcuda_forget() {
    std::lock_guard<std::recursive_mutex> hold(state().lock);
    for (const auto& device : state().devices) device->lost = device->primary.sticky = CUDA_SUCCESS;
    state().failures.clear();
    state().calls.clear();
    state().fault.clear();
    state().name = family().card;
}

// What the cards call themselves from now on.
EXPORT void simcuda_name(const char* name) {
    std::lock_guard<std::recursive_mutex> hold(state().lock);
    state().name = name;
}

// What a program did wrong last. The length, whatever fits.
EXPORT size_t simcuda_fault(char* out, size_t bytes) {
    std::lock_guard<std::recursive_mutex> hold(state().lock);
    return give(state().fault, out, bytes);
}

// Kernels whose row does not say what their text does, a line each.
EXPORT size_t simcuda_mismatches(char* out, size_t bytes) {
    std::string words;
    for (const simt::Unit& unit : simt::units())
        for (const simt::Entry& e : unit.entries)
            if (strcmp(e.row_letters, e.text_letters) != 0)
                words += std::string(e.symbol) + ": the text takes " + e.text_letters + ", its row says " + e.row_letters + "\n";
    return give(words, out, bytes);
}
