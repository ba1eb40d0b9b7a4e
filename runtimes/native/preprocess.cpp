#include "preprocess.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "failure.h"

namespace tofe {
namespace {

// Resizing: two passes, along rows and along columns. Each output pixel is a sum of the input pixels under a filter that is
// stretched if the image shrinks; weights are computed in double precision and rounded to fixed point, sums start at
// one half, and every pass clips to 0..255. Pillow has its own reading of each of these, followed here.

constexpr int kFractionBits = 32 - 8 - 2;  // a sum of 8-bit values, with room for the filter's overshoot

double triangle(double x) {
  const double distance = std::fabs(x);
  return distance < 1.0 ? 1.0 - distance : 0.0;
}

// Keys' cubic with a = -0.5.
double cubic(double x) {
  constexpr double a = -0.5;
  const double distance = std::fabs(x);
  if (distance < 1.0) return ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1;
  if (distance < 2.0) return (((distance - 5) * distance + 8) * distance - 4) * a;
  return 0.0;
}

// The input pixels from `first` on that make one output pixel.
struct Taps {
  uint32_t first = 0;
  std::vector<int32_t> weights;
};

// Taps of the output pixels [begin, begin + count) where `from` pixels become `to`.
std::vector<Taps> taps_of(uint32_t from, uint32_t to, uint32_t begin, uint32_t count, Interpolation filter) {
  std::vector<Taps> result(count);
  if (from == to) {
    for (uint32_t i = 0; i < count; ++i) result[i] = {begin + i, {1 << kFractionBits}};
    return result;
  }
  const bool bicubic = filter == Interpolation::kBicubic;
  const double scale = static_cast<double>(from) / to;
  const double stretch = std::max(scale, 1.0);
  const double support = (bicubic ? 2.0 : 1.0) * stretch;
  const double shrink = 1.0 / stretch;
  std::vector<double> weights;
  for (uint32_t i = 0; i < count; ++i) {
    const double center = (begin + i + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - support + 0.5), 0);
    const int last = std::min(static_cast<int>(center + support + 0.5), static_cast<int>(from));
    weights.clear();
    double sum = 0.0;
    for (int x = first; x < last; ++x) {
      const double place = (x - center + 0.5) * shrink;
      weights.push_back(bicubic ? cubic(place) : triangle(place));
      sum += weights.back();
    }
    result[i].first = static_cast<uint32_t>(first);
    for (double weight : weights) {
      if (sum != 0.0) weight /= sum;
      const double scaled = weight * (1 << kFractionBits);
      result[i].weights.push_back(static_cast<int32_t>(weight < 0 ? scaled - 0.5 : scaled + 0.5));
    }
  }
  return result;
}

uint8_t clipped(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255)); }

// One output pixel from input pixels that lie `step` bytes apart.
void filter_pixel(const Taps& taps, const uint8_t* first, size_t step, uint8_t* target) {
  int32_t sums[3] = {1 << (kFractionBits - 1), 1 << (kFractionBits - 1), 1 << (kFractionBits - 1)};
  for (const int32_t weight : taps.weights) {
    for (int i = 0; i < 3; ++i) sums[i] += first[i] * weight;
    first += step;
  }
  for (int i = 0; i < 3; ++i) target[i] = clipped(sums[i]);
}

// The input pixels that some output pixels need together.
struct Span {
  uint32_t begin = 0;
  uint32_t count = 0;
};

Span needed(const std::vector<Taps>& all) {
  uint32_t end = 0;
  for (const Taps& taps : all) end = std::max(end, taps.first + static_cast<uint32_t>(taps.weights.size()));
  return {all.front().first, end - all.front().first};
}

Image blank(uint32_t width, uint32_t height) {
  return {width, height, std::vector<uint8_t>(size_t{width} * height * 3)};
}

// One output pixel for each of `all` in each row of `rows`. The image's first column is number `left`.
Image across(const Image& image, uint32_t left, const std::vector<Taps>& all, Span rows) {
  Image result = blank(static_cast<uint32_t>(all.size()), rows.count);
  uint8_t* target = result.rgb.data();
  for (uint32_t y = rows.begin; y < rows.begin + rows.count; ++y) {
    for (const Taps& taps : all) {
      filter_pixel(taps, image.at(taps.first - left, y), 3, target);
      target += 3;
    }
  }
  return result;
}

// One output row for each of `all`, of the columns `columns`. The image's first row is number `top`.
Image down(const Image& image, uint32_t top, const std::vector<Taps>& all, Span columns) {
  Image result = blank(columns.count, static_cast<uint32_t>(all.size()));
  uint8_t* target = result.rgb.data();
  for (const Taps& taps : all) {
    for (uint32_t x = columns.begin; x < columns.begin + columns.count; ++x) {
      filter_pixel(taps, image.at(x, taps.first - top), size_t{image.width} * 3, target);
      target += 3;
    }
  }
  return result;
}

// Pillow 13 filters columns first if the height loses more than twice as many pixels as the width; older ones never do.
// (Found by comparing both orders with it on 5000 random sizes.) Rounding between the passes makes the difference.
bool columns_first(const Image& image, uint32_t width, uint32_t height) {
  return image.height > height && int64_t{image.height} - height > 2 * (int64_t{image.width} - width);
}

std::string size_of(uint64_t width, uint64_t height) {
  return std::to_string(width) + " x " + std::to_string(height) + " pixels";
}

// Half of what is over, halves to the even number.
uint32_t margin(uint64_t over) {
  const auto half = static_cast<uint32_t>(over / 2);
  return over % 2 == 0 ? half : half + half % 2;
}

}  // namespace

Image resized(const Image& image, uint32_t width, uint32_t height, Interpolation filter, const Window& window) {
  // A side that keeps its size gets one tap of weight 1 per pixel, which changes nothing.
  const auto horizontal = taps_of(image.width, width, window.left, window.width, filter);
  const auto vertical = taps_of(image.height, height, window.top, window.height, filter);
  if (columns_first(image, width, height)) {
    const Span columns = needed(horizontal);
    const Image low = down(image, 0, vertical, columns);
    return across(low, columns.begin, horizontal, {0, low.height});
  }
  const Span rows = needed(vertical);
  const Image narrow = across(image, 0, horizontal, rows);
  return down(narrow, rows.begin, vertical, {0, narrow.width});
}

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
