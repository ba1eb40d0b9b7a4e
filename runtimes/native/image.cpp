// Decoding with stb_image, and from what it gives to RGB.
#include "image.h"

#include <functional>
#include <limits>
#include <memory>

#include "decoder_memory.h"
#include "failure.h"
#include "files.h"
#include "image_container.h"

#define STB_IMAGE_STATIC
#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#define STBI_MALLOC(size) tofe::decoder_malloc(size)
#define STBI_REALLOC(block, size) tofe::decoder_realloc(block, size)
#define STBI_FREE(block) tofe::decoder_free(block)
#include <stb/stb_image.h>

namespace tofe {
namespace {

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
  bool wide = false;  // 16 bits a sample

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
  // As many samples a pixel as wanted, of as many pixels as the header says.
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
  if (container == Container::kOther) refuse(path, "is no PNG or JPEG; convert it to one of them");
  if (const std::string what = damage(content, container); !what.empty()) refuse_damaged(path, what);

  const Decoder decoder(path, content);
  const Header header = decoder.header();
  if (header.pixels() > kMostPixels) refuse(path, "has " + std::to_string(header.pixels()) + " pixels; scale it down");
  return upright(decoder.image(header), orientation(content, container));
}

}  // namespace tofe
