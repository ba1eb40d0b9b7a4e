// What of golden vectors needs no JSON.
#include "golden.h"

#include <algorithm>

namespace tofe {

const Image& GoldenSet::image(const std::string& file) const {
  return std::find_if(images.begin(), images.end(), [&](const auto& one) { return one.first == file; })->second;
}

}  // namespace tofe
