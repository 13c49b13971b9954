// The texts that the card was built with: the simulated compiler knows them by their sum.
#pragma once
#include <cstdint>
#include <vector>

namespace nvrtc {

struct Text {
    const char* unit;
    uint64_t sum;
    std::vector<const char*> symbols;
};

// Written by the build.
const std::vector<Text>& texts();

}  // namespace nvrtc
