// tofe_runner: runs one method of an ExecuTorch program, times it, writes its outputs; or replays golden vectors.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "classifier.h"
#include "failure.h"
#include "files.h"
#include "image.h"
#include "json.h"
#include "machine.h"
#include "manifest.h"
#include "model.h"
#include "preprocess.h"
#include "self_test.h"

namespace tofe {
namespace {

// 1. The command line.

const char* const kUsage =
    "tofe_runner MODEL.pte [--method NAME] [--manifest FILE.json] [--size BYTES] [--sha256 HEX] "
    "[--input FILE.bin | --image FILE.png|jpg] [--output FILE.bin] [--top K | --values N] [--runs N | --duration SECONDS] "
    "[--warmup N] [--threads N] [--cpus LIST] [--etdump FILE] [--sysfs FOLDER] | tofe_runner MODEL.pte --self-test FOLDER.golden "
    "[--manifest FILE.json] [--threads N] [--cpus LIST]";

struct Options {
  std::string model;
  std::string method = "forward";
  std::string manifest;  // empty: NAME.json beside the model, if there is one
  std::optional<uint64_t> size;
  std::string sha256;  // in lower case; empty: not given
  std::string input;   // raw float32; with neither input nor image every element is 0.5
  std::string image;
  std::string output;  // empty: outputs are not written
  uint32_t top = 0;    // classes to name; 0: none
  uint32_t values = 0;  // numbers of the first output to tell; 0: none
  std::optional<uint32_t> runs;
  std::optional<double> duration_s;
  uint32_t warmup = 0;
  uint32_t threads = 1;
  std::vector<uint32_t> cpus;  // empty: wherever the system likes
  std::string etdump;          // empty: not traced
  std::string self_test;       // folder of golden vectors; empty: models are run, not tested
  std::string sysfs = "/sys";
  bool help = false;
};

constexpr double kLongestSeconds = 86400;

[[noreturn]] void refuse(const std::string& what) {
  throw Failure(ExitCode::kWrongCall, what + "; usage: " + kUsage);
}

template <typename Number = uint32_t>
Number number(const std::string& name, const std::string& text, uint64_t least, uint64_t most) {
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 10);
  // strtoull takes signs and blanks; a count has neither.
  const bool digits = !text.empty() && text.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || errno != 0 || *end != '\0' || value < least || value > most) {
    refuse(name + " takes a whole number from " + std::to_string(least) + " to " + std::to_string(most) + ", not '" +
           text + "'");
  }
  return static_cast<Number>(value);
}

double duration(const std::string& name, const std::string& text) {
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
      {"--size", [](Options& options, Text name, Text text) { options.size = number<uint64_t>(name, text, 0, INT64_MAX); }},
      {"--top", [](Options& options, Text name, Text text) { options.top = number(name, text, 1, kMany); }},
      {"--values", [](Options& options, Text name, Text text) { options.values = number(name, text, 1, kMany); }},
      {"--runs", [](Options& options, Text name, Text text) { options.runs = number(name, text, 1, kMany); }},
      {"--duration", [](Options& options, Text name, Text text) { options.duration_s = duration(name, text); }},
      {"--warmup", [](Options& options, Text name, Text text) { options.warmup = number(name, text, 0, kMany); }},
      {"--threads", [](Options& options, Text name, Text text) { options.threads = number(name, text, 1, 1024); }},
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

// Reads the command line. Throws Failure(kWrongCall) naming the argument that is wrong.
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

// 2. What a user sees on stderr.

int real_stderr = STDERR_FILENO;

// Writes one line on the real stderr.
void print_error(const std::string& message) {
  const std::string line = "tofe_runner: " + one_line(message) + "\n";
  size_t done = 0;
  while (done < line.size()) {
    const ssize_t written = write(real_stderr, line.data() + done, line.size() - done);
    if (written <= 0) return;  // nobody is left to be told
    done += static_cast<size_t>(written);
  }
}

// ExecuTorch's CPU detection writes several lines about missing /sys files at each start, its runtime logs errors that the
// runner reports itself. From now on file descriptor 2 leads nowhere; fatal messages, which precede an abort, still reach
// the user.
void silence_libraries() {
  const int saved = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
  const int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
  if (saved >= 0 && nowhere >= 0 && dup2(nowhere, STDERR_FILENO) >= 0) real_stderr = saved;
  if (nowhere >= 0) close(nowhere);
  capture_library_log(print_error);
}

// 3. One call.

constexpr float kDefaultInput = 0.5F;

// The manifest that is asked for or needed, or that stands beside the model.
std::optional<Manifest> find_manifest(const Options& options) {
  const bool needed = !options.image.empty() || options.top > 0 || options.values > 0 || !options.self_test.empty();
  const std::string beside = manifest_path_of(options.model);
  if (!options.manifest.empty()) return read_manifest(options.manifest);
  if (needed || access(beside.c_str(), F_OK) == 0) return read_manifest(beside);
  return std::nullopt;
}

// Checks the file by what is known of it, before ExecuTorch sees it; returns whether its checksum was known.
bool verify(const Options& options, const std::optional<Manifest>& manifest) {
  if (options.size || !options.sha256.empty()) {
    check_sum(options.model, {options.size, options.sha256, options.sha256.empty() ? "--size" : "the command line"});
  }
  if (manifest) check_model(options.model, *manifest);
  return manifest || !options.sha256.empty();
}

std::vector<float> read_raw_input(const std::string& path, size_t bytes) {
  std::vector<float> values(bytes / sizeof(float), kDefaultInput);
  if (path.empty()) return values;
  const File file = open_file(path, ExitCode::kBadInput);
  const size_t found = std::fread(values.data(), 1, bytes, file.get());
  if (std::ferror(file.get()) != 0) {
    throw Failure(ExitCode::kBadInput, path + ": cannot be read (" + std::strerror(errno) + "); give a file");
  }
  if (found != bytes || std::fgetc(file.get()) != EOF) {
    const std::string size = found == bytes ? "more" : std::to_string(found);
    throw Failure(ExitCode::kBadInput, path + ": has " + size + " bytes, but the model takes " + std::to_string(bytes) +
                                           "; give its input as raw float32, row-major");
  }
  return values;
}

std::vector<float> read_input(const Options& options, const std::optional<Manifest>& manifest, const Model& model) {
  if (options.image.empty()) return read_raw_input(options.input, model.input_bytes());
  const Image square = resize_and_crop(read_image(options.image), manifest->preprocessing);
  return filled_input(square, *manifest, model);
}

double seconds(Clock::time_point from, Clock::time_point to) { return std::chrono::duration<double>(to - from).count(); }

struct Samples {
  std::vector<double> ms;    // wall time of every counted run, in order
  std::vector<double> at_s;  // when each began, the first at 0
  double cpu_ms = 0;         // CPU time of one run, all threads together, mean
  std::vector<Reading> telemetry;

  // The nearest-rank percentile: a value that was measured, not one between two.
  double percentile(double percent) const {
    std::vector<double> sorted = ms;
    std::sort(sorted.begin(), sorted.end());
    const double rank = std::ceil(percent / 100 * static_cast<double>(sorted.size()));
    return sorted[rank < 1 ? 0 : static_cast<size_t>(rank) - 1];
  }
};

// Runs a model that has its input: so many times, or until the time is over, at least once.
Samples measure(Model& model, const Options& options) {
  Telemetry telemetry(options.sysfs);
  for (uint32_t i = 0; i < options.warmup; ++i) model.run();
  model.forget_events();

  const uint32_t runs = options.runs.value_or(1);
  Samples samples;
  if (!options.duration_s) {
    samples.ms.reserve(runs);
    samples.at_s.reserve(runs);
  }
  Clock::time_point origin;
  const auto more = [&] {
    if (samples.ms.empty()) return true;
    return options.duration_s ? seconds(origin, Clock::now()) < *options.duration_s : samples.ms.size() < runs;
  };
  while (more()) {
    telemetry.poll();
    const double cpu_begun = cpu_now_ms();
    const auto begun = Clock::now();
    model.run();
    const auto ended = Clock::now();
    samples.cpu_ms += cpu_now_ms() - cpu_begun;
    if (samples.ms.empty()) origin = begun;
    samples.ms.push_back(1e3 * seconds(begun, ended));
    samples.at_s.push_back(seconds(origin, begun));
  }
  samples.cpu_ms /= static_cast<double>(samples.ms.size());
  telemetry.poll();
  samples.telemetry = telemetry.readings(origin);
  return samples;
}

Report top_report(const Prediction& prediction, const Manifest& manifest, size_t count) {
  Report result = Report::array();
  for (const RankedClass& one : top_classes(prediction.values, manifest, count)) {
    result.push_back({{"index", one.index}, {"name", one.name}, {"id", one.id}, {"probability", one.probability}});
  }
  return result;
}

Report value_report(const Prediction& prediction, const Manifest& manifest, size_t count) {
  check_finite(prediction.values, manifest);
  Report result = Report::array();
  for (size_t i = 0; i < std::min(count, prediction.values.size()); ++i) result.push_back(prediction.values[i]);
  return result;
}

Report measured(const Options& options, const std::optional<Manifest>& manifest) {
  if (options.top > 0 && manifest && !manifest->classifies()) {
    refuse("--top names classes, and the model gives its " + manifest->output + "; take --values");
  }
  // 1. Check, load, run.
  const bool verified = verify(options, manifest);
  Model model(options.model, options.method, options.threads, !options.etdump.empty());
  std::vector<float> input = read_input(options, manifest, model);
  model.set_input(input);
  const Samples samples = measure(model, options);

  // 2. What it gave.
  std::string content;
  const bool reads = !options.output.empty() || options.top > 0 || options.values > 0;
  const std::vector<OutputInfo> outputs = model.outputs(reads ? &content : nullptr);
  Report top;
  Report values;
  if (options.top > 0 || options.values > 0) {
    const Prediction found = read_prediction(outputs, content, *manifest, manifest->method(options.method));
    if (options.top > 0) top = top_report(found, *manifest, options.top);
    if (options.values > 0) values = value_report(found, *manifest, options.values);
  }
  if (!options.output.empty()) write_file(options.output, content, "--output");
  if (!options.etdump.empty()) write_file(options.etdump, model.events(), "--etdump");

  // 3. The report.
  const Machine machine = this_machine(options.sysfs);
  Report report = {
      {"method", options.method},
      {"threads", options.threads},
      {"cpus", options.cpus.empty() ? Report() : Report(options.cpus)},
      {"verified", verified},
      {"machine", {{"arch", machine.arch}, {"cores_online", machine.cores_online}, {"cpu_model", machine.cpu_model}}},
      {"load_ms", model.load_ms()},
      {"p50_ms", samples.percentile(50)},
      {"p90_ms", samples.percentile(90)},
      {"p99_ms", samples.percentile(99)},
      {"min_ms", samples.percentile(0)},
      {"cpu_ms", samples.cpu_ms},
      {"planned_bytes", model.planned_bytes()},
      {"peak_rss_bytes", peak_rss_bytes()},
      {"outputs", Report::array()},
  };
  for (const OutputInfo& one : outputs) {
    report["outputs"].push_back({{"shape", one.shape}, {"dtype", one.dtype}, {"bytes", one.bytes}});
  }
  if (!top.is_null()) report["top"] = std::move(top);
  if (!values.is_null()) report["values"] = std::move(values);
  report["samples_ms"] = samples.ms;
  report["samples_at_s"] = samples.at_s;
  report["telemetry"] = Report::array();
  for (const Reading& one : samples.telemetry) {
    report["telemetry"].push_back({{"t_s", one.t_s}, {"khz", one.khz}, {"celsius", one.celsius}});
  }
  return report;
}

// The keys of Parity.to_json in Python, as far as they are there; an infinite ratio is null.
Report verdicts(const std::vector<Parity>& parities) {
  Report methods = Report::array();
  for (const Parity& one : parities) {
    methods.push_back({{"method", one.method},
                       {"passed", one.passed()},
                       {"images", one.images},
                       {"near_ties", one.near_ties},
                       {"snr_db", one.snr_db},
                       {"psnr_db", one.psnr_db},
                       {"kept_overlap", one.kept_overlap},
                       {"gates",
                        {{"min_snr_db", one.gates.min_snr_db},
                         {"min_psnr_db", one.gates.min_psnr_db},
                         {"min_kept_overlap", one.gates.min_kept_overlap},
                         {"skips_near_ties", one.gates.skips_near_ties}}},
                       {"failures", one.failures}});
  }
  return {{"passed", first_failure(parities).empty()}, {"methods", std::move(methods)}};
}

void print(const Report& report) {
  if (std::printf("%s\n", to_text(report).c_str()) < 0 || std::fflush(stdout) != 0) {
    throw Failure(ExitCode::kRuntime, "the result cannot be written to stdout");
  }
}

void test(const Options& options, const Manifest& manifest) {
  const GoldenSet golden = read_golden(options.self_test, manifest);
  std::vector<Parity> parities;
  for (const MethodSpec& method : manifest.methods) {
    Classifier classifier(options.model, manifest, method.name, options.threads);
    parities.push_back(replay(classifier, golden));
  }
  print(verdicts(parities));
  const std::string failure = first_failure(parities);
  if (failure.empty()) return;
  throw Failure(ExitCode::kSelfTestFailed,
                options.model + ": does not compute here what it should: " + failure + "; report this machine");
}

int guarded(int argc, const char* const* argv) {
  try {
    const Options options = parse_options(argc, argv);
    if (options.help) {
      std::printf("usage: %s\n", kUsage);
      return 0;
    }
    silence_libraries();
    if (!options.cpus.empty()) pin_to(options.cpus);
    const std::optional<Manifest> manifest = find_manifest(options);
    if (manifest && !manifest->has_digest) {
      print_error("warning: " + manifest->path + ": is of an earlier version and has no digest, so damage to it is not noticed");
    }
    if (options.self_test.empty()) {
      print(measured(options, manifest));
    } else {
      verify(options, manifest);
      test(options, *manifest);
    }
    return 0;
  } catch (const Failure& failure) {
    print_error(failure.what());
    return static_cast<int>(failure.code());
  } catch (const std::exception& error) {
    print_error(std::string("failed unexpectedly (") + error.what() + ")");
    return static_cast<int>(ExitCode::kRuntime);
  }
}

}  // namespace
}  // namespace tofe

int main(int argc, char** argv) { return tofe::guarded(argc, argv); }
