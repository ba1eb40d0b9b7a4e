#include "model.h"

#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/core/exec_aten/util/dim_order_util.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <set>
#include <utility>

#include "failure.h"
#include "files.h"

namespace executorch::extension::threadpool {

// The wheel ships the thread pool's library without this class's header; only what is called here is declared. Objects
// are made by the library alone, so their layout does not matter.
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();

}  // namespace executorch::extension::threadpool

namespace tofe {
namespace {

using executorch::aten::ScalarType;
using executorch::etdump::ETDumpGen;
using executorch::extension::Module;
using executorch::runtime::Error;
using executorch::runtime::Program;
using executorch::runtime::Tag;

constexpr size_t kLongestMessage = 200;

std::atomic<void (*)(const std::string&)> teller = nullptr;
thread_local std::string last_logged;

void keep(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
          size_t length) {
  const std::string text(message, std::min(length, kLongestMessage));
  auto* const tell = teller.load();
  if (level == kFatal && tell != nullptr) tell("ExecuTorch: " + text);
  if (level == kError) last_logged = one_line(text);
}

// The last error that ExecuTorch logged in this thread since the last call, on one line and cut to a readable length; empty
// if there is none.
std::string take_library_error() { return std::exchange(last_logged, ""); }

// What ExecuTorch says, in brackets: its last log line, or the error's name.
std::string reason(Error error) {
  const std::string logged = take_library_error();
  return " (" + (logged.empty() ? executorch::runtime::to_string(error) : logged) + ")";
}

[[noreturn]] void refuse_file(const std::string& path, const std::string& what) {
  throw Failure(ExitCode::kBadFile, path + ": " + what + "; convert the model again");
}

// Refuses what is not an ExecuTorch program before the runtime maps it, and returns the path.
std::string checked_program(const std::string& path) {
  const File file = open_file(path, ExitCode::kBadFile);
  char head[8] = {};
  const size_t found = std::fread(head, 1, sizeof head, file.get());
  if (std::ferror(file.get()) != 0) {
    throw Failure(ExitCode::kBadFile, path + ": cannot be read (" + std::strerror(errno) + "); give a model file");
  }
  if (found != sizeof head || std::memcmp(head + 4, "ET12", 4) != 0) {
    throw Failure(ExitCode::kBadFile, path + ": is not an ExecuTorch program of a known version; convert the model again");
  }
  return path;
}

std::string dtype_name(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Half: return "float16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Bool: return "bool";
    default: return "";
  }
}

// Sets the number of threads of ExecuTorch's pool, one per process. Delegates take the pool as it is when they are loaded,
// and must not outlive it: a pool that already has this number is left alone.
void set_threads(uint32_t threads) {
  auto* const pool = executorch::extension::threadpool::get_threadpool();
  if (pool != nullptr && pool->get_thread_count() == threads) return;
  if (pool == nullptr || !pool->_unsafe_reset_threadpool(threads)) {
    throw Failure(ExitCode::kRuntime, "cannot start " + std::to_string(threads) + " threads; try --threads 1");
  }
}

}  // namespace

struct Model::Loaded {
  Loaded(const std::string& path, std::unique_ptr<ETDumpGen> given)
      : tracer(given.get()), module(path, Module::LoadMode::Mmap, std::move(given)) {}

  ETDumpGen* tracer;  // the module's; null if it is not traced
  Module module;
  executorch::extension::TensorPtr input;
  std::vector<executorch::runtime::EValue> results;
};

void capture_library_log(void (*tell)(const std::string& message)) {
  teller = tell;
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep, __FILE__));
}

std::string one_line(std::string text) {
  const auto controls = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  std::replace_if(text.begin(), text.end(), controls, ' ');
  return text;
}

Model::Model(const std::string& path, const std::string& method, uint32_t threads, bool traced)
    : path_(checked_program(path)),
      method_(method),
      loaded_(std::make_unique<Loaded>(path, traced ? std::make_unique<ETDumpGen>() : nullptr)) {
  executorch::runtime::runtime_init();
  take_library_error();  // of an earlier model
  // Delegates take the pool as it is when they are loaded.
  set_threads(threads);
  const auto begun = std::chrono::steady_clock::now();
  Module& module = loaded_->module;
  if (const Error error = module.load(Program::Verification::InternalConsistency); error != Error::Ok) {
    refuse_file(path_, "ExecuTorch cannot load it" + reason(error));
  }
  const auto names = module.method_names();
  if (!names.ok()) refuse_file(path_, "its methods cannot be listed" + reason(names.error()));
  if (names->count(method_) == 0) {
    std::string known;
    for (const auto& name : std::set<std::string>(names->begin(), names->end())) {
      known += (known.empty() ? "" : ", ") + name;
    }
    throw Failure(ExitCode::kWrongCall, path_ + ": has no method '" + method_ + "'; --method takes one of: " + known);
  }
  if (const Error error = module.load_method(method_); error != Error::Ok) {
    refuse_file(path_, "ExecuTorch cannot load method '" + method_ + "'" + reason(error));
  }
  load_ms_ = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begun).count();
  describe_input();
}

Model::~Model() = default;

void Model::describe_input() {
  const auto meta = loaded_->module.method_meta(method_);
  if (!meta.ok()) refuse_file(path_, "method '" + method_ + "' cannot be read" + reason(meta.error()));
  if (meta->num_inputs() != 1 || !meta->input_tag(0).ok() || *meta->input_tag(0) != Tag::Tensor) {
    refuse_file(path_, "method '" + method_ + "' does not take one tensor, which is all that this runner gives");
  }
  const auto input = meta->input_tensor_meta(0);
  if (!input.ok() || input->scalar_type() != ScalarType::Float) {
    refuse_file(path_, "method '" + method_ + "' does not take float32, which is all that this runner gives");
  }
  input_sizes_.assign(input->sizes().begin(), input->sizes().end());
  input_bytes_ = input->nbytes();
  for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) {
    const auto size = meta->memory_planned_buffer_size(i);
    if (size.ok()) planned_bytes_ += *size;
  }
}

void Model::set_input(std::vector<float>& values) {
  loaded_->input = executorch::extension::from_blob(values.data(), input_sizes_);
}

void Model::run() {
  auto results = loaded_->module.execute(method_, executorch::runtime::EValue(*loaded_->input));
  if (!results.ok()) {
    throw Failure(ExitCode::kRuntime, path_ + ": ExecuTorch failed to run method '" + method_ + "'" +
                                          reason(results.error()) + "; convert the model again");
  }
  loaded_->results = std::move(*results);
}

std::vector<OutputInfo> Model::outputs(std::string* content) const {
  const auto& results = loaded_->results;
  std::vector<OutputInfo> infos;
  for (size_t i = 0; i < results.size(); ++i) {
    const std::string which = path_ + ": output " + std::to_string(i) + " of method '" + method_ + "' ";
    const char* const advice = "; convert the model with dense tensors as outputs";
    if (!results[i].isTensor()) throw Failure(ExitCode::kRuntime, which + "is not a tensor" + advice);
    const auto& tensor = results[i].toTensor();
    OutputInfo info;
    info.dtype = dtype_name(tensor.scalar_type());
    if (info.dtype.empty()) throw Failure(ExitCode::kRuntime, which + "has an unknown type" + advice);
    const auto order = tensor.dim_order();
    if (!executorch::runtime::is_contiguous_dim_order(order.data(), order.size())) {
      throw Failure(ExitCode::kRuntime, which + "is not dense in row-major order" + advice);
    }
    info.shape.assign(tensor.sizes().begin(), tensor.sizes().end());
    info.bytes = tensor.nbytes();
    if (content != nullptr) content->append(static_cast<const char*>(tensor.const_data_ptr()), info.bytes);
    infos.push_back(std::move(info));
  }
  return infos;
}

std::string Model::events() {
  if (loaded_->tracer == nullptr) return "";
  const executorch::etdump::ETDumpResult result = loaded_->tracer->get_etdump_data();
  const std::unique_ptr<void, void (*)(void*)> buffer(result.buf, std::free);
  if (!buffer || result.size == 0) {
    throw Failure(ExitCode::kRuntime, path_ + ": ExecuTorch traced nothing; leave --etdump out");
  }
  return {static_cast<const char*>(buffer.get()), result.size};
}

void Model::forget_events() {
  if (loaded_->tracer != nullptr) loaded_->tracer->reset();
}

}  // namespace tofe
