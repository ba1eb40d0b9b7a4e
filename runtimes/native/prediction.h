// What a model says about one image.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "manifest.h"
#include "model.h"

namespace tofe {

struct RankedClass {
  uint32_t index = 0;
  std::string name;
  std::string id;
  double probability = 0;
};

struct Prediction {
  std::vector<float> values;  // logits, an embedding, or features patch by patch
  std::vector<std::vector<int64_t>> kept;  // per stage: positions of the kept patch tokens in the image, best first
};

// Reads the first image of the outputs of one run: what the model gives, then one selection per stage. Selections are
// composed: each indexes the tokens that the one before it left.
// Throws Failure(kBadFile) if they are not what the manifest says of the method.
Prediction read_prediction(const std::vector<OutputInfo>& outputs, const std::string& content, const Manifest& manifest,
                           const MethodSpec& method);

// Throws Failure(kRuntime) if a value is infinite or not a number.
void check_finite(const std::vector<float>& values, const Manifest& manifest);

// The `count` likeliest classes, best first, with the softmax of the logits. Throws Failure: kWrongCall if the model gives no
// logits, kRuntime as check_finite().
std::vector<RankedClass> top_classes(const std::vector<float>& logits, const Manifest& manifest, size_t count);

}  // namespace tofe
