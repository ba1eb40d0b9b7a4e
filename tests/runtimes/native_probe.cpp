// Parts of the native runner behind a pipe, so that a test can ask them thousands of times in one process.
// A question is a line of words; what it says to follow it follows as bytes. An answer is a line with the number of
// bytes that follow, or one with a minus sign, an exit code and a message.
#include <cstdio>
#include <cstring>
#include <iostream>
#include <sstream>
#include <string>

#include "failure.h"
#include "image.h"
#include "json.h"
#include "machine.h"
#include "prediction.h"
#include "preprocess.h"
#include "sha256.h"

namespace {

std::string taken(size_t size) {
  std::string content(size, '\0');
  std::cin.read(content.data(), static_cast<std::streamsize>(size));
  return content;
}

tofe::Image image(std::istringstream& words) {
  tofe::Image result;
  words >> result.width >> result.height;
  const std::string content = taken(size_t{3} * result.width * result.height);
  result.rgb.assign(content.begin(), content.end());
  return result;
}

tofe::Interpolation filter(std::istringstream& words) {
  std::string name;
  words >> name;
  return name == "bicubic" ? tofe::Interpolation::kBicubic : tofe::Interpolation::kBilinear;
}

std::string bytes(const tofe::Image& image) { return {image.rgb.begin(), image.rgb.end()}; }

std::string sha256(std::istringstream& words) {
  // The message in pieces, whose sizes follow that of the whole.
  size_t size = 0;
  words >> size;
  const std::string content = taken(size);
  tofe::Sha256 digest;
  size_t offset = 0;
  for (size_t piece = 0; words >> piece; offset += piece) digest.update(content.data() + offset, piece);
  digest.update(content.data() + offset, size - offset);
  return digest.hex();
}

std::string resized(std::istringstream& words) {
  uint32_t width = 0;
  uint32_t height = 0;
  tofe::Window window;
  words >> width >> height >> window.left >> window.top >> window.width >> window.height;
  const tofe::Interpolation how = filter(words);
  return bytes(tofe::resized(image(words), width, height, how, window));
}

tofe::Preprocessing preprocessing(std::istringstream& words) {
  tofe::Preprocessing spec;
  words >> spec.image_size >> spec.crop_pct >> spec.resizes;
  for (float& value : spec.mean) words >> value;
  for (float& value : spec.std) words >> value;
  spec.interpolation = filter(words);
  return spec;
}

std::string preprocessed(std::istringstream& words) {
  const tofe::Preprocessing spec = preprocessing(words);
  const std::vector<float> values = tofe::normalized(tofe::resize_and_crop(image(words), spec), spec);
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

std::string decoded(std::istringstream& words) {
  std::string path;
  words >> path;
  const tofe::Image found = tofe::read_image(path);
  return std::to_string(found.width) + " " + std::to_string(found.height) + "\n" + bytes(found);
}

// A model of two classes that keeps two of four tokens.
tofe::Manifest small_manifest() {
  tofe::Manifest result;
  result.path = "net.json";
  result.patch_tokens = 4;
  result.output_shape = {2};
  result.class_names = result.class_ids = {"a", "b"};
  return result;
}

// The tokens that it kept, of outputs of which the question says what the selection is and how many bytes there are.
std::string kept(std::istringstream& words) {
  tofe::OutputInfo selection;
  size_t size = 0;
  words >> size >> selection.dtype >> selection.bytes;
  for (int64_t dimension = 0; words >> dimension;) selection.shape.push_back(dimension);
  const std::string content = taken(size);
  // Exactly as large as the content: a read past its end is noticed.
  const tofe::Prediction found =
      tofe::read_prediction({{{1, 2}, "float32", 8}, selection}, content, small_manifest(), {"forward", 1.0, {2}});
  std::string result;
  for (const int64_t position : found.kept.front()) result += std::to_string(position) + " ";
  return result;
}

std::string ranked(std::istringstream&) {
  std::vector<float> logits(2);
  const std::string content = taken(logits.size() * sizeof(float));
  std::memcpy(logits.data(), content.data(), content.size());
  std::string result;
  for (const tofe::RankedClass& one : tofe::top_classes(logits, small_manifest(), logits.size())) result += one.name;
  return result;
}

std::string digest(std::istringstream& words) {
  uint64_t schema = 0;
  std::string path;
  words >> schema >> path;
  return tofe::check_digest(tofe::read_json(path), schema) ? "1" : "0";
}

std::string cpus(std::istringstream& words) {
  std::string text;
  words >> text;
  std::string result;
  for (const uint32_t cpu : tofe::parse_cpus(text)) result += std::to_string(cpu) + " ";
  return result;
}

std::string answer(const std::string& question, std::istringstream& words) {
  if (question == "sha256") return sha256(words);
  if (question == "resized") return resized(words);
  if (question == "preprocessed") return preprocessed(words);
  if (question == "decoded") return decoded(words);
  if (question == "kept") return kept(words);
  if (question == "ranked") return ranked(words);
  if (question == "digest") return digest(words);
  if (question == "cpus") return cpus(words);
  return "";
}

}  // namespace

int main() {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string question;
    words >> question;
    try {
      const std::string content = answer(question, words);
      std::cout << content.size() << "\n" << content << std::flush;
    } catch (const tofe::Failure& failure) {
      std::cout << "-" << static_cast<int>(failure.code()) << " " << failure.what() << std::endl;
    } catch (const tofe::Malformed& error) {
      std::cout << "-3 " << error.what() << std::endl;
    }
  }
}
