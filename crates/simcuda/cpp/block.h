// Runs the threads of one block.
#pragma once
#include <string>
#include <vector>

#include "fiber.h"
#include "simt.h"

namespace simt {

// What reading memory that nobody wrote gives: NaN as f32, f16 and bf16.
constexpr uint32_t POISON = 0xfffdffffu;
void poison(void* at, size_t bytes);
// The first byte that is not as `poison` left it, or `bytes`.
size_t unpoisoned(const void* at, size_t bytes);

// What all blocks of a launch share.
struct Launch {
    const char* symbol;
    void (*run)(void** params);
    void** params;
    Dim blocks, threads;
    size_t dynamic_bytes;
    // The most bytes that static arrays may take, and those with the dynamic bytes.
    size_t static_limit, shared_limit;
    // Whether blocks of odd number run their lanes from the last.
    bool both_ways;
};

// A copy that has not happened.
struct Copy {
    void* to;
    const void* from;
    bool valid;
};

enum class State : uint8_t { Ready, Exchange, Barrier, Done };

// A thread of the block.
struct Lane {
    Here indices;
    Fiber fiber;
    State state;
    uint8_t words, parity;
    // Copies in order, and how many of them each closed group ends with.
    std::vector<Copy> copies;
    std::vector<size_t> closed;
};

// Room for a block: one per thread of the machine that runs blocks.
class Room {
public:
    Room();
    // Runs a block to its end. What went wrong, or nothing.
    std::string run(const Launch& launch, Dim block, bool backwards);

    // What a lane calls.
    const uint32_t* exchange(const uint32_t* words, unsigned count);
    void wait(State state);
    void* shared_array(const void* tag, size_t bytes, size_t align);
    void* dynamic_shared() { return arena.data() + ZONE; }
    [[noreturn]] void fail(const std::string& why);
    Lane& lane() { return *current; }

private:
    struct Array {
        const void* tag;
        size_t at, bytes;
    };
    static constexpr unsigned LANES = 1024;
    // Poisoned bytes around each array.
    static constexpr size_t ZONE = 64;

    static void body();
    void begin(Dim block);
    void resume(Lane& lane);
    bool group(unsigned first, unsigned size, bool backwards);
    void check_zones();

    Stacks stacks;
    std::vector<Lane> lanes;
    std::vector<uint32_t> slots;
    std::vector<char> arena;
    std::vector<Array> arrays;
    size_t arena_used = 0, static_bytes = 0;
    Fiber scheduler;
    const Launch* launch = nullptr;
    Lane* current = nullptr;
    unsigned count = 0;
    std::string fault;
};

// The room whose lane runs on this thread of the machine, or null.
extern __thread Room* room __attribute__((tls_model("initial-exec")));

}  // namespace simt
