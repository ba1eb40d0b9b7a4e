// tofe_runner: runs one method of an ExecuTorch program, times it, writes its outputs; or replays golden vectors.
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "affinity.h"
#include "classifier.h"
#include "failure.h"
#include "files.h"
#include "image.h"
#include "json_writer.h"
#include "machine.h"
#include "manifest.h"
#include "measure.h"
#include "model.h"
#include "options.h"
#include "prediction.h"
#include "preprocess.h"
#include "quiet.h"
#include "report.h"
#include "self_test.h"
#include "telemetry.h"

namespace tofe {
namespace {

constexpr float kDefaultInput = 0.5F;

// The manifest that is asked for or needed, or that stands beside the model.
std::optional<Manifest> find_manifest(const Options& options) {
  const bool needed = !options.image.empty() || options.top > 0 || !options.self_test.empty();
  const std::string beside = manifest_path_of(options.model);
  if (!options.manifest.empty()) return read_manifest(options.manifest);
  if (needed || (reads_manifests() && is_file(beside))) return read_manifest(beside);
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
    throw Failure(ExitCode::kBadInput, path + ": has " + size + " bytes where the model takes " + std::to_string(bytes) +
                                           "; give its input as raw float32, row-major");
  }
  return values;
}

std::vector<float> read_input(const Options& options, const std::optional<Manifest>& manifest, const Model& model) {
  if (options.image.empty()) return read_raw_input(options.input, model.input_bytes());
  const Image square = resize_and_crop(read_image(options.image), manifest->preprocessing);
  return filled_input(square, *manifest, model);
}

std::string measured(const Options& options, const std::optional<Manifest>& manifest) {
  Report report;
  report.verified = verify(options, manifest);
  Telemetry telemetry(options.sysfs);
  Model model(options.model, options.method, options.threads, !options.etdump.empty());
  std::vector<float> input = read_input(options, manifest, model);
  model.set_input(input);
  Samples samples = measure(model, {options.warmup, options.runs.value_or(1), options.duration_s}, telemetry);

  std::string content;
  const bool reads = !options.output.empty() || options.top > 0;
  report.outputs = model.outputs(reads ? &content : nullptr);
  if (options.top > 0) {
    const Prediction found = read_prediction(report.outputs, content, *manifest, manifest->method(options.method));
    report.top = top_classes(found.logits, *manifest, options.top);
  }
  if (!options.output.empty()) write_file(options.output, content, "--output");
  if (!options.etdump.empty()) write_file(options.etdump, model.events(), "--etdump");
  report.method = options.method;
  report.threads = options.threads;
  report.cpus = options.cpus;
  report.load_ms = model.load_ms();
  report.samples_ms = std::move(samples.ms);
  report.samples_at_s = std::move(samples.at_s);
  report.cpu_ms = samples.cpu_ms;
  report.telemetry = std::move(samples.telemetry);
  report.planned_bytes = model.planned_bytes();
  report.peak_rss_bytes = peak_rss_bytes();
  report.machine = this_machine(options.sysfs);
  return to_json(report);
}

void print(const std::string& json) {
  if (std::printf("%s\n", json.c_str()) < 0 || std::fflush(stdout) != 0) {
    throw Failure(ExitCode::kRuntime, "the result cannot be written to stdout");
  }
}

int run(const Options& options) {
  if (!options.cpus.empty()) pin_to(options.cpus);
  const std::optional<Manifest> manifest = find_manifest(options);
  if (options.self_test.empty()) {
    print(measured(options, manifest));
    return 0;
  }
  verify(options, manifest);
  const std::vector<Parity> parities = self_test(options.model, *manifest, options.self_test, options.threads);
  print(to_json(parities));
  const std::string failure = first_failure(parities);
  if (failure.empty()) return 0;
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
    return run(options);
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
