#include "classifier.h"

#include <utility>

#include "failure.h"
#include "preprocess.h"

namespace tofe {
namespace {

const std::string& checked(const std::string& model, const Manifest& manifest) {
  check_model(model, manifest);
  return model;
}

}  // namespace

std::vector<float> filled_input(const Image& square, const Manifest& manifest, const Model& model) {
  const auto side = static_cast<int32_t>(manifest.preprocessing.image_size);
  const std::vector<int32_t> wanted = {static_cast<int32_t>(manifest.batch), 3, side, side};
  if (model.input_sizes() != wanted) {
    throw Failure(ExitCode::kBadFile,
                  manifest.path + ": the model takes other input than this manifest says; convert the model again");
  }
  const std::vector<float> one = normalized(square, manifest.preprocessing);
  std::vector<float> values;
  values.reserve(one.size() * manifest.batch);
  for (uint32_t i = 0; i < manifest.batch; ++i) values.insert(values.end(), one.begin(), one.end());
  return values;
}

Classifier::Classifier(const std::string& model, Manifest manifest, const std::string& method, uint32_t threads)
    : manifest_(std::move(manifest)),
      method_(manifest_.method(method)),
      model_(checked(model, manifest_), method, threads) {}

Image Classifier::resize_and_cropped(const Image& image) const { return resize_and_crop(image, manifest_.preprocessing); }

Prediction Classifier::classify_square(const Image& square) {
  std::vector<float> values = filled_input(square, manifest_, model_);
  model_.set_input(values);
  model_.run();
  std::string content;
  const std::vector<OutputInfo> outputs = model_.outputs(&content);
  return read_prediction(outputs, content, manifest_, method_);
}

}  // namespace tofe
