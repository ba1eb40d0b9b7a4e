#include "classifier.h"

#include "failure.h"
#include "preprocess.h"

namespace tofe {

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

Classifier::Classifier(const std::string& model, const Manifest& manifest, const std::string& method, uint32_t threads)
    : manifest_(manifest), method_(manifest.method(method)), model_(model, method, threads) {}

Prediction Classifier::classify(const Image& image) { return classify_square(resize_and_crop(image, manifest_.preprocessing)); }

Prediction Classifier::classify_square(const Image& square) {
  std::vector<float> values = filled_input(square, manifest_, model_);
  model_.set_input(values);
  model_.run();
  std::string content;
  const std::vector<OutputInfo> outputs = model_.outputs(&content);
  return read_prediction(outputs, content, manifest_, method_);
}

}  // namespace tofe
