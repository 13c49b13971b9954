// Every kernel of the texts, by name: what calls it, and what its parameters are.
#pragma once
#include <cstddef>
#include <type_traits>
#include <utility>
#include <vector>

namespace simt {

// The letter of a parameter in a kernel's row.
template <class T> constexpr char letter() {
    if constexpr (std::is_pointer_v<T>) return 'p';
    if constexpr (std::is_same_v<T, unsigned>) return 'u';
    if constexpr (std::is_same_v<T, int>) return 'i';
    if constexpr (std::is_same_v<T, unsigned long long>) return 'l';
    if constexpr (std::is_same_v<T, float>) return 'f';
    if constexpr (std::is_class_v<T>) return 's';
    return '?';
}

// Calls a function whose arguments lie behind pointers, as a launch has them.
template <auto F> struct Call;
template <class... A, void (*F)(A...)> struct Call<F> {
    static constexpr char letters[] = {letter<A>()..., 0};
    static constexpr size_t sizes[] = {sizeof(A)..., 0};

    static void run(void** params) { go(params, std::index_sequence_for<A...>()); }

private:
    template <size_t... I> static void go([[maybe_unused]] void** params, std::index_sequence<I...>) {
        F(*static_cast<std::remove_cv_t<A>*>(params[I])...);
    }
};

struct Entry {
    const char* symbol;
    // As the row has it.
    unsigned threads;
    const char* row_letters;
    // As the text has it.
    const char* text_letters;
    const size_t* sizes;
    void (*run)(void** params);
};

struct Unit {
    const char* name;
    std::vector<Entry> entries;
};

inline std::vector<Unit>& units() {
    static std::vector<Unit> all;
    return all;
}

struct Register {
    Register(const char* name, std::vector<Entry> entries) { units().push_back({name, std::move(entries)}); }
};

}  // namespace simt

#define SIMT_ENTRY(space, symbol, threads, row)                                                                        \
    simt::Entry {                                                                                                      \
        #symbol, threads, row, simt::Call<&space::symbol>::letters, simt::Call<&space::symbol>::sizes,             \
            simt::Call<&space::symbol>::run                                                                            \
    }
