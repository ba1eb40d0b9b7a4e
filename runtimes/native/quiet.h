// Keeps what libraries write off the user's stderr.
#pragma once

#include <string>

namespace tofe {

// ExecuTorch's CPU detection writes several lines about missing /sys files at each start, its runtime logs errors that
// the runner reports itself. After this call file descriptor 2 leads nowhere and ExecuTorch's log messages are kept for
// the runner's own; fatal ones, which precede an abort, still reach the user.
void silence_libraries();

// One line on the real stderr.
void print_error(const std::string& message);

}  // namespace tofe
