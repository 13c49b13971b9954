// Runs the blocks of a launch on the machine's threads.
#pragma once
#include "block.h"

namespace simt {

// Runs every block. What went wrong first, or nothing. One launch at a time.
std::string run(const Launch& launch);

}  // namespace simt
