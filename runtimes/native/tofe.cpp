// The C API. Every function that can fail goes through guarded(): no exception crosses it.
#include "tofe.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "classifier.h"
#include "failure.h"
#include "library_log.h"
#include "self_test.h"

struct tofe_model {
  tofe_model(const std::string& path, tofe::Manifest manifest, const std::string& method, uint32_t threads)
      : classifier(path, std::move(manifest), method, threads) {}

  std::mutex guard;
  tofe::Classifier classifier;
};

namespace tofe {
namespace {

static_assert(TOFE_WRONG_CALL == static_cast<int>(ExitCode::kWrongCall));
static_assert(TOFE_BAD_FILE == static_cast<int>(ExitCode::kBadFile));
static_assert(TOFE_BAD_INPUT == static_cast<int>(ExitCode::kBadInput));
static_assert(TOFE_RUNTIME_ERROR == static_cast<int>(ExitCode::kRuntime));
static_assert(TOFE_SELF_TEST_FAILED == static_cast<int>(ExitCode::kSelfTestFailed));

constexpr uint32_t kMostThreads = 1024;

thread_local std::string last_error;

// Models that are open, and the threads that they share: the pool must not change under them.
struct Pool {
  std::mutex guard;
  size_t models = 0;
  uint32_t threads = 0;
};

Pool& pool() {
  // Never destroyed: a handle may be closed while the process ends.
  static Pool* const shared = new Pool;
  return *shared;
}

[[noreturn]] void refuse(const char* what) { throw Failure(ExitCode::kWrongCall, what); }

template <typename Action>
tofe_status guarded(const Action& action) noexcept {
  try {
    try {
      action();
      return TOFE_OK;
    } catch (const Failure& failure) {
      last_error = one_line(failure.what());
      return static_cast<tofe_status>(failure.code());
    } catch (const std::exception& error) {
      last_error = one_line(std::string("failed unexpectedly (") + error.what() + ")");
    } catch (...) {
      last_error = "failed unexpectedly";
    }
  } catch (...) {
    last_error.clear();  // no memory even for the message
  }
  return TOFE_RUNTIME_ERROR;
}

Image copied(const uint8_t* pixels, uint32_t width, uint32_t height, size_t stride) {
  if (pixels == nullptr) refuse("tofe_classify_rgb: pixels are NULL");
  if (width == 0 || height == 0) refuse("tofe_classify_rgb: width and height must be at least 1");
  if (stride < size_t{3} * width) refuse("tofe_classify_rgb: stride must be at least 3 * width");
  if (uint64_t{width} * height > kMostPixels) {
    throw Failure(ExitCode::kBadInput, "the image has more than " + std::to_string(kMostPixels) + " pixels; scale it down");
  }
  Image image{width, height, {}};
  image.rgb.reserve(size_t{3} * width * height);
  for (uint32_t y = 0; y < height; ++y) {
    const uint8_t* const row = pixels + y * stride;
    image.rgb.insert(image.rgb.end(), row, row + size_t{3} * width);
  }
  return image;
}

tofe_model* opened(const std::string& path, const std::string& manifest, const std::string& method, uint32_t threads) {
  static std::once_flag captured;
  std::call_once(captured, [] { capture_library_log(nullptr); });
  Manifest known = read_manifest(manifest.empty() ? manifest_path_of(path) : manifest);
  Pool& shared = pool();
  const std::lock_guard<std::mutex> lock(shared.guard);
  if (shared.models > 0 && shared.threads != threads) {
    throw Failure(ExitCode::kWrongCall, "tofe_open: another open model has " + std::to_string(shared.threads) +
                                            " threads; give this one as many, or close that one");
  }
  auto* const model = new tofe_model(path, std::move(known), method, threads);
  ++shared.models;
  shared.threads = threads;
  return model;
}

const std::vector<std::string>* texts(const tofe_model* model, bool names) {
  if (model == nullptr) return nullptr;
  const Manifest& manifest = model->classifier.manifest();
  return names ? &manifest.class_names : &manifest.class_ids;
}

const char* text_at(const std::vector<std::string>* all, uint32_t index) {
  return all != nullptr && index < all->size() ? (*all)[index].c_str() : nullptr;
}

}  // namespace
}  // namespace tofe

uint32_t tofe_api_version(void) { return TOFE_API_VERSION; }

tofe_status tofe_open(const char* model_path, const char* manifest_path, const char* method, uint32_t threads,
                      tofe_model** model) {
  return tofe::guarded([&] {
    if (model == nullptr) tofe::refuse("tofe_open: model is NULL");
    *model = nullptr;
    if (model_path == nullptr || *model_path == '\0') tofe::refuse("tofe_open: model_path is NULL or empty");
    if (threads < 1 || threads > tofe::kMostThreads) tofe::refuse("tofe_open: threads must be 1 to 1024");
    *model = tofe::opened(model_path, manifest_path == nullptr ? "" : manifest_path,
                          method == nullptr ? "forward" : method, threads);
  });
}

void tofe_close(tofe_model* model) {
  if (model == nullptr) return;
  tofe::guarded([&] {
    const std::lock_guard<std::mutex> lock(tofe::pool().guard);
    delete model;
    --tofe::pool().models;
  });
}

tofe_status tofe_classify_rgb(tofe_model* model, const uint8_t* pixels, uint32_t width, uint32_t height, size_t stride,
                              tofe_prediction* results, uint32_t* count) {
  return tofe::guarded([&] {
    const uint32_t places = count == nullptr ? 0 : *count;
    if (count != nullptr) *count = 0;
    if (model == nullptr) tofe::refuse("tofe_classify_rgb: model is NULL");
    if (results == nullptr || places == 0) tofe::refuse("tofe_classify_rgb: there is no place for results");
    const tofe::Image image = tofe::copied(pixels, width, height, stride);
    const std::lock_guard<std::mutex> lock(model->guard);
    const tofe::Prediction found = model->classifier.classify(image);
    const auto best = tofe::top_classes(found.logits, model->classifier.manifest(), places);
    *count = static_cast<uint32_t>(best.size());
    std::transform(best.begin(), best.end(), results, [](const tofe::RankedClass& one) {
      return tofe_prediction{one.index, static_cast<float>(one.probability)};
    });
  });
}

tofe_status tofe_self_test(tofe_model* model, const char* golden_folder) {
  return tofe::guarded([&] {
    if (model == nullptr) tofe::refuse("tofe_self_test: model is NULL");
    if (golden_folder == nullptr) tofe::refuse("tofe_self_test: golden_folder is NULL");
    const std::lock_guard<std::mutex> lock(model->guard);
    const tofe::GoldenSet golden = tofe::read_golden(golden_folder, model->classifier.manifest());
    const std::string failure = tofe::first_failure({tofe::replay(model->classifier, golden)});
    if (!failure.empty()) {
      throw tofe::Failure(tofe::ExitCode::kSelfTestFailed, "the model does not compute here what it should: " + failure);
    }
  });
}

uint32_t tofe_class_count(const tofe_model* model) {
  return model == nullptr ? 0 : static_cast<uint32_t>(model->classifier.manifest().class_names.size());
}

const char* tofe_label(const tofe_model* model, uint32_t index) {
  return tofe::text_at(tofe::texts(model, true), index);
}

const char* tofe_class_id(const tofe_model* model, uint32_t index) {
  return tofe::text_at(tofe::texts(model, false), index);
}

const char* tofe_last_error(void) { return tofe::last_error.c_str(); }
