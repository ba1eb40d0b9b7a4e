// Keeps what libraries write off the user's stderr.
#pragma once

#include <string>

namespace tofe {

// ExecuTorch's CPU detection writes several lines about missing /sys files at each start, its runtime logs errors that
// the runner reports itself. After this call file descriptor 2 leads nowhere and ExecuTorch's log messages end here;
// fatal ones, which precede an abort, still reach the user.
void silence_libraries();

// The last error that ExecuTorch logged, on one line and cut to a readable length; empty where there is none.
std::string last_library_error();

// One line on the real stderr.
void print_error(const std::string& message);

}  // namespace tofe
