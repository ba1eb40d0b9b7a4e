// SHA-256 (FIPS 180-4). A device need not have OpenSSL.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace tofe {

// Feed with update(), then read hex() once.
class Sha256 {
 public:
  void update(const void* data, size_t size);

  // The digest as 64 lower-case digits. Ends the message: nothing may follow.
  std::string hex();

 private:
  void compress(const uint8_t* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> block_ = {};
  size_t filled_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace tofe
