// Core frequencies and temperatures over time, where the system tells them.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "report.h"

namespace tofe {

using Clock = std::chrono::steady_clock;

// Reads /sys at most once a second, and only when asked: never while a run is timed.
class Telemetry {
 public:
  // `root` is /sys; another folder in tests.
  explicit Telemetry(const std::string& root);

  // Takes a reading where the last one is a second old. Nothing where the system tells nothing.
  void poll();

  // What was read; times in seconds after `origin`, those before it as 0.
  std::vector<Reading> readings(Clock::time_point origin) const;

 private:
  struct Stamped {
    Clock::time_point when;
    Reading reading;
  };

  std::map<std::string, std::string> frequencies_;   // name: file
  std::map<std::string, std::string> temperatures_;  // name: file
  std::vector<Stamped> taken_;
};

}  // namespace tofe
