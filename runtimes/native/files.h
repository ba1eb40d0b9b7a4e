// Reading, checking and writing files; what goes wrong is a Failure that names the file.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "failure.h"

namespace tofe {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

// Opens for reading. Throws Failure(code).
File open_file(const std::string& path, ExitCode code);

// The whole content of a file of at most `limit` bytes. Throws Failure(code).
std::string read_file(const std::string& path, size_t limit, ExitCode code);

// Writes or replaces. Throws Failure(kWrongCall) that names `option`.
void write_file(const std::string& path, const std::string& content, const char* option);

// What a model file must be.
struct Sum {
  std::optional<uint64_t> size;
  std::string sha256;       // lower-case digits; empty: not known
  std::string where_given;  // for messages: "its manifest"
};

// Throws Failure(kBadFile) if the file has another size or another checksum.
void check_sum(const std::string& path, const Sum& sum);

}  // namespace tofe
