#include "quiet.h"

#include <executorch/runtime/platform/platform.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

namespace tofe {
namespace {

constexpr size_t kLongestMessage = 200;

int real_stderr = STDERR_FILENO;
std::mutex guard;
std::string last_error;

std::string one_line(std::string text) {
  std::replace_if(text.begin(), text.end(), [](char c) { return c == '\n' || c == '\r'; }, ' ');
  return text;
}

void keep(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message,
          size_t length) {
  const std::string text(message, std::min(length, kLongestMessage));
  if (level == kFatal) print_error("ExecuTorch: " + text);
  if (level == kError) {
    const std::lock_guard<std::mutex> lock(guard);
    last_error = one_line(text);
  }
}

}  // namespace

void silence_libraries() {
  const int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (saved >= 0 && nowhere >= 0 && dup2(nowhere, STDERR_FILENO) >= 0) real_stderr = saved;
  if (nowhere >= 0) close(nowhere);
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(keep, __FILE__));
}

std::string last_library_error() {
  const std::lock_guard<std::mutex> lock(guard);
  return last_error;
}

void print_error(const std::string& message) {
  const std::string line = "tofe_runner: " + one_line(message) + "\n";
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t written = write(real_stderr, line.data() + done, line.size() - done);
    if (written <= 0) return;  // nobody is left to be told
    done += static_cast<size_t>(written);
  }
}

}  // namespace tofe
