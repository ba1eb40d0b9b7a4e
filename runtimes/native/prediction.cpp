#include "prediction.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "failure.h"

namespace tofe {
namespace {

[[noreturn]] void refuse(const Manifest& manifest, const MethodSpec& method) {
  throw Failure(ExitCode::kBadFile, manifest.path + ": method '" + method.name +
                                        "' of the model gives other outputs than this manifest says; convert the model again");
}

template <typename Element>
std::vector<Element> elements(const std::string& content, size_t offset, size_t count) {
  std::vector<Element> result(count);
  std::memcpy(result.data(), content.data() + offset, count * sizeof(Element));
  return result;
}

// Selections are whole numbers; in float32 if the graph ranks tokens instead of sorting them.
std::vector<int64_t> indices(const OutputInfo& output, const std::string& content, size_t offset, size_t count) {
  if (output.dtype == "int64") return elements<int64_t>(content, offset, count);
  std::vector<int64_t> result;
  if (output.dtype == "float32") {
    // Out of range or not a number becomes -1, which no caller takes for an index.
    for (const float value : elements<float>(content, offset, count)) {
      result.push_back(value >= 0 && value < 1e9F ? static_cast<int64_t>(value) : -1);
    }
  }
  return result;
}

}  // namespace

Prediction read_prediction(const std::vector<OutputInfo>& outputs, const std::string& content, const Manifest& manifest,
                           const MethodSpec& method) {
  const size_t count = manifest.values();
  std::vector<int64_t> shape = {manifest.batch};
  shape.insert(shape.end(), manifest.output_shape.begin(), manifest.output_shape.end());
  if (outputs.size() != 1 + method.token_counts.size() || outputs[0].dtype != "float32" || outputs[0].shape != shape) {
    refuse(manifest, method);
  }
  if (outputs[0].bytes > content.size() || count > outputs[0].bytes / sizeof(float)) refuse(manifest, method);
  Prediction result;
  result.values = elements<float>(content, 0, count);
  size_t offset = outputs[0].bytes;
  std::vector<int64_t> positions(manifest.patch_tokens);
  std::iota(positions.begin(), positions.end(), 0);
  for (size_t stage = 0; stage < method.token_counts.size(); ++stage) {
    const OutputInfo& output = outputs[1 + stage];
    // For one image (K,), for more (B, K): the last size is K.
    const size_t count = output.shape.empty() ? 0 : static_cast<size_t>(output.shape.back());
    const size_t width = output.dtype == "int64" ? sizeof(int64_t) : sizeof(float);
    if (output.bytes > content.size() - offset || count > output.bytes / width) refuse(manifest, method);
    const std::vector<int64_t> selected = indices(output, content, offset, count);
    // A selection lists all patches; the last one may list the kept ones alone.
    const bool last = stage + 1 == method.token_counts.size();
    const uint32_t kept = method.token_counts[stage];
    const bool fits = selected.size() == manifest.patch_tokens || (last && selected.size() == kept);
    if (!fits || kept > selected.size()) refuse(manifest, method);
    std::vector<int64_t> composed;
    for (const int64_t index : selected) {
      if (index < 0 || static_cast<size_t>(index) >= positions.size()) refuse(manifest, method);
      composed.push_back(positions[static_cast<size_t>(index)]);
    }
    positions = std::move(composed);
    result.kept.emplace_back(positions.begin(), positions.begin() + method.token_counts[stage]);
    offset += output.bytes;
  }
  return result;
}

void check_finite(const std::vector<float>& values, const Manifest& manifest) {
  if (std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) return;
  const std::string what = manifest.classifies() ? "values for the classes" : manifest.output + " values";
  throw Failure(ExitCode::kRuntime, manifest.path + ": the model's " + what +
                                        " are infinite or not numbers; replay its golden vectors, convert it again");
}

std::vector<RankedClass> top_classes(const std::vector<float>& logits, const Manifest& manifest, size_t count) {
  if (!manifest.classifies()) {
    throw Failure(ExitCode::kWrongCall, manifest.path + ": the model gives its " + manifest.output + ", no classes");
  }
  check_finite(logits, manifest);
  std::vector<uint32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  const double largest = logits[order.front()];
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - largest);
  std::vector<RankedClass> result;
  for (size_t i = 0; i < std::min(count, order.size()); ++i) {
    const uint32_t index = order[i];
    result.push_back({index, manifest.class_names[index], manifest.class_ids[index], std::exp(logits[index] - largest) / sum});
  }
  return result;
}

}  // namespace tofe
