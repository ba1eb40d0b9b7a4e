// Timing the runs of a model.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "model.h"
#include "report.h"
#include "telemetry.h"

namespace tofe {

// How long to run: a number of runs, or runs until the time is over (at least one).
struct Schedule {
  uint32_t warmup = 0;
  uint32_t runs = 1;
  std::optional<double> duration_s;  // takes the place of `runs`
};

struct Samples {
  std::vector<double> ms;    // wall time of every counted run
  std::vector<double> at_s;  // when each began, the first at 0
  double cpu_ms = 0;         // CPU time of one run, all threads together, mean
  std::vector<Reading> telemetry;
};

// The model must have its input. Throws Failure(kRuntime).
Samples measure(Model& model, const Schedule& schedule, Telemetry& telemetry);

}  // namespace tofe
