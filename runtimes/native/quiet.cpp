#include "quiet.h"

#include <fcntl.h>
#include <unistd.h>

#include "library_log.h"

namespace tofe {
namespace {

int real_stderr = STDERR_FILENO;

}  // namespace

void silence_libraries() {
  const int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (saved >= 0 && nowhere >= 0 && dup2(nowhere, STDERR_FILENO) >= 0) real_stderr = saved;
  if (nowhere >= 0) close(nowhere);
  capture_library_log(print_error);
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
