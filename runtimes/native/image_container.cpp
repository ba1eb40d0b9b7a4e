#include "image_container.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>

namespace tofe {
namespace {

constexpr size_t kPngHead = 8;
constexpr size_t kPngFrame = 12;  // length, type and checksum around the content of a chunk
constexpr uint16_t kOrientationTag = 0x0112;

uint8_t byte_at(const std::string& content, size_t offset) { return static_cast<uint8_t>(content[offset]); }

uint32_t number_at(const std::string& content, size_t offset, size_t bytes, bool little = false) {
  uint32_t value = 0;
  for (size_t i = 0; i < bytes; ++i) value = value << 8 | byte_at(content, offset + (little ? bytes - 1 - i : i));
  return value;
}

// CRC-32 as PNG computes it (ISO 3309).
uint32_t crc32(const std::string& content, size_t begin, size_t end) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> result{};
    for (uint32_t n = 0; n < result.size(); ++n) {
      uint32_t value = n;
      for (int bit = 0; bit < 8; ++bit) value = (value & 1) != 0 ? 0xedb88320U ^ (value >> 1) : value >> 1;
      result[n] = value;
    }
    return result;
  }();
  uint32_t value = 0xffffffffU;
  for (size_t i = begin; i < end; ++i) value = table[(value ^ byte_at(content, i)) & 0xff] ^ (value >> 8);
  return value ^ 0xffffffffU;
}

// Calls visit(type, begin of the content, its size) for each chunk; returns what is wrong, or nothing.
std::string walk_png(const std::string& content, const std::function<void(const std::string&, size_t, size_t)>& visit) {
  for (size_t offset = kPngHead; content.size() - offset >= kPngFrame;) {
    const size_t size = number_at(content, offset, 4);
    if (size > content.size() - offset - kPngFrame) return "it is cut short";
    const std::string type = content.substr(offset + 4, 4);
    if (crc32(content, offset + 4, offset + 8 + size) != number_at(content, offset + 8 + size, 4)) {
      return "the checksum of one of its chunks is wrong";
    }
    visit(type, offset + 8, size);
    if (type == "IEND") return "";
    offset += kPngFrame + size;
  }
  return "it is cut short";
}

// Calls visit(marker, begin of the content, its size) for each segment before the first scan.
void walk_jpeg(const std::string& content, const std::function<void(uint8_t, size_t, size_t)>& visit) {
  size_t offset = 2;
  while (content.size() - offset >= 4 && byte_at(content, offset) == 0xff) {
    const uint8_t marker = byte_at(content, offset + 1);
    if (marker == 0xff) {  // padding
      ++offset;
      continue;
    }
    const size_t size = number_at(content, offset + 2, 2);
    if (marker == 0xda || size < 2 || size > content.size() - offset - 2) return;
    visit(marker, offset + 4, size - 2);
    offset += 2 + size;
  }
}

// The orientation in a TIFF structure of `size` bytes at `begin`.
int tiff_orientation(const std::string& content, size_t begin, size_t size) {
  if (size < 8) return 1;
  const bool little = content.compare(begin, 4, std::string("II*\0", 4)) == 0;
  if (!little && content.compare(begin, 4, std::string("MM\0*", 4)) != 0) return 1;
  const size_t directory = number_at(content, begin + 4, 4, little);
  if (directory > size - 2) return 1;
  const size_t entries = number_at(content, begin + directory, 2, little);
  for (size_t i = 0; i < entries; ++i) {
    const size_t entry = directory + 2 + 12 * i;
    if (entry + 12 > size) return 1;
    if (number_at(content, begin + entry, 2, little) != kOrientationTag) continue;
    const uint32_t kind = number_at(content, begin + entry + 2, 2, little);
    constexpr uint32_t kShort = 3;
    const uint32_t value = number_at(content, begin + entry + 8, kind == kShort ? 2 : 4, little);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

}  // namespace

Container container_of(const std::string& content) {
  if (content.compare(0, kPngHead, "\x89PNG\r\n\x1a\n") == 0) return Container::kPng;
  if (content.compare(0, 3, "\xff\xd8\xff") == 0) return Container::kJpeg;
  return Container::kOther;
}

std::string damage(const std::string& content, Container container) {
  if (container == Container::kPng) return walk_png(content, [](const std::string&, size_t, size_t) {});
  // In the data of a scan 0xff is followed by 0 or a restart marker: what is found after the last scan's head is the end.
  const size_t scan = content.rfind("\xff\xda");
  const bool ends = scan != std::string::npos && content.find("\xff\xd9", scan) != std::string::npos;
  return ends ? "" : "it is cut short";
}

int orientation(const std::string& content, Container container) {
  int result = 1;
  if (container == Container::kPng) {
    walk_png(content, [&](const std::string& type, size_t begin, size_t size) {
      if (type == "eXIf") result = tiff_orientation(content, begin, size);
    });
  } else {
    const std::string head("Exif\0\0", 6);
    walk_jpeg(content, [&](uint8_t marker, size_t begin, size_t size) {
      if (marker == 0xe1 && size >= head.size() && content.compare(begin, head.size(), head) == 0) {
        result = tiff_orientation(content, begin + head.size(), size - head.size());
      }
    });
  }
  return result;
}

}  // namespace tofe
