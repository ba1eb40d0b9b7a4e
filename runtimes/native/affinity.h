// On which cores the process runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tofe {

// "0,2-3" as {0, 2, 3}, in order and once each. Throws Failure(kWrongCall) where it is no such list.
std::vector<uint32_t> parse_cpus(const std::string& text);

// Binds this thread and those it will start. Throws Failure(kWrongCall) where a core is not there or not allowed.
void pin_to(const std::vector<uint32_t>& cpus);

}  // namespace tofe
