#include "manifest.h"

#include "failure.h"
#include "files.h"
#include "json.h"

namespace tofe {
namespace {

constexpr uint64_t kSchema = 4;
constexpr uint64_t kMostTokens = 1 << 20;
constexpr uint64_t kMostImages = 4096;

std::string checksum(const Json& value) {
  const std::string digits = text(value, "sha256");
  if (digits.size() != 64 || digits.find_first_not_of("0123456789abcdef") != std::string::npos) {
    throw Malformed("sha256 must be 64 lower-case hexadecimal digits");
  }
  return digits;
}

std::array<float, 3> triple(const Json& value, const char* what, double least) {
  if (list(value, what).size() != 3) throw Malformed(std::string(what) + " must be three numbers");
  std::array<float, 3> result{};
  for (size_t i = 0; i < 3; ++i) result[i] = static_cast<float>(number(value[i], what, least, 1.0));
  return result;
}

std::vector<std::string> texts(const Json& value, const char* what) {
  std::vector<std::string> result;
  for (const Json& one : list(value, what)) result.push_back(text(one, what));
  return result;
}

Preprocessing preprocessing(const Json& value) {
  if (text(member(value, "color_order"), "color_order") != "RGB" || text(member(value, "layout"), "layout") != "NCHW") {
    throw Malformed("its model takes other than RGB in the layout NCHW");
  }
  Preprocessing result;
  result.image_size = static_cast<uint32_t>(whole(member(value, "image_size"), "image_size", 1, 4096));
  result.crop_pct = number(member(value, "crop_pct"), "crop_pct", 0.1, 1.0);
  const std::string interpolation = text(member(value, "interpolation"), "interpolation");
  if (interpolation != "bicubic" && interpolation != "bilinear") {
    throw Malformed("interpolation must be bicubic or bilinear");
  }
  result.interpolation = interpolation == "bicubic" ? Interpolation::kBicubic : Interpolation::kBilinear;
  result.mean = triple(member(value, "mean"), "mean", 0.0);
  result.std = triple(member(value, "std"), "std", 0.001);
  const auto resize = value.find("resize");
  const std::string how = resize == value.end() ? "short_side" : text(*resize, "resize");
  if (how != "short_side" && how != "none") throw Malformed("resize must be short_side or none");
  result.resizes = how == "short_side";
  return result;
}

MethodSpec method(const Json& value, const std::string& name) {
  MethodSpec result;
  result.name = name;
  result.gmacs = number(member(value, "gmacs"), "gmacs", 0.0, 1e9);
  const Json& counts = member(value, "token_counts");
  if (counts.is_null()) return result;
  for (const Json& count : list(counts, "token_counts")) {
    result.token_counts.push_back(static_cast<uint32_t>(whole(count, "token_counts", 0, kMostTokens)));
  }
  return result;
}

// What the model gives; manifests of classifiers do not say it.
void read_output(const Json& document, Manifest& result) {
  result.class_names = texts(member(document, "class_names"), "class_names");
  result.class_ids = texts(member(document, "class_ids"), "class_ids");
  if (const auto output = document.find("output"); output != document.end()) result.output = text(*output, "output");
  if (result.class_names.size() != result.class_ids.size() || (result.classifies() && result.class_names.empty())) {
    throw Malformed("class_names and class_ids must be of equal length and not empty");
  }
  if (result.classifies()) {
    result.output_shape = {static_cast<int64_t>(result.class_names.size())};
    return;
  }
  if (result.output != "embedding" && result.output != "features") {
    throw Malformed("output must be logits, embedding or features");
  }
  for (const Json& size : list(member(document, "output_shape"), "output_shape")) {
    result.output_shape.push_back(static_cast<int64_t>(whole(size, "output_shape", 1, kMostTokens)));
  }
  const bool fits = result.output == "embedding" ? result.output_shape.size() == 1
                                                 : result.output_shape.size() == 2 && result.output_shape[0] == result.patch_tokens;
  if (!fits) throw Malformed("output_shape is not that of " + result.output);
}

Manifest manifest(const Json& document, const std::string& path) {
  Manifest result;
  result.has_digest = check_digest(document, kSchema);
  if (const std::string target = text(member(document, "target"), "target"); target != "executorch") {
    throw Malformed("it is of a model for " + target + ", which this program does not run");
  }
  result.path = path;
  result.size_bytes = whole(member(document, "size_bytes"), "size_bytes", 0, uint64_t{1} << 53);
  result.sha256 = checksum(member(document, "sha256"));
  result.precision = text(member(document, "precision"), "precision");
  result.batch = static_cast<uint32_t>(whole(member(document, "batch"), "batch", 1, kMostImages));
  result.patch_tokens = static_cast<uint32_t>(whole(member(document, "patch_tokens"), "patch_tokens", 1, kMostTokens));
  result.preprocessing = preprocessing(member(document, "preprocessing"));
  read_output(document, result);
  result.methods.push_back(method(document, "forward"));
  for (const Json& further : list(member(document, "further_methods"), "further_methods")) {
    result.methods.push_back(method(further, text(member(further, "name"), "name")));
  }
  return result;
}

}  // namespace

Manifest read_manifest(const std::string& path) {
  const Json document = read_json(path);
  try {
    return manifest(document, path);
  } catch (const Malformed& error) {
    throw Failure(ExitCode::kBadFile, path + ": is not a manifest (" + error.what() + "); convert the model again");
  }
}

size_t Manifest::values() const {
  size_t result = 1;
  for (const int64_t size : output_shape) result *= static_cast<size_t>(size);
  return result;
}

const MethodSpec& Manifest::method(const std::string& name) const {
  std::string known;
  for (const MethodSpec& one : methods) {
    if (one.name == name) return one;
    known += (known.empty() ? "" : ", ") + one.name;
  }
  throw Failure(ExitCode::kWrongCall, path + ": has no method '" + name + "'; it has: " + known);
}

std::string manifest_path_of(const std::string& model) {
  const size_t slash = model.rfind('/');
  const size_t begin = slash == std::string::npos ? 0 : slash + 1;
  const size_t dot = model.rfind('.');
  // As Python's Path.with_suffix: a name that only begins with a dot has no suffix.
  const bool suffix = dot != std::string::npos && dot > begin && dot + 1 < model.size();
  return (suffix ? model.substr(0, dot) : model) + ".json";
}

void check_model(const std::string& model, const Manifest& manifest) {
  check_sum(model, {manifest.size_bytes, manifest.sha256, "its manifest " + manifest.path});
}

}  // namespace tofe
