// Under AddressSanitizer, memory that the pool holds but nobody may touch is marked, so that touching it is reported.
#pragma once
#include <cstddef>

#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

namespace znn::pool {

// Of `held` bytes only the first `bytes` may be touched.
inline void allow(void* memory, size_t bytes, size_t held) {
  ASAN_UNPOISON_MEMORY_REGION(memory, bytes);
  ASAN_POISON_MEMORY_REGION(static_cast<char*>(memory) + bytes, held - bytes);
}

}  // namespace znn::pool
