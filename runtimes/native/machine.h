// What the runner runs on, and what it takes of it.
#pragma once

#include <cstdint>
#include <string>

#include "report.h"

namespace tofe {

// `sysfs` is /sys; another folder in tests.
Machine this_machine(const std::string& sysfs);

// CPU time of all threads of this process, in milliseconds.
double cpu_now_ms();

// The kernel's own high-water mark of this process image. getrusage's is not: it starts at the parent's size.
int64_t peak_rss_bytes();

}  // namespace tofe
