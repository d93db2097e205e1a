// Aligned memory that is used again, shared by all threads.
#pragma once
#include <cstddef>

namespace znn::pool {

struct Counts {
  size_t bytes_from_system;  // held now, in use or free
  size_t bytes_in_use;
  size_t n_from_system;  // allocations ever asked of the system
  size_t bytes_scratch;  // held by threads for their kernel calls, beside all of the above
  size_t bytes_peak;     // the most that was in use at once since reset_peak
};

void* take(size_t bytes);  // 64-byte aligned; throws std::bad_alloc
void give(void* memory, size_t bytes) noexcept;
void trim() noexcept;  // returns what is free to the system
Counts counts() noexcept;
void reset_peak() noexcept;  // to what is in use now

float* scratch(size_t n);  // this thread's own memory for one kernel call, at least n floats, kept between calls

}  // namespace znn::pool
