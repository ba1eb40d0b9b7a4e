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
// Throws Failure(kBadFile) where the model takes other input than the manifest says.
std::vector<float> filled_input(const Image& square, const Manifest& manifest, const Model& model);

class Classifier {
 public:
  // Checks the file against the manifest and loads one method of it; throws Failure as Model does.
  Classifier(const std::string& model, Manifest manifest, const std::string& method, uint32_t threads);

  const Manifest& manifest() const { return manifest_; }
  const MethodSpec& method() const { return method_; }

  // Of an image of any size. Throws Failure: kBadInput, kBadFile or kRuntime.
  Prediction classify(const Image& image) { return classify_square(resize_and_cropped(image)); }

  // Of an image of image_size x image_size.
  Prediction classify_square(const Image& square);

 private:
  Image resize_and_cropped(const Image& image) const;

  Manifest manifest_;
  MethodSpec method_;
  Model model_;
};

}  // namespace tofe
