// ExecuTorch's thread pool: one a process.
#pragma once

#include <cstdint>

namespace tofe {

// Sets the number of threads. Delegates take the pool as it is when they are loaded, and must not outlive it: a pool that
// already has this number is left alone. Throws Failure(kRuntime) where the threads cannot be started.
void set_threads(uint32_t threads);

}  // namespace tofe
