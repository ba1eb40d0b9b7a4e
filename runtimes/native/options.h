// The command line.
#pragma once

#include <cstdint>
#include <string>

namespace tofe {

extern const char* const kUsage;

struct Options {
  std::string model;
  std::string method = "forward";
  std::string input;   // empty: every element is 0.5
  std::string output;  // empty: outputs are not written
  uint32_t runs = 1;
  uint32_t warmup = 0;
  uint32_t threads = 1;
  bool help = false;
};

// Reads the command line. Throws Failure(kWrongCall) naming the argument that is wrong.
Options parse_options(int argc, const char* const* argv);

}  // namespace tofe
