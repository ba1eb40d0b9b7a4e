// From an RGB image to the model's input, equal to tofe_edge/io/preprocessing.py to the bit.
#pragma once

#include <cstdint>
#include <vector>

#include "image.h"
#include "manifest.h"

namespace tofe {

// A rectangle of pixels.
struct Window {
  uint32_t left = 0;
  uint32_t top = 0;
  uint32_t width = 0;
  uint32_t height = 0;
};

// What Pillow's Image.resize((width, height), filter).crop(window) gives, equal to the byte; only what shows in the window is
// computed.
Image resized(const Image& image, uint32_t width, uint32_t height, Interpolation filter, const Window& window);

// The square that the model sees: image_size x image_size. Throws Failure(kBadInput) if the image is too small or too
// narrow for it.
Image resize_and_crop(const Image& image, const Preprocessing& spec);

// (pixels / 255 - mean) / std in float32, channel after channel: 3 x height x width values.
std::vector<float> normalized(const Image& image, const Preprocessing& spec);

}  // namespace tofe
