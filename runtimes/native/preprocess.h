// From an RGB image to the model's input, equal to tofe_edge/io/preprocessing.py to the bit.
#pragma once

#include <vector>

#include "image.h"
#include "manifest.h"

namespace tofe {

// The square that the model sees: image_size x image_size. Throws Failure(kBadInput) where the image is too small or too
// narrow for it.
Image resize_and_crop(const Image& image, const Preprocessing& spec);

// (pixels / 255 - mean) / std in float32, channel after channel: 3 x height x width values.
std::vector<float> normalized(const Image& image, const Preprocessing& spec);

}  // namespace tofe
