// The C API. Every function that can fail goes through guarded(): no exception crosses it.
#include "tofe.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "classifier.h"
#include "deadline.h"
#include "failure.h"
#include "self_test.h"

struct tofe_deadline {
  std::mutex guard;
  tofe::DeadlinePolicy policy;
};

struct tofe_model {
  std::mutex guard;
  tofe::Manifest manifest;
  std::vector<std::unique_ptr<tofe::Classifier>> methods = {};  // the only one, or all of them under a deadline
  std::optional<tofe::DeadlinePolicy> policy = {};

  // The one to run next.
  tofe::Classifier& present() {
    const auto is_next = [&](const auto& one) { return !policy || one->method().name == policy->method(); };
    return **std::find_if(methods.begin(), methods.end(), is_next);
  }
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

Image copied(const std::string& caller, const uint8_t* pixels, uint32_t width, uint32_t height, size_t stride) {
  if (pixels == nullptr) refuse((caller + ": pixels are NULL").c_str());
  if (width == 0 || height == 0) refuse((caller + ": width and height must be at least 1").c_str());
  if (stride < size_t{3} * width) refuse((caller + ": stride must be at least 3 * width").c_str());
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

// Opens one method, or under a deadline all of them.
tofe_model* opened(const std::string& path, const char* manifest_path, const char* method, std::optional<double> deadline_ms,
                   uint32_t threads) {
  static const bool captured = (capture_library_log(nullptr), true);
  static_cast<void>(captured);
  auto model = std::unique_ptr<tofe_model>(
      new tofe_model{{}, read_manifest(manifest_path == nullptr ? manifest_path_of(path) : manifest_path)});
  const Manifest& manifest = model->manifest;
  std::vector<DeadlinePolicy::Budget> budgets;
  if (deadline_ms) {
    for (const MethodSpec& one : manifest.methods) budgets.push_back({one.name, one.gmacs});
    model->policy.emplace(budgets, *deadline_ms);
  } else {
    budgets = {{manifest.method(method == nullptr ? "forward" : method).name}};
  }
  check_model(path, manifest);
  Pool& shared = pool();
  const std::lock_guard<std::mutex> lock(shared.guard);
  if (shared.models > 0 && shared.threads != threads) {
    throw Failure(ExitCode::kWrongCall, "tofe_open: another open model has " + std::to_string(shared.threads) +
                                            " threads; give this one as many, or close that one");
  }
  for (const auto& one : budgets) {
    model->methods.push_back(std::make_unique<Classifier>(path, manifest, one.method, threads));
  }
  ++shared.models;
  shared.threads = threads;
  return model.release();
}

tofe_status open(const char* model_path, const char* manifest_path, const char* method, std::optional<double> deadline_ms,
                 uint32_t threads, tofe_model** model) {
  return guarded([&] {
    if (model == nullptr) refuse("tofe_open: model is NULL");
    *model = nullptr;
    if (model_path == nullptr || *model_path == '\0') refuse("tofe_open: model_path is NULL or empty");
    if (threads < 1 || threads > kMostThreads) refuse("tofe_open: threads must be 1 to 1024");
    *model = opened(model_path, manifest_path, method, deadline_ms, threads);
  });
}

// Runs a model on an image that `take` makes and, under a deadline, times it all, `finish` too.
template <typename Take, typename Finish>
void timed(tofe_model& model, const Take& take, const Finish& finish) {
  const auto begun = std::chrono::steady_clock::now();
  finish(model.present().classify(take()));
  if (model.policy) {
    model.policy->observe(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begun).count());
  }
}

const char* text_at(const std::vector<std::string>& all, uint32_t index) {
  return index < all.size() ? all[index].c_str() : nullptr;
}

// What `action` returns while nobody else uses the handle; `otherwise` for NULL.
template <typename Handle, typename Result, typename Action>
Result held(Handle* handle, Result otherwise, const Action& action) {
  if (handle == nullptr) return otherwise;
  const std::lock_guard<std::mutex> lock(handle->guard);
  return action(*handle);
}

}  // namespace
}  // namespace tofe

uint32_t tofe_api_version(void) { return TOFE_API_VERSION; }

tofe_status tofe_open(const char* model_path, const char* manifest_path, const char* method, uint32_t threads,
                      tofe_model** model) {
  return tofe::open(model_path, manifest_path, method, std::nullopt, threads, model);
}

tofe_status tofe_open_within(const char* model_path, const char* manifest_path, double deadline_ms, uint32_t threads,
                             tofe_model** model) {
  return tofe::open(model_path, manifest_path, nullptr, deadline_ms, threads, model);
}

const char* tofe_method(tofe_model* model) {
  return tofe::held(model, static_cast<const char*>(nullptr), [](tofe_model& one) { return one.present().method().name.c_str(); });
}

int tofe_meets_deadline(tofe_model* model) {
  return tofe::held(model, 1, [](tofe_model& one) { return one.policy && !one.policy->meets_deadline() ? 0 : 1; });
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
    if (!model->manifest.classifies()) tofe::refuse("tofe_classify_rgb: the model gives no logits; call tofe_values_rgb");
    const std::lock_guard<std::mutex> lock(model->guard);
    const auto take = [&] { return tofe::copied("tofe_classify_rgb", pixels, width, height, stride); };
    tofe::timed(*model, take, [&](const tofe::Prediction& found) {
      const auto best = tofe::top_classes(found.values, model->manifest, places);
      *count = static_cast<uint32_t>(best.size());
      std::transform(best.begin(), best.end(), results, [](const tofe::RankedClass& one) {
        return tofe_prediction{one.index, static_cast<float>(one.probability)};
      });
    });
  });
}

tofe_status tofe_values_rgb(tofe_model* model, const uint8_t* pixels, uint32_t width, uint32_t height, size_t stride,
                            float* values, size_t count) {
  return tofe::guarded([&] {
    if (model == nullptr) tofe::refuse("tofe_values_rgb: model is NULL");
    if (values == nullptr || count != model->manifest.values()) {
      tofe::refuse("tofe_values_rgb: values must have tofe_value_count() places");
    }
    const std::lock_guard<std::mutex> lock(model->guard);
    const auto take = [&] { return tofe::copied("tofe_values_rgb", pixels, width, height, stride); };
    tofe::timed(*model, take, [&](const tofe::Prediction& found) {
      tofe::check_finite(found.values, model->manifest);
      std::copy(found.values.begin(), found.values.end(), values);
    });
  });
}

const char* tofe_output(const tofe_model* model) { return model == nullptr ? nullptr : model->manifest.output.c_str(); }

size_t tofe_value_count(const tofe_model* model) { return model == nullptr ? 0 : model->manifest.values(); }

size_t tofe_vector_size(const tofe_model* model) {
  return model == nullptr ? 0 : static_cast<size_t>(model->manifest.output_shape.back());
}

tofe_status tofe_self_test(tofe_model* model, const char* golden_folder) {
  return tofe::guarded([&] {
    if (model == nullptr) tofe::refuse("tofe_self_test: model is NULL");
    if (golden_folder == nullptr) tofe::refuse("tofe_self_test: golden_folder is NULL");
    const std::lock_guard<std::mutex> lock(model->guard);
    const tofe::GoldenSet golden = tofe::read_golden(golden_folder, model->manifest);
    std::vector<tofe::Parity> parities;
    for (const auto& method : model->methods) parities.push_back(tofe::replay(*method, golden));
    const std::string failure = tofe::first_failure(parities);
    if (!failure.empty()) {
      throw tofe::Failure(tofe::ExitCode::kSelfTestFailed, "the model does not compute here what it should: " + failure);
    }
  });
}

uint32_t tofe_class_count(const tofe_model* model) {
  return model == nullptr ? 0 : static_cast<uint32_t>(model->manifest.class_names.size());
}

const char* tofe_label(const tofe_model* model, uint32_t index) {
  return model == nullptr ? nullptr : tofe::text_at(model->manifest.class_names, index);
}

const char* tofe_class_id(const tofe_model* model, uint32_t index) {
  return model == nullptr ? nullptr : tofe::text_at(model->manifest.class_ids, index);
}

tofe_status tofe_deadline_create(const char* const* methods, const double* gmacs, uint32_t count, double deadline_ms,
                                 tofe_deadline** deadline) {
  return tofe::guarded([&] {
    if (deadline == nullptr) tofe::refuse("tofe_deadline_create: deadline is NULL");
    *deadline = nullptr;
    if (methods == nullptr || gmacs == nullptr) tofe::refuse("tofe_deadline_create: methods or gmacs are NULL");
    std::vector<tofe::DeadlinePolicy::Budget> budgets;
    for (uint32_t i = 0; i < count; ++i) {
      if (methods[i] == nullptr) tofe::refuse("tofe_deadline_create: a method is NULL");
      budgets.push_back({methods[i], gmacs[i]});
    }
    *deadline = new tofe_deadline{{}, {std::move(budgets), deadline_ms}};
  });
}

const char* tofe_deadline_method(tofe_deadline* deadline) {
  return tofe::held(deadline, static_cast<const char*>(nullptr), [](tofe_deadline& one) { return one.policy.method().c_str(); });
}

tofe_status tofe_deadline_observe(tofe_deadline* deadline, double latency_ms) {
  return tofe::guarded([&] {
    if (deadline == nullptr) tofe::refuse("tofe_deadline_observe: deadline is NULL");
    const std::lock_guard<std::mutex> lock(deadline->guard);
    deadline->policy.observe(latency_ms);
  });
}

int tofe_deadline_met(tofe_deadline* deadline) {
  return tofe::held(deadline, 1, [](tofe_deadline& one) { return one.policy.meets_deadline() ? 1 : 0; });
}

void tofe_deadline_destroy(tofe_deadline* deadline) { delete deadline; }

const char* tofe_last_error(void) { return tofe::last_error.c_str(); }
