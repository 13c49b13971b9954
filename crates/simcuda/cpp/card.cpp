// The state, what a call does first, and the knobs' first values.
#include "card.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>

namespace card {

namespace {

thread_local Context* bound = nullptr;

uint64_t setting(const char* name, uint64_t otherwise) {
    const char* words = getenv(name);
    return words == nullptr || *words == 0 ? otherwise : strtoull(words, nullptr, 10);
}

}  // namespace

State::State() {
    knobs.devices = setting("QIAO_SIMCUDA_DEVICES", 1);
    knobs.memory = setting("QIAO_SIMCUDA_MEMORY", uint64_t(4) << 30);
    knobs.arch = setting("QIAO_SIMCUDA_ARCH", family().capability);
    knobs.processors = setting("QIAO_SIMCUDA_PROCESSORS", 8);
    knobs.eager = setting("QIAO_SIMCUDA_EAGER", 0);
    knobs.both_ways = setting("QIAO_SIMCUDA_BOTH_WAYS", 1);
    knobs.poison_limit = uint64_t(16) << 20;
    knobs.stalled = 0;
    name = family().card;
    // 0: what the architecture has.
    knobs.shared = 0;
}

State& state() {
    static State* only = new State;
    return *only;
}

Guard::Guard(const char* name, bool needs_init) : hold(state().lock) {
    State& s = state();
    s.calls[name]++;
    const auto failure = s.failures.find(name);
    if (failure != s.failures.end()) {
        Failure& f = failure->second;
        if (f.after > 0) {
            f.after--;
        } else if (f.times > 0) {
            f.times--;
            refuse = f.code;
            return;
        }
    }
    if (needs_init && !s.initialised)
        refuse = CUDA_ERROR_NOT_INITIALIZED;
    else if (s.in_callback)
        refuse = CUDA_ERROR_NOT_PERMITTED;
}

CUresult current(Context*& context) {
    context = bound;
    if (bound == nullptr || bound->retained == 0) return CUDA_ERROR_INVALID_CONTEXT;
    const CUresult lost = state().devices[bound->device]->lost;
    return lost != CUDA_SUCCESS ? lost : bound->sticky;
}

void set_current(Context* context) { bound = context; }
Context* peek_current() { return bound; }

void report(const std::string& what) {
    fprintf(stderr, "qiao-simcuda: %s\n", what.c_str());
    state().fault = what;
}

uint64_t thread_number() {
    static std::atomic<uint64_t> next{1};
    thread_local uint64_t mine = next++;
    return mine;
}

}  // namespace card
