#include "report.h"

#include <algorithm>
#include <cmath>

#include "json_writer.h"

namespace tofe {
namespace {

template <typename Number>
std::string whole(Number value) {
  return std::to_string(value);
}

std::string output_json(const OutputInfo& output) {
  return "{\"shape\": " + list_json(output.shape, whole<int64_t>) + ", \"dtype\": " + quoted(output.dtype) +
         ", \"bytes\": " + std::to_string(output.bytes) + "}";
}

std::string class_json(const RankedClass& one) {
  return "{\"index\": " + std::to_string(one.index) + ", \"name\": " + quoted(one.name) + ", \"id\": " + quoted(one.id) +
         ", \"probability\": " + fixed(one.probability) + "}";
}

std::string reading_json(const Reading& reading) {
  return "{\"t_s\": " + fixed(reading.t_s) + ", \"khz\": " + object_json(reading.khz, whole<int64_t>) +
         ", \"celsius\": " + object_json(reading.celsius, fixed) + "}";
}

std::string machine_json(const Machine& machine) {
  return "{\"arch\": " + quoted(machine.arch) + ", \"cores_online\": " + std::to_string(machine.cores_online) +
         ", \"cpu_model\": " + quoted(machine.cpu_model) + "}";
}

}  // namespace

double percentile(std::vector<double> samples, double percent) {
  if (samples.empty()) return 0;
  std::sort(samples.begin(), samples.end());
  const double rank = std::ceil(percent / 100 * static_cast<double>(samples.size()));
  const size_t index = rank < 1 ? 0 : static_cast<size_t>(rank) - 1;
  return samples[std::min(index, samples.size() - 1)];
}

std::string to_json(const Report& report) {
  const auto& samples = report.samples_ms;
  return "{\"method\": " + quoted(report.method) + ", \"threads\": " + std::to_string(report.threads) +
         ", \"cpus\": " + (report.cpus.empty() ? "null" : list_json(report.cpus, whole<uint32_t>)) +
         ", \"verified\": " + (report.verified ? "true" : "false") + ", \"machine\": " + machine_json(report.machine) +
         ", \"load_ms\": " + fixed(report.load_ms) + ", \"p50_ms\": " + fixed(percentile(samples, 50)) +
         ", \"p90_ms\": " + fixed(percentile(samples, 90)) + ", \"p99_ms\": " + fixed(percentile(samples, 99)) +
         ", \"min_ms\": " + fixed(percentile(samples, 0)) + ", \"cpu_ms\": " + fixed(report.cpu_ms) +
         ", \"planned_bytes\": " + std::to_string(report.planned_bytes) +
         ", \"peak_rss_bytes\": " + std::to_string(report.peak_rss_bytes) +
         ", \"outputs\": " + list_json(report.outputs, output_json) +
         (report.top ? ", \"top\": " + list_json(*report.top, class_json) : "") +
         ", \"samples_ms\": " + list_json(samples, fixed) + ", \"samples_at_s\": " + list_json(report.samples_at_s, fixed) +
         ", \"telemetry\": " + list_json(report.telemetry, reading_json) + "}";
}

}  // namespace tofe
