// What the runner reports: statistics of the samples, one line of JSON.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace tofe {

// One output tensor: its elements follow those of the output before it in the output file.
struct OutputInfo {
  std::vector<int64_t> shape;
  std::string dtype;  // numpy's name
  size_t bytes = 0;
};

struct RankedClass {
  uint32_t index = 0;
  std::string name;
  std::string id;
  double probability = 0;
};

// Frequencies and temperatures at one time.
struct Reading {
  double t_s = 0;
  std::map<std::string, int64_t> khz;
  std::map<std::string, double> celsius;
};

struct Machine {
  std::string arch;
  long cores_online = 0;
  std::string cpu_model;  // empty: not known
};

struct Report {
  std::string method;
  uint32_t threads = 0;
  std::vector<uint32_t> cpus;  // empty: not bound
  bool verified = false;       // the model's checksum was compared
  double load_ms = 0;
  std::vector<double> samples_ms;  // wall time of every counted run, in order
  std::vector<double> samples_at_s;
  double cpu_ms = 0;          // CPU time of one run, all threads together, mean over the counted runs
  int64_t planned_bytes = 0;  // activations outside the delegates
  int64_t peak_rss_bytes = 0;
  std::vector<OutputInfo> outputs;
  std::optional<std::vector<RankedClass>> top;  // best first
  std::vector<Reading> telemetry;
  Machine machine;
};

// The nearest-rank percentile: a value that was measured, not one between two. `percent` in (0, 100].
double percentile(std::vector<double> samples, double percent);

// One JSON object without line breaks; times in milliseconds where the key says so, in seconds where it does.
std::string to_json(const Report& report);

}  // namespace tofe
