// What stb_image does not look at in a PNG or JPEG file: damage, a missing end, the orientation.
#pragma once

#include <string>

namespace tofe {

enum class Container { kPng, kJpeg, kOther };

// Told by the first bytes.
Container container_of(const std::string& content);

// Empty where every chunk of a PNG is whole and has the right checksum up to its end, or every segment of a JPEG is whole up to
// its end, and no Huffman table is larger than stb_image takes; else what is wrong.
std::string damage(const std::string& content, Container container);

// The EXIF orientation, 1 to 8; 1 where there is none or it cannot be read.
int orientation(const std::string& content, Container container);

}  // namespace tofe
