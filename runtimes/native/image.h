// Image files to upright 8-bit RGB, by the rules of tofe_edge/io/images.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace tofe {

// Pixels of three bytes, R, G, B, row by row without gaps.
struct Image {
  uint32_t width = 0;
  uint32_t height = 0;
  std::vector<uint8_t> rgb;

  const uint8_t* at(uint32_t x, uint32_t y) const { return rgb.data() + (size_t{y} * width + x) * 3; }
};

// Larger images are refused from their header.
constexpr uint64_t kMostPixels = 100'000'000;

// Decodes a PNG or JPEG file, told by content. Transparent pixels lie over white, EXIF orientation is applied.
// Throws Failure(kBadInput) if it cannot be read, is damaged, cut short or too large.
Image read_image(const std::string& path);

}  // namespace tofe
