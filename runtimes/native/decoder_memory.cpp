#include "decoder_memory.h"

#include <cstdlib>

namespace tofe {
namespace {

thread_local size_t most = 0;
thread_local size_t held = 0;
thread_local bool refused = false;

// The size of a block stands before it, in as much room as keeps it aligned.
constexpr size_t kHead = alignof(std::max_align_t) < sizeof(size_t) ? sizeof(size_t) : alignof(std::max_align_t);

char* head_of(void* block) { return static_cast<char*>(block) - kHead; }

size_t& size_at(char* head) { return *reinterpret_cast<size_t*>(head); }

}  // namespace

DecoderBudget::DecoderBudget(size_t bytes) {
  most = bytes;
  held = 0;
  refused = false;
}

DecoderBudget::~DecoderBudget() { most = 0; }

bool DecoderBudget::exceeded() { return refused; }

void* decoder_malloc(size_t size) { return decoder_realloc(nullptr, size); }

void* decoder_realloc(void* block, size_t size) {
  const size_t before = block == nullptr ? 0 : size_at(head_of(block));
  const size_t others = held - before;
  if (others > most || size > most - others) {
    refused = true;
    return nullptr;
  }
  char* const head = static_cast<char*>(std::realloc(block == nullptr ? nullptr : head_of(block), kHead + size));
  if (head == nullptr) return nullptr;
  size_at(head) = size;
  held = others + size;
  return head + kHead;
}

void decoder_free(void* block) {
  if (block == nullptr) return;
  held -= size_at(head_of(block));
  std::free(head_of(block));
}

}  // namespace tofe
