// What of a manifest needs no JSON.
#include "manifest.h"

#include "failure.h"
#include "files.h"

namespace tofe {

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
