#include "preprocess.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "failure.h"
#include "resample.h"

namespace tofe {
namespace {

std::string size_of(uint64_t width, uint64_t height) {
  return std::to_string(width) + " x " + std::to_string(height) + " pixels";
}

// Half of what is over, halves to the even number.
uint32_t margin(uint64_t over) {
  const auto half = static_cast<uint32_t>(over / 2);
  return over % 2 == 0 ? half : half + half % 2;
}

}  // namespace

Image resize_and_crop(const Image& image, const Preprocessing& spec) {
  uint64_t width = image.width;
  uint64_t height = image.height;
  if (spec.resizes) {
    const auto shorter = static_cast<uint64_t>(std::floor(spec.image_size / spec.crop_pct));
    // The longer side is truncated, and multiplied before it is divided.
    const auto longer = static_cast<uint64_t>(static_cast<double>(shorter * std::max(width, height)) /
                                              static_cast<double>(std::min(width, height)));
    if (shorter * longer > kMostPixels) {
      throw Failure(ExitCode::kBadInput, "the image of " + size_of(width, height) +
                                             " is too narrow to resize its short side to " + std::to_string(shorter) +
                                             "; crop it to a less extreme shape");
    }
    const bool upright = width <= height;
    width = upright ? shorter : longer;
    height = upright ? longer : shorter;
  }
  const uint32_t size = spec.image_size;
  if (width < size || height < size) {
    throw Failure(ExitCode::kBadInput, "the image of " + size_of(width, height) + " is smaller than the " +
                                           size_of(size, size) + " to be cut from it; give a larger one");
  }
  const Window window{margin(width - size), margin(height - size), size, size};
  return resized(image, static_cast<uint32_t>(width), static_cast<uint32_t>(height), spec.interpolation, window);
}

std::vector<float> normalized(const Image& image, const Preprocessing& spec) {
  const size_t pixels = size_t{image.width} * image.height;
  std::vector<float> values(3 * pixels);
  for (size_t channel = 0; channel < 3; ++channel) {
    // Step by step in this order, as the reference does; one multiplication and addition would round otherwise.
    for (size_t i = 0; i < pixels; ++i) {
      float value = static_cast<float>(image.rgb[3 * i + channel]) / 255.0F;
      value -= spec.mean[channel];
      value /= spec.std[channel];
      values[channel * pixels + i] = value;
    }
  }
  return values;
}

}  // namespace tofe
