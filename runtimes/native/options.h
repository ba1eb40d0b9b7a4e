// The command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tofe {

extern const char* const kUsage;

struct Options {
  std::string model;
  std::string method = "forward";
  std::string manifest;  // empty: NAME.json beside the model, where there is one
  std::optional<uint64_t> size;
  std::string sha256;  // in lower case; empty: not given
  std::string input;   // raw float32; with neither input nor image every element is 0.5
  std::string image;
  std::string output;  // empty: outputs are not written
  uint32_t top = 0;    // classes to name; 0: none
  std::optional<uint32_t> runs;
  std::optional<double> duration_s;
  uint32_t warmup = 0;
  uint32_t threads = 1;
  std::vector<uint32_t> cpus;  // empty: wherever the system likes
  std::string etdump;          // empty: not traced
  std::string self_test;       // folder of golden vectors; empty: models are run, not tested
  std::string sysfs = "/sys";
  bool help = false;
};

// Reads the command line. Throws Failure(kWrongCall) naming the argument that is wrong.
Options parse_options(int argc, const char* const* argv);

}  // namespace tofe
