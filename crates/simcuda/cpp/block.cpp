#include "block.h"

#include <cstdio>

namespace simt {

__thread Here* here __attribute__((tls_model("initial-exec"))) = nullptr;
__thread Room* room __attribute__((tls_model("initial-exec"))) = nullptr;

namespace {

std::string text(Dim d) {
    char words[64];
    snprintf(words, sizeof words, "(%u, %u, %u)", d.x, d.y, d.z);
    return words;
}

}  // namespace

void poison(void* at, size_t bytes) {
    auto* p = static_cast<char*>(at);
    size_t i = 0;
    for (; i + 4 <= bytes; i += 4) memcpy(p + i, &POISON, 4);
    memcpy(p + i, &POISON, bytes - i);
}

size_t unpoisoned(const void* at, size_t bytes) {
    auto* p = static_cast<const char*>(at);
    const auto* pattern = reinterpret_cast<const char*>(&POISON);
    for (size_t i = 0; i < bytes; i++)
        if (p[i] != pattern[i % 4]) return i;
    return bytes;
}

Room::Room() : stacks(LANES), lanes(LANES), slots(LANES * WORDS * 2) {}

// Lays out the arena and puts every lane at the kernel's door.
void Room::begin(Dim block) {
    arrays.clear();
    static_bytes = 0;
    const size_t most = launch->shared_limit + launch->static_limit + 64 * ZONE;
    if (arena.size() < most) arena.resize(most);
    const size_t dynamic = (launch->dynamic_bytes + 15) / 16 * 16;
    poison(arena.data(), ZONE + dynamic + ZONE);
    arena_used = ZONE + dynamic + ZONE;
    const Dim size = launch->threads;
    for (unsigned i = 0; i < count; i++) {
        Lane& lane = lanes[i];
        lane.indices = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, block, size, launch->blocks};
        lane.state = State::Ready;
        lane.parity = 0;
        lane.copies.clear();
        lane.closed.clear();
        fiber_make(lane.fiber, stacks.low(i), stacks.bytes(i), body);
    }
}

void Room::body() {
    Room& here = *room;
    here.launch->run(here.launch->params);
    here.wait(State::Done);
    __builtin_unreachable();
}

void Room::resume(Lane& lane) {
    current = &lane;
    here = &lane.indices;
    room = this;
    fiber_switch(scheduler, lane.fiber);
    room = nullptr;
}

void Room::wait(State state) {
    current->state = state;
    fiber_switch(current->fiber, scheduler);
}

void Room::fail(const std::string& why) {
    fault = "thread " + text(current->indices.thread) + ": " + why;
    wait(State::Done);
    __builtin_unreachable();
}

// Runs a group's lanes until each waits at the barrier or has ended.
bool Room::group(unsigned first, unsigned size, bool backwards) {
    for (;;) {
        for (unsigned i = 0; i < size; i++) {
            Lane& lane = lanes[first + (backwards ? size - 1 - i : i)];
            if (lane.state == State::Ready) resume(lane);
            if (!fault.empty()) return false;
        }
        unsigned exchanging = 0;
        for (unsigned i = 0; i < size; i++) exchanging += lanes[first + i].state == State::Exchange;
        if (exchanging == 0) return true;
        for (unsigned i = 0; i < size; i++) {
            Lane& lane = lanes[first + i];
            if (exchanging != size || lane.words != lanes[first].words) {
                current = &lane;
                fault = "threads " + std::to_string(first) + " to " + std::to_string(first + size - 1) + ": " +
                        std::to_string(exchanging) + " lanes are at an exchange of their group, the others " +
                        (exchanging == size ? "at another" : "at a barrier or at their end");
                return false;
            }
        }
        for (unsigned i = 0; i < size; i++) lanes[first + i].state = State::Ready;
    }
}

void Room::check_zones() {
    const auto check = [&](size_t at, size_t bytes, const char* what) {
        const size_t dirty = unpoisoned(arena.data() + at, bytes);
        if (dirty < bytes && fault.empty())
            fault = std::string("something is written past ") + what + ", " + std::to_string(dirty) + " bytes on";
    };
    const size_t end = ZONE + launch->dynamic_bytes, dynamic = (launch->dynamic_bytes + 15) / 16 * 16;
    check(0, ZONE, "the front of the dynamic shared bytes");
    // The zone's pattern counts from the arena's start.
    if (launch->dynamic_bytes % 4 == 0) check(end, ZONE + dynamic - launch->dynamic_bytes, "the end of the dynamic shared bytes");
    for (const Array& array : arrays) check(array.at + array.bytes, ZONE, "the end of a shared array");
}

std::string Room::run(const Launch& what, Dim block, bool backwards) {
    launch = &what;
    count = what.threads.x * what.threads.y * what.threads.z;
    fault.clear();
    begin(block);
    const unsigned groups = (count + 31) / 32;
    for (bool live = true; live && fault.empty();) {
        for (unsigned i = 0; i < groups && fault.empty(); i++) {
            const unsigned first = (backwards ? groups - 1 - i : i) * 32;
            group(first, count - first < 32 ? count - first : 32, backwards);
        }
        live = false;
        for (unsigned i = 0; i < count; i++) {
            if (lanes[i].state != State::Barrier) continue;
            lanes[i].state = State::Ready;
            live = true;
        }
    }
    if (fault.empty()) check_zones();
    return fault.empty() ? "" : "block " + text(block) + ", " + fault;
}

const uint32_t* Room::exchange(const uint32_t* words, unsigned size) {
    Lane& me = *current;
    const auto index = static_cast<unsigned>(&me - lanes.data());
    uint32_t* table = slots.data() + (me.parity * LANES + index / 32 * 32) * WORDS;
    memcpy(table + index % 32 * WORDS, words, size * 4);
    me.words = static_cast<uint8_t>(size);
    me.parity ^= 1;
    wait(State::Exchange);
    return table;
}

void* Room::shared_array(const void* tag, size_t bytes, size_t align) {
    for (const Array& array : arrays)
        if (array.tag == tag) return arena.data() + array.at;
    const auto base = reinterpret_cast<uintptr_t>(arena.data());
    const size_t at = ((base + arena_used + align - 1) & ~(align - 1)) - base;
    static_bytes += bytes;
    if (static_bytes > launch->static_limit || static_bytes + launch->dynamic_bytes > launch->shared_limit ||
        at + bytes + ZONE > arena.size())
        fail("shared arrays take " + std::to_string(static_bytes) + " bytes beside " +
             std::to_string(launch->dynamic_bytes) + " dynamic ones: more than a block may have");
    poison(arena.data() + at, bytes);
    poison(arena.data() + at + bytes, ZONE);
    arrays.push_back({tag, at, bytes});
    arena_used = at + bytes + ZONE;
    return arena.data() + at;
}

void barrier() { room->wait(State::Barrier); }

const uint32_t* gather(const uint32_t* words, unsigned count) { return room->exchange(words, count); }

void* shared_array(const void* tag, size_t bytes, size_t align) { return room->shared_array(tag, bytes, align); }

void* dynamic_shared() { return room->dynamic_shared(); }

void copy_later(void* shared, const void* global, bool valid) {
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % 16 != 0)
        room->fail("a copy of 16 bytes whose addresses are not multiples of 16");
    poison(shared, 16);
    room->lane().copies.push_back({shared, global, valid});
}

void copy_close() {
    Lane& lane = room->lane();
    lane.closed.push_back(lane.copies.size());
}

void copy_wait(unsigned pending) {
    Lane& lane = room->lane();
    if (lane.closed.size() <= pending) return;
    const size_t groups = lane.closed.size() - pending, ready = lane.closed[groups - 1];
    for (size_t i = 0; i < ready; i++) {
        const Copy& copy = lane.copies[i];
        if (copy.valid)
            memcpy(copy.to, copy.from, 16);
        else
            memset(copy.to, 0, 16);
    }
    lane.copies.erase(lane.copies.begin(), lane.copies.begin() + static_cast<long>(ready));
    lane.closed.erase(lane.closed.begin(), lane.closed.begin() + static_cast<long>(groups));
    for (size_t& end : lane.closed) end -= ready;
}

}  // namespace simt
