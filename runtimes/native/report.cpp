#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace tofe {
namespace {

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      result += '\\';
      result += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[7];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(c));
      result += escape;
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string fixed(double milliseconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6f", milliseconds);
  return text;
}

template <typename Items, typename Format>
std::string list(const Items& items, Format format) {
  std::string result = "[";
  for (const auto& item : items) result += (result.size() > 1 ? ", " : "") + format(item);
  return result + ']';
}

std::string output_json(const OutputInfo& output) {
  return "{\"shape\": " + list(output.shape, [](int64_t size) { return std::to_string(size); }) +
         ", \"dtype\": " + quoted(output.dtype) + ", \"bytes\": " + std::to_string(output.bytes) + "}";
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
         ", \"load_ms\": " + fixed(report.load_ms) + ", \"p50_ms\": " + fixed(percentile(samples, 50)) +
         ", \"p90_ms\": " + fixed(percentile(samples, 90)) + ", \"p99_ms\": " + fixed(percentile(samples, 99)) +
         ", \"min_ms\": " + fixed(percentile(samples, 0)) + ", \"cpu_ms\": " + fixed(report.cpu_ms) +
         ", \"planned_bytes\": " + std::to_string(report.planned_bytes) +
         ", \"peak_rss_bytes\": " + std::to_string(report.peak_rss_bytes) +
         ", \"outputs\": " + list(report.outputs, output_json) + ", \"samples_ms\": " + list(samples, fixed) + "}";
}

}  // namespace tofe
