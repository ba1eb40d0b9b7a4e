// Looking for damage, decoding with stb_image within a budget of memory, and from what it gives to RGB.
#include "image.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>

#include "failure.h"
#include "files.h"

namespace {

// What a compressed picture grows to is its writer's choice: while one of these lives, allocations of stb_image in this thread
// that would hold more than `bytes` at once fail; without one nothing is allocated. Not nested.
class DecoderBudget {
 public:
  explicit DecoderBudget(size_t bytes) {
    most_ = bytes;
    held_ = 0;
    exceeded_ = false;
  }
  ~DecoderBudget() { most_ = 0; }
  DecoderBudget(const DecoderBudget&) = delete;
  DecoderBudget& operator=(const DecoderBudget&) = delete;

  // Whether an allocation has failed for it.
  static bool exceeded() { return exceeded_; }

  static void* reallocate(void* block, size_t size) {
    const size_t others = held_ - (block == nullptr ? 0 : *head_of(block));
    if (others > most_ || size > most_ - others) {
      exceeded_ = true;
      return nullptr;
    }
    auto* const head = static_cast<size_t*>(std::realloc(block == nullptr ? nullptr : head_of(block), kHead + size));
    if (head == nullptr) return nullptr;
    *head = size;
    held_ = others + size;
    return reinterpret_cast<char*>(head) + kHead;
  }

  static void release(void* block) {
    if (block == nullptr) return;
    held_ -= *head_of(block);
    std::free(head_of(block));
  }

 private:
  // The size of a block stands before it, in as much room as keeps it aligned.
  static constexpr size_t kHead = alignof(std::max_align_t) < sizeof(size_t) ? sizeof(size_t) : alignof(std::max_align_t);

  static size_t* head_of(void* block) { return reinterpret_cast<size_t*>(static_cast<char*>(block) - kHead); }

  inline static thread_local size_t most_ = 0;
  inline static thread_local size_t held_ = 0;
  inline static thread_local bool exceeded_ = false;
};

}  // namespace

#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MALLOC(size) DecoderBudget::reallocate(nullptr, size)
#define STBI_REALLOC(block, size) DecoderBudget::reallocate(block, size)
#define STBI_FREE(block) DecoderBudget::release(block)
#include <stb/stb_image.h>

namespace tofe {
namespace {

enum class Container { kPng, kJpeg, kOther };

constexpr size_t kPngHead = 8;
constexpr size_t kPngFrame = 12;  // length, type and checksum around the content of a chunk
constexpr uint8_t kJpegEnd = 0xd9;
constexpr uint8_t kJpegScan = 0xda;
constexpr uint8_t kJpegHuffmanTables = 0xc4;
constexpr uint8_t kJpegExif = 0xe1;
constexpr uint16_t kOrientationTag = 0x0112;
constexpr size_t kMostScans = 50;  // of a JPEG; usual ones have up to 12, and each is a pass over the whole picture

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

// Told by the first bytes.
Container container_of(const std::string& content) {
  if (content.compare(0, kPngHead, "\x89PNG\r\n\x1a\n") == 0) return Container::kPng;
  if (content.compare(0, 3, "\xff\xd8\xff") == 0) return Container::kJpeg;
  return Container::kOther;
}

// Empty if every chunk of a PNG is whole and has the right checksum up to its end, or every segment of a JPEG is whole up to
// its end, and no Huffman table is larger than stb_image takes; else what is wrong.
std::string damage(const std::string& content, Container container) {
  if (container == Container::kPng) return walk_png(content, [](const std::string&, size_t, size_t) {});
  size_t scans = 0;
  bool has_tables = true;
  const std::string wrong = walk_jpeg(content, [&](uint8_t marker, size_t begin, size_t size) {
    if (marker == kJpegScan) ++scans;
    if (marker == kJpegHuffmanTables && !holds_huffman_tables(content, begin, size)) has_tables = false;
  });
  if (!has_tables) return "one of its Huffman tables is wrong";
  if (scans > kMostScans) return "it has more than " + std::to_string(kMostScans) + " scans";
  return wrong.empty() && scans == 0 ? "it is cut short" : wrong;
}

// The EXIF orientation, 1 to 8; 1 if there is none or it cannot be read.
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

constexpr size_t kLargestFile = size_t{512} << 20;
constexpr size_t kDecoderState = size_t{1} << 20;

template <typename Sample>
using Samples = std::unique_ptr<Sample, void (*)(void*)>;

[[noreturn]] void refuse(const std::string& path, const std::string& what) {
  throw Failure(ExitCode::kBadInput, path + ": " + what);
}

[[noreturn]] void refuse_damaged(const std::string& path, const std::string& what) {
  refuse(path, "is damaged (" + what + "); copy or export it again");
}

std::string reason() {
  if (DecoderBudget::exceeded()) return "it holds more than its header says";
  const char* const said = stbi_failure_reason();
  return said == nullptr ? "no reason given" : said;
}

// One channel over white, as Pillow pastes: a * (v - 255) / 255 rounded.
uint8_t over_white(uint8_t value, uint8_t alpha) {
  const unsigned sum = 255U * (255U - alpha) + unsigned{value} * alpha + 128U;
  return static_cast<uint8_t>(((sum >> 8) + sum) >> 8);
}

// Gray of 16 bits to 8: 0..65535 covers 0..255.
uint8_t narrowed(uint16_t value) { return static_cast<uint8_t>((uint32_t{value} * 255 + 32767) / 65535); }

// The image with pixel (x, y) taken from source(x, y) of the given one.
Image rearranged(const Image& image, bool swaps, const std::function<const uint8_t*(uint32_t, uint32_t)>& source) {
  Image result;
  result.width = swaps ? image.height : image.width;
  result.height = swaps ? image.width : image.height;
  result.rgb.reserve(image.rgb.size());
  for (uint32_t y = 0; y < result.height; ++y) {
    for (uint32_t x = 0; x < result.width; ++x) {
      const uint8_t* const pixel = source(x, y);
      result.rgb.insert(result.rgb.end(), pixel, pixel + 3);
    }
  }
  return result;
}

Image upright(Image image, int turn) {
  if (turn == 1) return image;
  const uint32_t right = image.width - 1;
  const uint32_t bottom = image.height - 1;
  return rearranged(image, turn >= 5, [&](uint32_t x, uint32_t y) {
    switch (turn) {
      case 2: return image.at(right - x, y);
      case 3: return image.at(right - x, bottom - y);
      case 4: return image.at(x, bottom - y);
      case 5: return image.at(y, x);
      case 6: return image.at(y, bottom - x);
      case 7: return image.at(right - y, bottom - x);
      default: return image.at(right - y, x);
    }
  });
}

struct Header {
  int width = 0;
  int height = 0;
  int channels = 0;
  bool wide = false;  // 16 bits per sample

  size_t pixels() const { return static_cast<size_t>(width) * static_cast<size_t>(height); }
};

// What decoding a file takes at most: of each pixel, at most four samples, the unpacked data (twice that while it grows), the
// picture, and a converted one; of JPEG the coefficients. Blocks of JPEG reach 31 pixels beyond the edges.
size_t most_memory(const Header& header, size_t file_bytes) {
  const size_t pixel_bytes = header.wide ? 8 : 4;
  const size_t pixels = (static_cast<size_t>(header.width) + 32) * (static_cast<size_t>(header.height) + 32);
  return 6 * pixel_bytes * pixels + 4 * file_bytes + kDecoderState;
}

// A file in memory and its decoding.
class Decoder {
 public:
  Decoder(const std::string& path, const std::string& content)
      : path_(path), bytes_(reinterpret_cast<const stbi_uc*>(content.data())), size_(static_cast<int>(content.size())) {}

  Header header() const {
    const DecoderBudget budget(kDecoderState);
    Header found;
    if (stbi_info_from_memory(bytes_, size_, &found.width, &found.height, &found.channels) == 0) refuse_damaged(path_, reason());
    found.wide = stbi_is_16_bit_from_memory(bytes_, size_) != 0;
    return found;
  }

  Image image(const Header& header) const {
    const DecoderBudget budget(most_memory(header, static_cast<size_t>(size_)));
    Image result{static_cast<uint32_t>(header.width), static_cast<uint32_t>(header.height), {}};
    result.rgb.resize(header.pixels() * 3);
    uint8_t* target = result.rgb.data();
    if (header.channels <= 2 && header.wide) {
      const auto samples = loaded(header, stbi_load_16_from_memory, 2);
      for (const stbi_us* gray = samples.get(); gray != samples.get() + header.pixels() * 2; gray += 2) {
        const uint8_t value = over_white(narrowed(gray[0]), static_cast<uint8_t>(gray[1] >> 8));
        for (int i = 0; i < 3; ++i) *target++ = value;
      }
    } else {
      const auto samples = loaded(header, stbi_load_from_memory, 4);
      for (const stbi_uc* pixel = samples.get(); pixel != samples.get() + header.pixels() * 4; pixel += 4) {
        for (int i = 0; i < 3; ++i) *target++ = over_white(pixel[i], pixel[3]);
      }
    }
    return result;
  }

 private:
  // Decodes to `wanted` samples per pixel; as many pixels as the header says.
  template <typename Sample>
  Samples<Sample> loaded(const Header& header, Sample* (*load)(const stbi_uc*, int, int*, int*, int*, int), int wanted) const {
    Header found;
    Samples<Sample> samples(load(bytes_, size_, &found.width, &found.height, &found.channels, wanted), stbi_image_free);
    if (!samples) refuse_damaged(path_, reason());
    if (found.width != header.width || found.height != header.height) refuse_damaged(path_, "its size is not that of its header");
    return samples;
  }

  const std::string& path_;
  const stbi_uc* bytes_;
  int size_;
};

}  // namespace

Image read_image(const std::string& path) {
  const std::string content = read_file(path, kLargestFile, ExitCode::kBadInput);
  if (content.empty()) refuse(path, "is empty (0 bytes); copy or export it again");
  const Container container = container_of(content);
  if (container == Container::kOther) refuse(path, "is neither PNG nor JPEG; convert it to one of them");
  if (const std::string what = damage(content, container); !what.empty()) refuse_damaged(path, what);

  const Decoder decoder(path, content);
  const Header header = decoder.header();
  if (header.pixels() > kMostPixels) refuse(path, "has " + std::to_string(header.pixels()) + " pixels; scale it down");
  return upright(decoder.image(header), orientation(content, container));
}

}  // namespace tofe
