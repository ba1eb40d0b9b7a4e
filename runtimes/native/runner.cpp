// tofe_runner: runs one method of an ExecuTorch program, times it, writes its outputs.
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <exception>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "failure.h"
#include "model.h"
#include "options.h"
#include "quiet.h"
#include "report.h"

namespace tofe {
namespace {

constexpr float kDefaultInput = 0.5F;

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

// CPU time of all threads of this process, in milliseconds.
double cpu_now_ms() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

// The kernel's own high-water mark of this process image. getrusage's is not: it starts at the parent's size.
int64_t peak_rss_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kib = 0;
    if (word == "VmHWM:" && status >> kib) return kib * 1024;
  }
  return 0;
}

std::vector<float> read_input(const std::string& path, size_t bytes) {
  std::vector<float> values(bytes / sizeof(float), kDefaultInput);
  if (path.empty()) return values;
  const File file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw Failure(ExitCode::kBadInput, path + ": cannot be opened (" + std::strerror(errno) + "); check the path");
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

void write_output(const std::string& path, const std::string& content) {
  File file(std::fopen(path.c_str(), "wb"), std::fclose);
  bool written = file && std::fwrite(content.data(), 1, content.size(), file.get()) == content.size();
  // Closing flushes: a full disk may show there.
  if (file) written = std::fclose(file.release()) == 0 && written;
  if (!written) {
    throw Failure(ExitCode::kWrongCall, path + ": cannot be written (" + std::strerror(errno) + "); choose another --output");
  }
}

Report measure(const Options& options) {
  Model model(options.model, options.method, options.threads);
  std::vector<float> input = read_input(options.input, model.input_bytes());
  model.set_input(input);
  for (uint32_t i = 0; i < options.warmup; ++i) model.run();

  Report report;
  report.samples_ms.reserve(options.runs);
  for (uint32_t i = 0; i < options.runs; ++i) {
    const double cpu_begun = cpu_now_ms();
    const auto begun = std::chrono::steady_clock::now();
    model.run();
    const auto ended = std::chrono::steady_clock::now();
    report.cpu_ms += (cpu_now_ms() - cpu_begun) / options.runs;
    report.samples_ms.push_back(std::chrono::duration<double, std::milli>(ended - begun).count());
  }
  std::string content;
  report.outputs = model.outputs(options.output.empty() ? nullptr : &content);
  if (!options.output.empty()) write_output(options.output, content);
  report.method = options.method;
  report.threads = options.threads;
  report.load_ms = model.load_ms();
  report.planned_bytes = model.planned_bytes();
  report.peak_rss_bytes = peak_rss_bytes();
  return report;
}

int run(int argc, const char* const* argv) {
  try {
    const Options options = parse_options(argc, argv);
    if (options.help) {
      std::printf("usage: %s\n", kUsage);
      return 0;
    }
    silence_libraries();
    const std::string json = to_json(measure(options));
    if (std::printf("%s\n", json.c_str()) < 0 || std::fflush(stdout) != 0) {
      throw Failure(ExitCode::kRuntime, "the result cannot be written to stdout");
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

int main(int argc, char** argv) { return tofe::run(argc, argv); }
