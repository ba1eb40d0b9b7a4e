#include "thread_pool.h"

#include <cstddef>
#include <string>

#include "failure.h"

namespace executorch::extension::threadpool {

// The wheel ships the thread pool's library without this class's header; only what is called here is declared. Objects
// are made by the library alone, so their layout does not matter.
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();

}  // namespace executorch::extension::threadpool

namespace tofe {

void set_threads(uint32_t threads) {
  auto* const pool = executorch::extension::threadpool::get_threadpool();
  if (pool != nullptr && pool->get_thread_count() == threads) return;
  if (pool == nullptr || !pool->_unsafe_reset_threadpool(threads)) {
    throw Failure(ExitCode::kRuntime, "cannot start " + std::to_string(threads) + " threads; try --threads 1");
  }
}

}  // namespace tofe
