#include "self_test.h"


namespace tofe {

Parity replay(Classifier& classifier, const GoldenSet& golden) {
  const std::string& method = classifier.method().name;
  std::vector<Pair> pairs;
  for (const GoldenVector& vector : golden.vectors) {
    if (vector.method != method) continue;
    pairs.push_back({vector.expected, classifier.classify_square(golden.image(vector.file)), vector.near_tie});
  }
  return compare(method, pairs, gates_of(classifier.manifest().precision));
}

std::vector<Parity> self_test(const std::string& model, const Manifest& manifest, const std::string& golden_folder,
                              uint32_t threads) {
  const GoldenSet golden = read_golden(golden_folder, manifest);
  std::vector<Parity> result;
  for (const MethodSpec& method : manifest.methods) {
    Classifier classifier(model, manifest, method.name, threads);
    result.push_back(replay(classifier, golden));
  }
  return result;
}

std::string first_failure(const std::vector<Parity>& parities) {
  for (const Parity& parity : parities) {
    if (!parity.passed()) return "method " + parity.method + ": " + parity.failures.front();
  }
  return "";
}

}  // namespace tofe
