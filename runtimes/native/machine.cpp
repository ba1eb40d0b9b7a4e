#include "machine.h"

#include <dirent.h>
#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fstream>
#include <memory>
#include <optional>
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

constexpr auto kInterval = std::chrono::seconds(1);
constexpr size_t kLongestName = 64;

// Names in a folder that begin with `prefix` and go on with digits, in order; none if there is no such folder.
std::vector<std::string> numbered(const std::string& folder, const std::string& prefix) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir(folder.c_str()), closedir);
  if (!directory) return names;
  while (const dirent* const entry = readdir(directory.get())) {
    const std::string name = entry->d_name;
    const bool begins = name.size() > prefix.size() && name.compare(0, prefix.size(), prefix) == 0;
    if (begins && name.find_first_not_of("0123456789", prefix.size()) == std::string::npos) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::optional<int64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  int64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

// The first line of a file in printable ASCII; a driver may write anything.
std::string read_name(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  line.resize(std::min(line.size(), kLongestName));
  std::replace_if(line.begin(), line.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return line;
}

void add(std::map<std::string, std::string>& files, const std::string& name, const std::string& otherwise,
         const std::string& path) {
  if (!read_number(path)) return;
  const bool taken = name.empty() || files.count(name) > 0;
  files[taken ? (name.empty() ? otherwise : name + " " + otherwise) : name] = path;
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

Telemetry::Telemetry(const std::string& root) {
  const std::string cpus = root + "/devices/system/cpu";
  for (const std::string& cpu : numbered(cpus, "cpu")) {
    add(frequencies_, cpu, cpu, cpus + "/" + cpu + "/cpufreq/scaling_cur_freq");
  }
  const std::string zones = root + "/class/thermal";
  for (const std::string& zone : numbered(zones, "thermal_zone")) {
    const std::string folder = zones + "/" + zone;
    add(temperatures_, read_name(folder + "/type"), zone, folder + "/temp");
  }
  if (!temperatures_.empty()) return;
  const std::string monitors = root + "/class/hwmon";
  constexpr int kSensors = 16;
  for (const std::string& monitor : numbered(monitors, "hwmon")) {
    const std::string folder = monitors + "/" + monitor;
    const std::string name = read_name(folder + "/name");
    for (int i = 1; i <= kSensors; ++i) {
      const std::string sensor = "temp" + std::to_string(i);
      add(temperatures_, (name.empty() ? monitor : name) + " " + sensor, monitor, folder + "/" + sensor + "_input");
    }
  }
}

void Telemetry::poll() {
  if (frequencies_.empty() && temperatures_.empty()) return;
  const auto now = Clock::now();
  if (!taken_.empty() && now - taken_.back().when < kInterval) return;
  Reading reading;
  for (const auto& [name, path] : frequencies_) {
    if (const auto value = read_number(path)) reading.khz[name] = *value;
  }
  constexpr double kMilli = 1e-3;
  for (const auto& [name, path] : temperatures_) {
    if (const auto value = read_number(path)) reading.celsius[name] = static_cast<double>(*value) * kMilli;
  }
  taken_.push_back({now, std::move(reading)});
}

std::vector<Reading> Telemetry::readings(Clock::time_point origin) const {
  std::vector<Reading> result;
  for (const auto& [when, reading] : taken_) {
    result.push_back(reading);
    // The first is taken right before the first run, whose start is the origin.
    result.back().t_s = std::max(0.0, std::chrono::duration<double>(when - origin).count());
  }
  return result;
}

}  // namespace tofe
