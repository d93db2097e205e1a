// Fresh pages cost a fault each and a lock in the kernel, which alone can keep two threads from being faster than
// one; so memory given back is kept: small blocks for the next of their size, large ones in the arena.
#include "pool.hpp"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <new>
#include <unordered_map>
#include <vector>

#include "arena.hpp"
#include "poison.hpp"

namespace znn::pool {

namespace {

constexpr size_t PAGE = 4096, HUGE_PAGE = Arena::HUGE_PAGE;
#ifdef __SANITIZE_ADDRESS__
constexpr size_t LARGE = SIZE_MAX;  // each block by itself, so that reading beyond its end is found
#else
constexpr size_t LARGE = 4 * PAGE;
#endif

struct State {
  std::mutex lock;                                      // owns everything below
  Arena arena;                                          // of large blocks
  std::unordered_map<size_t, std::vector<void*>> free;  // small blocks, by size
  Counts counts{};
};

// Never destroyed: arrays may outlive static destruction at interpreter exit.
State& state() {
  static State* s = [] {
    // A child of fork must not inherit the lock held by a thread it does not have.
    pthread_atfork([] { state().lock.lock(); }, [] { state().lock.unlock(); }, [] { state().lock.unlock(); });
    return new State;
  }();
  return *s;
}

size_t rounded(size_t bytes) {
  if (bytes < PAGE) return (bytes + 63) / 64 * 64 + (bytes == 0 ? 64 : 0);
  return (bytes + PAGE - 1) / PAGE * PAGE;
}

void* from_system(size_t bytes) {
  const bool huge = bytes >= HUGE_PAGE;
  void* memory = nullptr;
  if (posix_memalign(&memory, huge ? HUGE_PAGE : 64, bytes) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (huge) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

void in_use(Counts& counts, size_t bytes) {
  counts.bytes_in_use += bytes;
  counts.bytes_peak = std::max(counts.bytes_peak, counts.bytes_in_use);
}

struct Scratch {
  float* memory = nullptr;
  size_t bytes = 0;

  ~Scratch() { drop(); }

  void drop() noexcept {
    std::free(memory);
    count(bytes, 0);
    memory = nullptr;
    bytes = 0;
  }

  void grow(size_t wanted) {
    drop();
    memory = static_cast<float*>(from_system(wanted));
    bytes = wanted;
    count(0, bytes);
  }

  static void count(size_t before, size_t after) noexcept {
    std::lock_guard<std::mutex> guard(state().lock);
    state().counts.bytes_scratch += after - before;
  }
};

}  // namespace

void* take(size_t wanted) {
  const size_t bytes = rounded(wanted);
  State& s = state();
  std::lock_guard<std::mutex> guard(s.lock);
  if (bytes >= LARGE) {
    void* memory = s.arena.take(bytes);
    in_use(s.counts, bytes);
    allow(memory, wanted, bytes);
    return memory;
  }
  std::vector<void*>& list = s.free[bytes];
  if (!list.empty()) {
    void* memory = list.back();
    list.pop_back();
    in_use(s.counts, bytes);
    allow(memory, wanted, bytes);
    return memory;
  }
  void* memory = from_system(bytes);
  in_use(s.counts, bytes);
  allow(memory, wanted, bytes);
  s.counts.bytes_from_system += bytes;
  s.counts.n_from_system++;
  return memory;
}

void give(void* memory, size_t bytes) noexcept {
  bytes = rounded(bytes);
  State& s = state();
  std::lock_guard<std::mutex> guard(s.lock);
  s.counts.bytes_in_use -= bytes;
  try {
    if (bytes >= LARGE)
      s.arena.give(memory, bytes);
    else
      s.free[bytes].push_back(memory);
    allow(memory, 0, bytes);
  } catch (const std::bad_alloc&) {  // it is lost, which is better than to end here
    s.counts.bytes_from_system -= bytes;
  }
}

void trim() noexcept {
  State& s = state();
  std::lock_guard<std::mutex> guard(s.lock);
  s.arena.trim();
  for (auto& [bytes, list] : s.free) {
    for (void* memory : list) std::free(memory);
    s.counts.bytes_from_system -= bytes * list.size();
    list.clear();
  }
}

Counts counts() noexcept {
  State& s = state();
  std::lock_guard<std::mutex> guard(s.lock);
  Counts all = s.counts;
  all.bytes_from_system += s.arena.held;
  all.n_from_system += s.arena.n_grown;
  return all;
}

void reset_peak() noexcept {
  State& s = state();
  std::lock_guard<std::mutex> guard(s.lock);
  s.counts.bytes_peak = s.counts.bytes_in_use;
}

float* scratch(size_t n) {
  static thread_local Scratch own;
  if (own.bytes < n * sizeof(float)) own.grow(rounded((n + n / 2) * sizeof(float)));
  allow(own.memory, n * sizeof(float), own.bytes);
  return own.memory;
}

}  // namespace znn::pool
