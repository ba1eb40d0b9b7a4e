// One method of an ExecuTorch program: load it, run it, read its outputs.
#pragma once

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "report.h"

namespace tofe {

// A loaded method that takes one dense float32 tensor.
class Model {
 public:
  // Maps the file and loads the method on a pool of `threads` threads.
  // Throws Failure: kBadFile where the file is no program that loads, kWrongCall where it has no such method.
  Model(const std::string& path, const std::string& method, uint32_t threads);

  size_t input_bytes() const { return input_bytes_; }
  int64_t planned_bytes() const { return planned_bytes_; }
  double load_ms() const { return load_ms_; }

  // Gives the input; `bytes` has input_bytes() bytes and must outlive the runs.
  void set_input(std::vector<float>& values);

  // Runs once; the outputs stay valid until the next run. Throws Failure(kRuntime).
  void run();

  // Describes the outputs of the last run and, with `content`, appends their bytes to it. Throws Failure(kRuntime)
  // where an output is no dense tensor of a type that numpy knows.
  std::vector<OutputInfo> outputs(std::string* content) const;

 private:
  std::string path_;
  std::string method_;
  executorch::extension::Module module_;
  std::vector<executorch::aten::SizesType> input_sizes_;
  size_t input_bytes_ = 0;
  int64_t planned_bytes_ = 0;
  double load_ms_ = 0;
  executorch::extension::TensorPtr input_;
  std::vector<executorch::runtime::EValue> results_;
};

}  // namespace tofe
