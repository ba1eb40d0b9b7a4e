// What the runner reports: statistics of the samples, one line of JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tofe {

// One output tensor: its elements follow those of the output before it in the output file.
struct OutputInfo {
  std::vector<int64_t> shape;
  std::string dtype;  // numpy's name
  size_t bytes = 0;
};

struct Report {
  std::string method;
  uint32_t threads = 0;
  double load_ms = 0;
  std::vector<double> samples_ms;  // wall time of every counted run, in order
  double cpu_ms = 0;               // CPU time of one run, all threads together, mean over the counted runs
  int64_t planned_bytes = 0;       // activations outside the delegates
  int64_t peak_rss_bytes = 0;
  std::vector<OutputInfo> outputs;
};

// The nearest-rank percentile: a value that was measured, not one between two. `percent` in (0, 100].
double percentile(std::vector<double> samples, double percent);

// One JSON object without line breaks; times in milliseconds.
std::string to_json(const Report& report);

}  // namespace tofe
