#include "affinity.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include "failure.h"

namespace tofe {
namespace {

[[noreturn]] void refuse(const std::string& text) {
  throw Failure(ExitCode::kWrongCall, "--cpus takes a list of cores such as 0,2-3, not '" + text + "'");
}

uint32_t core(const std::string& digits, const std::string& text) {
  if (digits.empty() || digits.size() > 4 || digits.find_first_not_of("0123456789") != std::string::npos) refuse(text);
  const auto value = static_cast<uint32_t>(std::stoul(digits));
  if (value >= CPU_SETSIZE) refuse(text);
  return value;
}

}  // namespace

std::vector<uint32_t> parse_cpus(const std::string& text) {
  std::set<uint32_t> cores;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string part = text.substr(begin, end - begin);
    const size_t dash = part.find('-');
    const uint32_t first = core(part.substr(0, dash), text);
    const uint32_t last = dash == std::string::npos ? first : core(part.substr(dash + 1), text);
    if (last < first) refuse(text);
    for (uint32_t one = first; one <= last; ++one) cores.insert(one);
    begin = end + 1;
  }
  return {cores.begin(), cores.end()};
}

void pin_to(const std::vector<uint32_t>& cpus) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
    throw Failure(ExitCode::kRuntime, std::string("the allowed cores cannot be read (") + std::strerror(errno) + ")");
  }
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  for (const uint32_t cpu : cpus) {
    // The kernel itself drops such a core without a word.
    if (!CPU_ISSET(cpu, &allowed)) {
      throw Failure(ExitCode::kWrongCall, "--cpus: core " + std::to_string(cpu) +
                                              " is not there or not allowed to this process; see `nproc` and `taskset -p $$`");
    }
    CPU_SET(cpu, &wanted);
  }
  if (sched_setaffinity(0, sizeof wanted, &wanted) != 0) {
    throw Failure(ExitCode::kWrongCall, std::string("--cpus: cannot be bound (") + std::strerror(errno) + "); leave it out");
  }
}

}  // namespace tofe
