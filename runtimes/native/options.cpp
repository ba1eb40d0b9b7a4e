#include "options.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>

#include "failure.h"
#include "machine.h"

namespace tofe {

const char* const kUsage =
    "tofe_runner MODEL.pte [--method NAME] [--manifest FILE.json] [--size BYTES] [--sha256 HEX] "
    "[--input FILE.bin | --image FILE.png|jpg] [--output FILE.bin] [--top K] [--runs N | --duration SECONDS] [--warmup N] "
    "[--threads N] [--cpus LIST] [--etdump FILE] [--sysfs FOLDER] | tofe_runner MODEL.pte --self-test FOLDER.golden "
    "[--manifest FILE.json] [--threads N] [--cpus LIST]";

namespace {

constexpr double kLongestSeconds = 86400;

[[noreturn]] void refuse(const std::string& what) {
  throw Failure(ExitCode::kWrongCall, what + "; usage: " + kUsage);
}

uint64_t number(const std::string& name, const std::string& text, uint64_t least, uint64_t most) {
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 10);
  // strtoull takes signs and blanks; a count has neither.
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || errno != 0 || *end != '\0' || value < least || value > most) {
    refuse(name + " takes a whole number from " + std::to_string(least) + " to " + std::to_string(most) + ", not '" +
           text + "'");
  }
  return value;
}

double seconds(const std::string& name, const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const double value = std::strtod(text.c_str(), &end);
  // strtod takes blanks, signs, hexadecimal and names such as inf; "1e-05" is how programs write small numbers.
  const bool plain = text.find_first_not_of("0123456789.e-") == std::string::npos;
  if (!plain || errno != 0 || *end != '\0' || !(value > 0) || !(value <= kLongestSeconds)) {
    refuse(name + " takes seconds, more than 0 and up to 86400, not '" + text + "'");
  }
  return value;
}

std::string checksum(const std::string& name, std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](char c) { return c >= 'A' && c <= 'F' ? char(c + 32) : c; });
  if (text.size() != 64 || text.find_first_not_of("0123456789abcdef") != std::string::npos) {
    refuse(name + " takes 64 hexadecimal digits, not '" + text + "'");
  }
  return text;
}

uint32_t count(const std::string& name, const std::string& text, uint32_t least, uint32_t most) {
  return static_cast<uint32_t>(number(name, text, least, most));
}

using Setter = std::function<void(Options&, const std::string& name, const std::string& text)>;

Setter into(std::string Options::*field) {
  return [field](Options& options, const std::string&, const std::string& text) { options.*field = text; };
}

const std::map<std::string, Setter>& setters() {
  using Text = const std::string&;
  constexpr uint32_t kMany = 1000000;
  static const std::map<std::string, Setter> all = {
      {"--method", into(&Options::method)},
      {"--manifest", into(&Options::manifest)},
      {"--input", into(&Options::input)},
      {"--image", into(&Options::image)},
      {"--output", into(&Options::output)},
      {"--etdump", into(&Options::etdump)},
      {"--self-test", into(&Options::self_test)},
      {"--sysfs", into(&Options::sysfs)},
      {"--sha256", [](Options& options, Text name, Text text) { options.sha256 = checksum(name, text); }},
      {"--size", [](Options& options, Text name, Text text) { options.size = number(name, text, 0, INT64_MAX); }},
      {"--top", [](Options& options, Text name, Text text) { options.top = count(name, text, 1, kMany); }},
      {"--runs", [](Options& options, Text name, Text text) { options.runs = count(name, text, 1, kMany); }},
      {"--duration", [](Options& options, Text name, Text text) { options.duration_s = seconds(name, text); }},
      {"--warmup", [](Options& options, Text name, Text text) { options.warmup = count(name, text, 0, kMany); }},
      {"--threads", [](Options& options, Text name, Text text) { options.threads = count(name, text, 1, 1024); }},
      {"--cpus", [](Options& options, Text, Text text) { options.cpus = parse_cpus(text); }},
  };
  return all;
}

void check_together(const Options& options, const std::set<std::string>& given) {
  if (options.runs && options.duration_s) refuse("--runs and --duration exclude each other");
  if (!options.input.empty() && !options.image.empty()) refuse("--input and --image exclude each other");
  if (options.self_test.empty()) return;
  const std::set<std::string> fitting = {"--self-test", "--manifest", "--threads", "--cpus", "--size", "--sha256"};
  for (const std::string& name : given) {
    if (fitting.count(name) == 0) refuse("--self-test does not take " + name);
  }
}

}  // namespace

Options parse_options(int argc, const char* const* argv) {
  Options options;
  std::set<std::string> given;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--help" || name == "-h") {
      options.help = true;
      return options;
    }
    if (name.rfind("--", 0) != 0) {
      if (!options.model.empty()) refuse("one model only, not also '" + name + "'");
      if (name.empty()) refuse("the model's file name is empty");
      options.model = name;
      continue;
    }
    const auto setter = setters().find(name);
    if (setter == setters().end()) refuse("unknown option '" + name + "'");
    if (i + 1 >= argc || argv[i + 1][0] == '\0') refuse(name + " needs a value");
    setter->second(options, name, argv[++i]);
    given.insert(name);
  }
  if (options.model.empty()) refuse("no model given");
  check_together(options, given);
  return options;
}

}  // namespace tofe
