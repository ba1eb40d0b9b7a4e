// The deadline policy for ctypes: what it decides after each latency.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "deadline.h"

extern "C" void decide(const double* gmacs, size_t budgets, double deadline_ms, const double* latencies_ms, size_t runs,
                       int32_t* methods, int32_t* meets) {
  std::vector<tofe::DeadlinePolicy::Budget> all;
  for (size_t i = 0; i < budgets; ++i) all.push_back({std::to_string(i), gmacs[i]});
  tofe::DeadlinePolicy policy(all, deadline_ms);
  for (size_t run = 0; run < runs; ++run) {
    policy.observe(latencies_ms[run]);
    methods[run] = std::stoi(policy.method());
    meets[run] = policy.meets_deadline() ? 1 : 0;
  }
}
