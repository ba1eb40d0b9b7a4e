// Resizing by Pillow's antialiased filters, equal to it to the byte.
#pragma once

#include <cstdint>

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

// What Image.resize((width, height), filter).crop(window) gives; only what shows in the window is computed.
Image resized(const Image& image, uint32_t width, uint32_t height, Interpolation filter, const Window& window);

}  // namespace tofe
