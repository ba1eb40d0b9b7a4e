// The manifest NAME.json beside a model NAME.pte: what the model is, how to feed it and how to read it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace tofe {

enum class Interpolation { kBicubic, kBilinear };

// How an image becomes a model input; as tofe_edge/io/preprocessing.py.
struct Preprocessing {
  uint32_t image_size = 0;
  double crop_pct = 1;
  Interpolation interpolation = Interpolation::kBicubic;
  std::array<float, 3> mean = {};
  std::array<float, 3> std = {};
  bool resizes = true;  // false: the centre is cut out of an image as it is
};

// One budget of a program.
struct MethodSpec {
  std::string name;
  double gmacs = 0;
  std::vector<uint32_t> token_counts;  // kept patch tokens per stage; empty for a dense model
};

struct Manifest {
  std::string path;
  bool has_digest = true;  // false: an earlier version wrote it, and damage to it is not noticed
  uint64_t size_bytes = 0;
  std::string sha256;
  std::string precision;
  uint32_t batch = 1;
  uint32_t patch_tokens = 0;
  Preprocessing preprocessing;
  std::string output = "logits";  // or embedding, or features
  std::vector<int64_t> output_shape;  // of one image: {classes}, {D} or {N, D}
  std::vector<std::string> class_names;  // none if the output is no logits
  std::vector<std::string> class_ids;
  std::vector<MethodSpec> methods;  // the default one first

  bool classifies() const { return output == "logits"; }

  // Numbers that the model gives for one image.
  size_t values() const;

  // Throws Failure(kWrongCall) if there is none, listing the names there are.
  const MethodSpec& method(const std::string& name) const;
};

// NAME.json for NAME.pte.
std::string manifest_path_of(const std::string& model);

// Throws Failure(kBadFile) if it cannot be read, is malformed or of a model for another runtime.
Manifest read_manifest(const std::string& path);

// Throws Failure(kBadFile) if the file is not the one that the manifest describes.
void check_model(const std::string& model, const Manifest& manifest);

}  // namespace tofe
