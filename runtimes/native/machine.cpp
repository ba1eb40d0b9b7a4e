#include "machine.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <fstream>

namespace tofe {
namespace {

constexpr size_t kLongestModel = 120;

std::string printable(std::string text) {
  text.resize(std::min(text.size(), kLongestModel));
  text.erase(std::remove(text.begin(), text.end(), '\0'), text.end());
  std::replace_if(text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text;
}

// x86 names its CPU in /proc/cpuinfo; an ARM board names itself in its device tree.
std::string cpu_model(const std::string& sysfs) {
  std::string line;
  std::ifstream board(sysfs + "/firmware/devicetree/base/model");
  if (std::getline(board, line) && !line.empty()) return printable(line);
  std::ifstream cpuinfo("/proc/cpuinfo");
  while (std::getline(cpuinfo, line)) {
    const size_t colon = line.find(':');
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos && colon + 2 < line.size()) {
      return printable(line.substr(colon + 2));
    }
  }
  return "";
}

}  // namespace

Machine this_machine(const std::string& sysfs) {
  utsname names{};
  uname(&names);
  return {names.machine, sysconf(_SC_NPROCESSORS_ONLN), cpu_model(sysfs)};
}

double cpu_now_ms() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib * 1024;
  }
  return 0;
}

}  // namespace tofe
