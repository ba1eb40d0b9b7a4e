// One method of an ExecuTorch program: load it, run it, read its outputs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace tofe {

// From now on ExecuTorch's messages end here; fatal ones, which precede an abort, go to `tell` as well.
void capture_library_log(void (*tell)(const std::string& message));

// Blanks for line breaks and every other control character, so that no text of a stranger moves a cursor.
std::string one_line(std::string text);

// One output tensor: its elements follow those of the output before it in the output file.
struct OutputInfo {
  std::vector<int64_t> shape;
  std::string dtype;  // numpy's name
  size_t bytes = 0;
};

// A loaded method that takes one dense float32 tensor.
class Model {
 public:
  // Maps the file and loads the method on a pool of `threads` threads.
  // Throws Failure: kBadFile if the file does not load, kWrongCall if it has no such method.
  // A traced model notes when each of its operators began and ended, in every run.
  Model(const std::string& path, const std::string& method, uint32_t threads, bool traced = false);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const std::vector<int32_t>& input_sizes() const { return input_sizes_; }
  size_t input_bytes() const { return input_bytes_; }
  int64_t planned_bytes() const { return planned_bytes_; }
  double load_ms() const { return load_ms_; }

  // Gives the input; `values` has input_bytes() bytes and must outlive the runs.
  void set_input(std::vector<float>& values);

  // Runs once; the outputs stay valid until the next run. Throws Failure(kRuntime).
  void run();

  // Describes the outputs of the last run and, with `content`, appends their bytes to it. Throws Failure(kRuntime)
  // if an output is not a dense tensor of a type that numpy knows.
  std::vector<OutputInfo> outputs(std::string* content) const;

  // What a traced model noted since it was loaded or forgot it, in ExecuTorch's format ETDump. Throws Failure(kRuntime)
  // if there is nothing.
  std::string events();

  // Drops what was noted; nothing if the model is not traced.
  void forget_events();

 private:
  // ExecuTorch's side of it; its headers stay in one file.
  struct Loaded;

  void describe_input();

  std::string path_;
  std::string method_;
  std::unique_ptr<Loaded> loaded_;
  std::vector<int32_t> input_sizes_;
  size_t input_bytes_ = 0;
  int64_t planned_bytes_ = 0;
  double load_ms_ = 0;
};

}  // namespace tofe
