// A model with its manifest: images in, predictions out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "image.h"
#include "manifest.h"
#include "model.h"
#include "prediction.h"

namespace tofe {

// Values for a whole batch, every image of it the given one (already resized and cropped).
// Throws Failure(kBadFile) if the model takes other input than the manifest says.
std::vector<float> filled_input(const Image& square, const Manifest& manifest, const Model& model);

class Classifier {
 public:
  // Loads one method of a file that check_model() has let pass; the manifest must outlive this. Throws Failure as Model does.
  Classifier(const std::string& model, const Manifest& manifest, const std::string& method, uint32_t threads);

  const Manifest& manifest() const { return manifest_; }
  const MethodSpec& method() const { return method_; }

  // Classifies an image of any size. Throws Failure: kBadInput, kBadFile or kRuntime.
  Prediction classify(const Image& image);

  // Classifies an image of image_size x image_size.
  Prediction classify_square(const Image& square);

 private:
  const Manifest& manifest_;
  const MethodSpec& method_;
  Model model_;
};

}  // namespace tofe
