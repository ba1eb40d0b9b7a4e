// How the runner fails: an exit code and one line for the user.
#pragma once

#include <stdexcept>
#include <string>

namespace tofe {

// The process exit codes; docs/native.md, tofe.h and runtimes/native_runner.py know them too.
enum class ExitCode : int { kWrongCall = 2, kBadFile = 3, kBadInput = 4, kRuntime = 5, kSelfTestFailed = 6 };

// Carries an exit code and one line saying what is wrong and what to try.
class Failure : public std::runtime_error {
 public:
  Failure(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode code() const { return code_; }

 private:
  ExitCode code_;
};

}  // namespace tofe
