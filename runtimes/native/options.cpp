#include "options.h"

#include <cerrno>
#include <cstdlib>

#include "failure.h"

namespace tofe {

const char* const kUsage =
    "tofe_runner MODEL.pte [--method NAME] [--input FILE.bin] [--output FILE.bin] [--runs N] [--warmup N] "
    "[--threads N]";

namespace {

[[noreturn]] void refuse(const std::string& what) {
  throw Failure(ExitCode::kWrongCall, what + "; usage: " + kUsage);
}

uint32_t number(const std::string& name, const std::string& text, uint32_t least, uint32_t most) {
  char* end = nullptr;
  errno = 0;
  const unsigned long value = std::strtoul(text.c_str(), &end, 10);
  // strtoul takes signs and blanks; a count has neither.
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || errno != 0 || *end != '\0' || value < least || value > most) {
    refuse(name + " takes a whole number from " + std::to_string(least) + " to " + std::to_string(most) + ", not '" +
           text + "'");
  }
  return static_cast<uint32_t>(value);
}

}  // namespace

Options parse_options(int argc, const char* const* argv) {
  Options options;
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
    if (name != "--method" && name != "--input" && name != "--output" && name != "--runs" && name != "--warmup" &&
        name != "--threads") {
      refuse("unknown option '" + name + "'");
    }
    if (i + 1 >= argc || argv[i + 1][0] == '\0') refuse(name + " needs a value");
    const std::string value = argv[++i];
    if (name == "--method") options.method = value;
    if (name == "--input") options.input = value;
    if (name == "--output") options.output = value;
    if (name == "--runs") options.runs = number(name, value, 1, 1000000);
    if (name == "--warmup") options.warmup = number(name, value, 0, 1000000);
    if (name == "--threads") options.threads = number(name, value, 1, 1024);
  }
  if (options.model.empty()) refuse("no model given");
  return options;
}

}  // namespace tofe
