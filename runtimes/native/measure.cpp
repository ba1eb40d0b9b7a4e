#include "measure.h"

#include "machine.h"

namespace tofe {
namespace {

double seconds(Clock::time_point from, Clock::time_point to) { return std::chrono::duration<double>(to - from).count(); }

}  // namespace

Samples measure(Model& model, const Schedule& schedule, Telemetry& telemetry) {
  for (uint32_t i = 0; i < schedule.warmup; ++i) model.run();
  model.forget_events();

  Samples samples;
  if (!schedule.duration_s) {
    samples.ms.reserve(schedule.runs);
    samples.at_s.reserve(schedule.runs);
  }
  Clock::time_point origin;
  const auto more = [&] {
    if (samples.ms.empty()) return true;
    return schedule.duration_s ? seconds(origin, Clock::now()) < *schedule.duration_s : samples.ms.size() < schedule.runs;
  };
  while (more()) {
    telemetry.poll();
    const double cpu_begun = cpu_now_ms();
    const auto begun = Clock::now();
    model.run();
    const auto ended = Clock::now();
    samples.cpu_ms += cpu_now_ms() - cpu_begun;
    if (samples.ms.empty()) origin = begun;
    samples.ms.push_back(1e3 * seconds(begun, ended));
    samples.at_s.push_back(seconds(origin, begun));
  }
  samples.cpu_ms /= static_cast<double>(samples.ms.size());
  telemetry.poll();
  samples.telemetry = telemetry.readings(origin);
  return samples;
}

}  // namespace tofe
