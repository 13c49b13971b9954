// The simulated driver's state: devices, memory, contexts, streams, events, graphs, modules.
//
// Work is put into a stream's queue and done when somebody waits for it, so that what relies on a wait that is not there
// goes wrong each time. All calls hold one lock.
#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "cuda.h"
#include "registry.h"

namespace card {

struct Context;
struct Stream;

// Bytes of device memory, between zones that nobody may write.
struct Memory {
    static constexpr size_t ZONE = 512;
    char* map;
    size_t map_bytes;
    uintptr_t at;
    size_t bytes;
    int device;
};

// A place in a stream's queue that others may wait for.
struct Ticket {
    std::weak_ptr<Stream> stream;
    bool done = false;
    std::chrono::steady_clock::time_point time;
};

// Work in a queue: something done, or a wait for a ticket.
struct Op {
    std::function<CUresult()> work;
    std::shared_ptr<Ticket> mark, wait;
};

// What a capture gathers.
struct Graph {
    std::vector<Op> ops;
    Context* context;
};

// A capture under way, and the streams that take part.
struct Capture {
    Stream* origin;
    int mode;
    uint64_t thread;
    bool broken = false;
    std::set<Stream*> streams;
    // Streams with work that the origin has not been made to wait for.
    std::set<Stream*> loose;
    std::shared_ptr<Graph> graph;
};

struct Stream : std::enable_shared_from_this<Stream> {
    Context* context;
    bool blocking;
    // Its handle is gone; its work is not.
    bool destroyed = false;
    std::deque<Op> queue;
    std::shared_ptr<Capture> capture;
    // Work that captures took from it.
    uint64_t captured = 0;
};

struct Event {
    Context* context;
    bool timed;
    std::shared_ptr<Ticket> ticket;
    // The capture that it was last recorded in, the stream, and the stream's captured work by then.
    bool in_capture = false;
    std::weak_ptr<Capture> capture;
    Stream* stream = nullptr;
    uint64_t captured = 0;
};

// Whose names the card goes by, and what it says of itself.
struct Family {
    const char *name, *card, *arch;
    uint64_t capability;
    int warp;
    unsigned shared;
};
const Family& family();

struct Module;
struct Function {
    Module* module;
    const simt::Entry* entry;
    std::string symbol;
    unsigned dynamic_limit = family().shared;
};
struct Module {
    Context* context;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

struct Context {
    int device;
    unsigned retained = 0;
    // What broke the context; every call answers it.
    CUresult sticky = CUDA_SUCCESS;
    std::shared_ptr<Stream> null_stream;
    std::vector<std::shared_ptr<Stream>> streams;
};

struct Device {
    uint64_t used = 0;
    Context primary;
    CUresult lost = CUDA_SUCCESS;
};

// What tests set.
struct Knobs {
    uint64_t devices, memory, arch, processors, eager, poison_limit, stalled, shared, both_ways;
};

// A call that is to fail.
struct Failure {
    uint64_t after, times;
    CUresult code;
};

struct State {
    std::recursive_mutex lock;
    Knobs knobs;
    bool initialised = false, in_callback = false;
    std::vector<std::unique_ptr<Device>> devices;
    std::map<uintptr_t, Memory> memory;
    std::deque<Memory> freed;
    std::map<uintptr_t, size_t> pinned;
    std::set<Event*> events;
    std::set<Module*> modules;
    std::set<Function*> functions;
    std::set<std::shared_ptr<Graph>*> graphs, executables;
    std::set<std::shared_ptr<Capture>> captures;
    std::map<std::string, uint64_t> calls;
    std::map<std::string, Failure> failures;
    std::string fault, name;

    State();
};
State& state();

// Begins a call: takes the lock, counts the call and says whether it is to fail at once.
struct Guard {
    explicit Guard(const char* name, bool needs_init = true);
    std::unique_lock<std::recursive_mutex> hold;
    CUresult refuse = CUDA_SUCCESS;
};

// The calling thread's context, or why there is none.
CUresult current(Context*& context);
void set_current(Context* context);
Context* peek_current();

// Says on stderr, and keeps for who asks, what a program did wrong.
void report(const std::string& what);

// The memory that holds these bytes, or null.
const Memory* memory_of(CUdeviceptr at, size_t bytes);
bool is_pinned(const void* at, size_t bytes);
// Whether the zones around every allocation are as they were left.
CUresult check_zones(const std::string& after);

// The stream of a handle; null where the handle is not one.
std::shared_ptr<Stream> stream_of(CUstream handle, Context& context);
// Puts work into the queue, or into the capture that the stream takes part in.
CUresult enqueue(Stream& stream, std::function<CUresult()> work);
// Does the next work of a queue; false where nothing is left.
bool step(Stream& stream);
CUresult drain(Stream& stream);
CUresult drain(Context& context);
CUresult finish(const std::shared_ptr<Ticket>& ticket);
// Whether the call may be made while something is captured; breaks the captures if not.
CUresult allowed_in_capture(Stream* stream);
uint64_t thread_number();

// Bytes of shared memory that a block has without asking, and may ask for.
constexpr unsigned DEFAULT_SHARED = 48 * 1024;
uint64_t shared_optin();

}  // namespace card

#define ENTER(name)                                                                                                    \
    card::Guard guard(#name);                                                                                          \
    if (guard.refuse != CUDA_SUCCESS) return guard.refuse
#define CONTEXT(context)                                                                                               \
    card::Context* context = nullptr;                                                                                  \
    if (CUresult why = card::current(context)) return why
#define STREAM(name, handle, context)                                                                                  \
    auto name = card::stream_of(handle, *context);                                                                     \
    if (!name) return CUDA_ERROR_INVALID_HANDLE
#define EXPORT extern "C" __attribute__((visibility("default")))
