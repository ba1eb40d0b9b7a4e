// What of golden vectors needs no JSON.
#include "golden.h"

#include "failure.h"

namespace tofe {

const Image& GoldenSet::image(const std::string& file) const {
  const auto found = images.find(file);
  if (found == images.end()) throw Failure(ExitCode::kBadFile, file + ": is missing from the golden vectors; copy them again");
  return found->second;
}

}  // namespace tofe
