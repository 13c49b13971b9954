#include "launch.h"

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace simt {

namespace {

// What a signal did before, for signals that no kernel raised.
struct sigaction earlier[65];

// A kernel's bad access ends its block; everybody else's goes where it went before.
void on_signal(int number, siginfo_t* info, void* context) {
    if (room != nullptr) {
        char words[96];
        snprintf(words, sizeof words, "%s at address %p", number == SIGFPE ? "division by zero" : "illegal access",
                 info->si_addr);
        room->fail(words);
    }
    const struct sigaction& old = earlier[number];
    if (old.sa_flags & SA_SIGINFO) {
        old.sa_sigaction(number, info, context);
    } else if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
        sigaction(number, &old, nullptr);
    } else {
        old.sa_handler(number);
    }
}

// A stack for signals, since a kernel may have used up its own. A fiber leaves it without returning.
void prepare_thread() {
    stack_t now;
    if (sigaltstack(nullptr, &now) == 0 && !(now.ss_flags & SS_DISABLE)) return;
    constexpr size_t BYTES = 64 * 1024;
    void* at = mmap(nullptr, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return;
    stack_t own = {};
    own.ss_sp = at;
    own.ss_size = BYTES;
    sigaltstack(&own, nullptr);
}

void take_signals() {
    struct sigaction action = {};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigemptyset(&action.sa_mask);
    for (int number : {SIGSEGV, SIGBUS, SIGFPE}) {
        struct sigaction now;
        if (sigaction(number, nullptr, &now) == 0 && now.sa_sigaction == on_signal) continue;
        sigaction(number, &action, &earlier[number]);
    }
}

// Rooms are large and made once for each thread that takes part.
class Rooms {
public:
    std::unique_ptr<Room> take() {
        std::lock_guard<std::mutex> hold(lock);
        if (idle.empty()) return std::make_unique<Room>();
        auto room = std::move(idle.back());
        idle.pop_back();
        return room;
    }
    void give(std::unique_ptr<Room> room) {
        std::lock_guard<std::mutex> hold(lock);
        idle.push_back(std::move(room));
    }

private:
    std::mutex lock;
    std::vector<std::unique_ptr<Room>> idle;
};

// Threads that wait for launches, and never end.
class Crew {
public:
    explicit Crew(unsigned hands) {
        for (unsigned i = 0; i < hands; i++) std::thread([this] { serve(); }).detach();
        count = hands;
    }
    // Runs `work` on every hand and on the caller, and returns when all are done.
    void all(const std::function<void()>& work) {
        {
            std::lock_guard<std::mutex> hold(lock);
            job = &work;
            busy = count;
            turn++;
        }
        wake.notify_all();
        work();
        std::unique_lock<std::mutex> hold(lock);
        done.wait(hold, [this] { return busy == 0; });
    }

private:
    void serve() {
        prepare_thread();
        uint64_t seen = 0;
        for (;;) {
            const std::function<void()>* work;
            {
                std::unique_lock<std::mutex> hold(lock);
                wake.wait(hold, [&] { return turn != seen; });
                seen = turn;
                work = job;
            }
            (*work)();
            std::lock_guard<std::mutex> hold(lock);
            if (--busy == 0) done.notify_one();
        }
    }

    std::mutex lock;
    std::condition_variable wake, done;
    const std::function<void()>* job = nullptr;
    uint64_t turn = 0;
    unsigned busy = 0, count = 0;
};

Dim block_of(uint64_t index, Dim blocks) {
    const uint64_t rest = index / blocks.x;
    return {static_cast<unsigned>(index % blocks.x), static_cast<unsigned>(rest % blocks.y),
            static_cast<unsigned>(rest / blocks.y)};
}

}  // namespace

std::string run(const Launch& launch) {
    static Rooms* rooms = new Rooms;
    static Crew* crew = new Crew(std::min(8u, std::max(1u, std::thread::hardware_concurrency())) - 1);
    const uint64_t total = uint64_t(launch.blocks.x) * launch.blocks.y * launch.blocks.z;
    std::atomic<uint64_t> next{0};
    std::atomic<bool> failed{false};
    std::mutex lock;
    std::string fault;
    take_signals();
    const auto work = [&] {
        auto room = rooms->take();
        for (uint64_t i; !failed && (i = next++) < total;) {
            const std::string why = room->run(launch, block_of(i, launch.blocks), launch.both_ways && i % 2 == 1);
            if (why.empty()) continue;
            std::lock_guard<std::mutex> hold(lock);
            if (!failed.exchange(true)) fault = why;
        }
        rooms->give(std::move(room));
    };
    prepare_thread();
    if (total < 4)
        work();
    else
        crew->all(work);
    return fault.empty() ? "" : std::string("kernel ") + launch.symbol + ": " + fault;
}

}  // namespace simt
