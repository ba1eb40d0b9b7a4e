// Golden vectors, NAME.golden/: inputs as PNG, and what the model computed where it was converted. See docs/formats.md.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "image.h"
#include "manifest.h"
#include "prediction.h"

namespace tofe {

struct GoldenVector {
  std::string method;
  std::string file;
  Prediction expected;
  bool near_tie = false;  // either of two tokens may be kept
};

struct GoldenSet {
  std::map<std::string, Image> images;  // by file name
  std::vector<GoldenVector> vectors;

  // Throws Failure(kBadFile) where there is none.
  const Image& image(const std::string& file) const;
};

// Reads a folder and checks all of it against the manifest.
// Throws Failure: kBadFile where it is missing, damaged or another model's; kWrongCall in a build that reads none.
GoldenSet read_golden(const std::string& folder, const Manifest& manifest);

}  // namespace tofe
