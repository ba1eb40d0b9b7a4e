#include "library_log.h"

#include <executorch/runtime/platform/platform.h>

#include <algorithm>
#include <atomic>
#include <utility>

namespace tofe {
namespace {

constexpr size_t kLongestMessage = 200;

std::atomic<void (*)(const std::string&)> teller = nullptr;
thread_local std::string last_error;

void keep(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
          size_t length) {
  const std::string text(message, std::min(length, kLongestMessage));
  auto* const tell = teller.load();
  if (level == kFatal && tell != nullptr) tell("ExecuTorch: " + text);
  if (level == kError) last_error = one_line(text);
}

}  // namespace

void capture_library_log(void (*tell)(const std::string& message)) {
  teller = tell;
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep, __FILE__));
}

std::string take_library_error() { return std::exchange(last_error, ""); }

std::string one_line(std::string text) {
  const auto controls = [](unsigned char c) { return c < 0x20 || c == 0x7f; };
  std::replace_if(text.begin(), text.end(), controls, ' ');
  return text;
}

}  // namespace tofe
