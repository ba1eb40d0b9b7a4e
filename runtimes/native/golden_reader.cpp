// Reading a folder of golden vectors.
#include "golden.h"

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string>

#include "files.h"
#include "json_reader.h"

namespace tofe {
namespace {

constexpr uint64_t kSchema = 1;
constexpr size_t kLongestName = 4;

bool is_png_name(const std::string& name) {
  const size_t digits = name.find_first_not_of("0123456789");
  return digits != std::string::npos && digits >= 1 && digits <= kLongestName && name.substr(digits) == ".png";
}

std::vector<float> logits(const Json& value, size_t classes) {
  if (list(value, "logits").size() != classes) throw Malformed("its logits are not one a class");
  constexpr double most = std::numeric_limits<float>::max();
  std::vector<float> result;
  for (const Json& one : value) result.push_back(static_cast<float>(number(one, "logits", -most, most)));
  return result;
}

std::vector<int64_t> positions(const Json& value, uint32_t count, uint32_t tokens) {
  std::set<int64_t> seen;
  std::vector<int64_t> result;
  for (const Json& one : list(value, "kept")) {
    result.push_back(static_cast<int64_t>(whole(one, "kept", 0, tokens - 1)));
    seen.insert(result.back());
  }
  if (result.size() != count || seen.size() != count) throw Malformed("kept is not as many different positions as counted");
  return result;
}

const MethodSpec& method_of(const std::string& name, const Manifest& manifest) {
  const auto found = std::find_if(manifest.methods.begin(), manifest.methods.end(),
                                  [&](const MethodSpec& one) { return one.name == name; });
  if (found == manifest.methods.end()) throw Malformed("its method is none of the model's");
  return *found;
}

GoldenVector vector(const Json& entry, const Manifest& manifest) {
  GoldenVector result;
  result.method = text(member(entry, "method"), "method");
  const MethodSpec& method = method_of(result.method, manifest);
  result.file = text(member(entry, "file"), "file");
  // A name that leads out of the folder is none of these.
  if (!is_png_name(result.file)) throw Malformed("its file is not named like 0.png");
  result.expected.logits = logits(member(entry, "logits"), manifest.class_names.size());
  const Json& stages = list(member(entry, "kept"), "kept");
  if (stages.size() != method.token_counts.size()) throw Malformed("kept has another number of stages than the model");
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    result.expected.kept.push_back(positions(stages[stage], method.token_counts[stage], manifest.patch_tokens));
  }
  result.near_tie = truth(member(entry, "near_tie"), "near_tie");
  return result;
}

Image image(const std::string& path, const std::string& sha256, const Manifest& manifest) {
  check_sum(path, {std::nullopt, sha256, "golden.json"});
  Image found = read_image(path);
  const uint32_t size = manifest.preprocessing.image_size;
  if (found.width != size || found.height != size) {
    throw Failure(ExitCode::kBadFile, path + ": has another size than the model takes; convert the model again");
  }
  return found;
}

}  // namespace

GoldenSet read_golden(const std::string& folder, const Manifest& manifest) {
  const std::string path = folder + "/golden.json";
  const Json document = read_json(path);
  GoldenSet result;
  std::map<std::string, std::string> checksums;  // by file name
  try {
    if (whole(member(document, "schema"), "schema", 0, 1000) != kSchema) throw Malformed("its schema is not 1");
    if (text(member(document, "artifact_sha256"), "artifact_sha256") != manifest.sha256) {
      throw Malformed("it is of another model file");
    }
    for (const Json& entry : list(member(document, "vectors"), "vectors")) {
      result.vectors.push_back(vector(entry, manifest));
      const std::string sha256 = text(member(entry, "sha256"), "sha256");
      if (checksums.emplace(result.vectors.back().file, sha256).first->second != sha256) {
        throw Malformed("one file has two checksums");
      }
    }
    for (const MethodSpec& method : manifest.methods) {
      const auto is_of = [&](const GoldenVector& one) { return one.method == method.name; };
      if (std::none_of(result.vectors.begin(), result.vectors.end(), is_of)) throw Malformed("it lacks a method's inputs");
    }
  } catch (const Malformed& error) {
    throw Failure(ExitCode::kBadFile, path + ": holds no golden vectors of this model (" + error.what() +
                                          "); copy the model's own folder or convert it again");
  }
  for (const auto& [name, sha256] : checksums) result.images.emplace(name, image(folder + "/" + name, sha256, manifest));
  return result;
}

}  // namespace tofe
