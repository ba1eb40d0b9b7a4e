#include "telemetry.h"

#include <dirent.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <optional>

namespace tofe {
namespace {

constexpr auto kInterval = std::chrono::seconds(1);
constexpr size_t kLongestName = 64;

// Names in a folder that begin with `prefix` and go on with digits, in order; none where there is no such folder.
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
