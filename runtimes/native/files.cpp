#include "files.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "sha256.h"

namespace tofe {
namespace {

constexpr size_t kBufferBytes = 1 << 16;

[[noreturn]] void refuse_unreadable(const std::string& path, ExitCode code) {
  throw Failure(code, path + ": cannot be read (" + std::strerror(errno) + "); give a file");
}

}  // namespace

File open_file(const std::string& path, ExitCode code) {
  File file(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!file) throw Failure(code, path + ": cannot be opened (" + std::strerror(errno) + "); check the path");
  return file;
}

std::string read_file(const std::string& path, size_t limit, ExitCode code) {
  const File file = open_file(path, code);
  std::string content;
  std::string buffer(kBufferBytes, '\0');
  while (const size_t found = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
    content.append(buffer, 0, found);
    if (content.size() > limit) {
      throw Failure(code, path + ": is larger than " + std::to_string(limit) + " bytes; give the right file");
    }
  }
  if (std::ferror(file.get()) != 0) refuse_unreadable(path, code);
  return content;
}

void write_file(const std::string& path, const std::string& content, const char* option) {
  File file(std::fopen(path.c_str(), "wb"), std::fclose);
  bool written = file && std::fwrite(content.data(), 1, content.size(), file.get()) == content.size();
  // Closing flushes: a full disk may show there.
  if (file) written = std::fclose(file.release()) == 0 && written;
  if (!written) {
    throw Failure(ExitCode::kWrongCall,
                  path + ": cannot be written (" + std::strerror(errno) + "); choose another " + option);
  }
}

void check_sum(const std::string& path, const Sum& sum) {
  const File file = open_file(path, ExitCode::kBadFile);
  Sha256 digest;
  uint64_t size = 0;
  std::string buffer(kBufferBytes, '\0');
  while (const size_t found = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
    if (!sum.sha256.empty()) digest.update(buffer.data(), found);
    size += found;
  }
  if (std::ferror(file.get()) != 0) refuse_unreadable(path, ExitCode::kBadFile);
  if (sum.size && size != *sum.size) {
    throw Failure(ExitCode::kBadFile, path + ": has " + std::to_string(size) + " bytes, but " + sum.where_given +
                                          " says " + std::to_string(*sum.size) + "; copy it again");
  }
  if (!sum.sha256.empty() && digest.hex() != sum.sha256) {
    throw Failure(ExitCode::kBadFile,
                  path + ": its checksum is not that of " + sum.where_given + "; it is damaged: copy it again");
  }
}

}  // namespace tofe
