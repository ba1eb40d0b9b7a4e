// Memory of stb_image within a budget: what a compressed picture grows to is its writer's choice.
#pragma once

#include <cstddef>

namespace tofe {

// While one lives, allocations of decoder_* in this thread that would hold more than `bytes` at once fail. Not nested.
class DecoderBudget {
 public:
  explicit DecoderBudget(size_t bytes);
  ~DecoderBudget();
  DecoderBudget(const DecoderBudget&) = delete;
  DecoderBudget& operator=(const DecoderBudget&) = delete;

  // Whether an allocation has failed for it.
  static bool exceeded();
};

// As malloc, realloc and free; nullptr where the budget is used up. Without a budget nothing is allocated.
void* decoder_malloc(size_t size);
void* decoder_realloc(void* block, size_t size);
void decoder_free(void* block);

}  // namespace tofe
