// What ExecuTorch logs, kept off the user's stderr.
#pragma once

#include <string>

namespace tofe {

// From now on ExecuTorch's messages end here; fatal ones, which precede an abort, go to `tell` as well.
void capture_library_log(void (*tell)(const std::string& message));

// The last error that ExecuTorch logged in this thread since the last call, on one line and cut to a readable length; empty
// where there is none.
std::string take_library_error();

// Blanks for line breaks and every other control character, so that no text of a stranger moves a cursor.
std::string one_line(std::string text);

}  // namespace tofe
