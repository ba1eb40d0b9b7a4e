// The machine: which cores a process uses, what it is, and its clocks and temperatures over time.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace tofe {

// "0,2-3" as {0, 2, 3}, in order and once each. Throws Failure(kWrongCall) if it is not such a list.
std::vector<uint32_t> parse_cpus(const std::string& text);

// Binds this thread and those it will start. Throws Failure(kWrongCall) if a core is not there or not allowed.
void pin_to(const std::vector<uint32_t>& cpus);

struct Machine {
  std::string arch;
  long cores_online = 0;
  std::string cpu_model;  // empty: not known
};

// `sysfs` is /sys; another folder in tests.
Machine this_machine(const std::string& sysfs);

// CPU time of all threads of this process, in milliseconds.
double cpu_now_ms();

// The kernel's own high-water mark of this process image. getrusage's is not: it starts at the parent's size.
int64_t peak_rss_bytes();

// Frequencies and temperatures at one time.
struct Reading {
  double t_s = 0;
  std::map<std::string, int64_t> khz;
  std::map<std::string, double> celsius;
};

using Clock = std::chrono::steady_clock;

// Reads /sys at most once a second, and only when asked: never while a run is timed.
class Telemetry {
 public:
  // `root` is /sys; another folder in tests.
  explicit Telemetry(const std::string& root);

  // Takes a reading if the last one is a second old. Nothing if the system tells nothing.
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
