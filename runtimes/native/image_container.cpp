#include "image_container.h"

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>

namespace tofe {
namespace {

constexpr size_t kPngHead = 8;
constexpr size_t kPngFrame = 12;  // length, type and checksum around the content of a chunk
constexpr uint8_t kJpegEnd = 0xd9;
constexpr uint8_t kJpegScan = 0xda;
constexpr uint8_t kJpegHuffmanTables = 0xc4;
constexpr uint8_t kJpegExif = 0xe1;
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

// Whether a marker has no segment behind it: a 0xff of the data of a scan, TEM, restarts, the beginning.
bool stands_alone(uint8_t marker) { return marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8); }

// Calls visit(marker, begin of the content, its size) for each segment up to the end, those between scans too; returns what
// is wrong, or nothing. What lies between segments, the data of scans above all, is passed over as stb_image passes over it.
std::string walk_jpeg(const std::string& content, const std::function<void(uint8_t, size_t, size_t)>& visit) {
  size_t offset = 2;
  while (true) {
    offset = content.find('\xff', offset);
    if (offset != std::string::npos) offset = content.find_first_not_of('\xff', offset);  // padding
    if (offset == std::string::npos) return "it is cut short";
    const uint8_t marker = byte_at(content, offset++);
    if (stands_alone(marker)) continue;
    if (marker == kJpegEnd) return "";
    if (content.size() - offset < 2) return "it is cut short";
    const size_t size = number_at(content, offset, 2);
    if (size < 2) return "the length of one of its segments is wrong";
    if (size > content.size() - offset) return "it is cut short";
    visit(marker, offset + 2, size - 2);
    offset += size;
  }
}

// Whether a segment of Huffman tables is whole and no table has more codes than there are bytes; stb_image writes what it finds.
bool holds_huffman_tables(const std::string& content, size_t begin, size_t size) {
  constexpr size_t kHead = 1 + 16;  // which table, and the number of codes of each length
  constexpr size_t kMostCodes = 256;
  while (size > 0) {
    if (size < kHead) return false;
    size_t codes = 0;
    for (size_t i = 1; i < kHead; ++i) codes += byte_at(content, begin + i);
    if (codes > kMostCodes || codes > size - kHead) return false;
    begin += kHead + codes;
    size -= kHead + codes;
  }
  return true;
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
  bool has_scan = false;
  bool has_tables = true;
  const std::string wrong = walk_jpeg(content, [&](uint8_t marker, size_t begin, size_t size) {
    if (marker == kJpegScan) has_scan = true;
    if (marker == kJpegHuffmanTables && !holds_huffman_tables(content, begin, size)) has_tables = false;
  });
  if (!has_tables) return "one of its Huffman tables is wrong";
  return wrong.empty() && !has_scan ? "it is cut short" : wrong;
}

int orientation(const std::string& content, Container container) {
  int result = 1;
  if (container == Container::kPng) {
    walk_png(content, [&](const std::string& type, size_t begin, size_t size) {
      if (type == "eXIf") result = tiff_orientation(content, begin, size);
    });
  } else {
    const std::string head("Exif\0\0", 6);
    bool in_head = true;
    walk_jpeg(content, [&](uint8_t marker, size_t begin, size_t size) {
      if (marker == kJpegScan) in_head = false;
      if (in_head && marker == kJpegExif && size >= head.size() && content.compare(begin, head.size(), head) == 0) {
        result = tiff_orientation(content, begin + head.size(), size - head.size());
      }
    });
  }
  return result;
}

}  // namespace tofe
