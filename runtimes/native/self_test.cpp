#include "self_test.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <set>

#include "failure.h"
#include "files.h"
#include "json.h"

namespace tofe {
namespace {

constexpr uint64_t kSchema = 2;
constexpr size_t kLongestName = 4;

bool is_png_name(const std::string& name) {
  const size_t digits = name.find_first_not_of("0123456789");
  return digits != std::string::npos && digits >= 1 && digits <= kLongestName && name.substr(digits) == ".png";
}

std::vector<float> values(const Json& value, const std::string& output, size_t count) {
  if (list(value, output.c_str()).size() != count) {
    throw Malformed("its " + output + (output == "logits" ? " are not one per class" : " values are not as many as the model's"));
  }
  constexpr double most = std::numeric_limits<float>::max();
  std::vector<float> result;
  for (const Json& one : value) result.push_back(static_cast<float>(number(one, output.c_str(), -most, most)));
  return result;
}

// The patches whose features are stored.
std::vector<uint32_t> tokens(const Json& value, uint32_t patch_tokens) {
  std::vector<uint32_t> result;
  for (const Json& one : list(value, "tokens")) {
    result.push_back(static_cast<uint32_t>(whole(one, "tokens", 0, patch_tokens - 1)));
  }
  if (result.empty()) throw Malformed("tokens is empty");
  return result;
}

// Those values of a prediction that a vector stores.
Prediction stored(Prediction found, const GoldenVector& vector, const Manifest& manifest) {
  if (vector.tokens.empty()) return found;
  const auto width = static_cast<size_t>(manifest.output_shape.back());
  std::vector<float> rows;
  for (const uint32_t token : vector.tokens) {
    const auto first = found.values.begin() + static_cast<std::ptrdiff_t>(token * width);
    rows.insert(rows.end(), first, first + static_cast<std::ptrdiff_t>(width));
  }
  found.values = std::move(rows);
  return found;
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
  size_t count = manifest.values();
  if (manifest.output == "features") {
    result.tokens = tokens(member(entry, "tokens"), manifest.patch_tokens);
    count = result.tokens.size() * static_cast<size_t>(manifest.output_shape.back());
  }
  result.expected.values = values(member(entry, manifest.output.c_str()), manifest.output, count);
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

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kRounding = 1e-9;

std::string rounded(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

// Power of the expected values, of the difference, and the largest expected magnitude.
struct Powers {
  double signal = 0;
  double noise = 0;
  double peak = 0;
  size_t count = 0;
  bool finite = true;

  void add(const Prediction& expected, const Prediction& found) {
    for (size_t i = 0; i < expected.values.size(); ++i) {
      const double wanted = expected.values[i];
      const double got = found.values[i];
      finite = finite && std::isfinite(got);
      signal += wanted * wanted;
      noise += (wanted - got) * (wanted - got);
      peak = std::max(peak, std::fabs(wanted));
      ++count;
    }
  }

  double snr_db() const {
    if (!finite) return -kInfinity;
    if (noise == 0) return kInfinity;
    return signal > 0 ? 10 * std::log10(signal / noise) : -kInfinity;
  }

  double psnr_db() const {
    const double power = signal / static_cast<double>(count);
    return snr_db() + (power > 0 ? 20 * std::log10(peak) - 10 * std::log10(power) : 0);
  }
};

double overlap(const std::vector<int64_t>& expected, const std::vector<int64_t>& found) {
  const std::set<int64_t> wanted(expected.begin(), expected.end());
  const std::set<int64_t> kept(found.begin(), found.end());
  const auto shared = std::count_if(kept.begin(), kept.end(), [&](int64_t one) { return wanted.count(one) > 0; });
  return static_cast<double>(shared) / std::max<double>(1, static_cast<double>(wanted.size()));
}

struct Pair {
  Prediction expected;
  Prediction found;
  bool near_tie = false;
};

Gates gates_of(const std::string& precision) {
  if (precision == "fp32") return {60, -kInfinity, 1.0, true};
  if (precision == "fp16") return {20, 35, 0.98, false};
  if (precision == "int8" || precision == "pal6" || precision == "pal4") return {10, -kInfinity, 0.85, false};
  throw Failure(ExitCode::kBadFile, "the manifest's precision '" + precision + "' is not known; convert the model again");
}

// Compares the predictions of one method on at least one image.
Parity compare(const std::string& method, const std::string& output, const std::vector<Pair>& pairs, const Gates& gates) {
  const bool all_tied = std::all_of(pairs.begin(), pairs.end(), [](const Pair& one) { return one.near_tie; });
  Powers powers;
  Parity result;
  result.method = method;
  result.gates = gates;
  result.images = pairs.size();
  result.kept_overlap.assign(pairs.front().expected.kept.size(), 0);
  size_t counted = 0;
  for (const Pair& pair : pairs) {
    if (gates.skips_near_ties && pair.near_tie && !all_tied) continue;
    powers.add(pair.expected, pair.found);
    for (size_t stage = 0; stage < result.kept_overlap.size(); ++stage) {
      result.kept_overlap[stage] += overlap(pair.expected.kept[stage], pair.found.kept[stage]);
    }
    ++counted;
  }
  result.near_ties = pairs.size() - counted;
  result.snr_db = powers.snr_db();
  result.psnr_db = powers.psnr_db();
  // Written so that what is not a number fails.
  if (!(result.snr_db >= gates.min_snr_db)) {
    result.failures.push_back(output + " SNR " + rounded(result.snr_db) + " dB is under " + rounded(gates.min_snr_db) + " dB");
  }
  if (!(result.psnr_db >= gates.min_psnr_db)) {
    result.failures.push_back(output + " PSNR " + rounded(result.psnr_db) + " dB is under " + rounded(gates.min_psnr_db) + " dB");
  }
  for (size_t stage = 0; stage < result.kept_overlap.size(); ++stage) {
    double& share = result.kept_overlap[stage];
    share /= static_cast<double>(counted);
    if (!(share >= gates.min_kept_overlap - kRounding)) {
      result.failures.push_back("kept-token overlap of stage " + std::to_string(stage + 1) + " " + rounded(100 * share) +
                                "% is under " + rounded(100 * gates.min_kept_overlap) + "%");
    }
  }
  return result;
}

}  // namespace

GoldenSet read_golden(const std::string& folder, const Manifest& manifest) {
  const std::string path = folder + "/golden.json";
  const Json document = read_json(path);
  GoldenSet result;
  std::map<std::string, std::string> checksums;  // by file name
  try {
    check_digest(document, kSchema);
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

Parity replay(Classifier& classifier, const GoldenSet& golden) {
  const std::string& method = classifier.method().name;
  std::vector<Pair> pairs;
  for (const GoldenVector& vector : golden.vectors) {
    if (vector.method != method) continue;
    Prediction found = classifier.classify_square(golden.images.at(vector.file));
    pairs.push_back({vector.expected, stored(std::move(found), vector, classifier.manifest()), vector.near_tie});
  }
  return compare(method, classifier.manifest().output, pairs, gates_of(classifier.manifest().precision));
}

std::string first_failure(const std::vector<Parity>& parities) {
  for (const Parity& parity : parities) {
    if (!parity.passed()) return "method " + parity.method + ": " + parity.failures.front();
  }
  return "";
}

}  // namespace tofe
