// Large blocks of the pool: address space in long pieces, cut to blocks of whole pages. A block given back joins the
// free ones beside it, so arrays of many sizes share memory and little more is held than is in use at the peak.
#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <map>
#include <new>

namespace znn::pool {

// Not safe for threads; sizes are multiples of a page. Throws std::bad_alloc.
class Arena {
 public:
  static constexpr size_t HUGE_PAGE = size_t(2) << 20;

  size_t held = 0;     // bytes that the system has given
  size_t n_grown = 0;  // how often it was asked

  // The first block by address that is large enough: what lives long gathers in front, and large blocks stay behind.
  void* take(size_t bytes) {
    auto block = first(bytes);
    if (block == blocks_.end()) block = grow(bytes);
    char* start = block->first;
    const size_t rest = block->second.bytes - bytes;
    blocks_.erase(block);
    if (rest) blocks_[start + bytes] = {rest, true};
    return start;
  }

  void give(void* memory, size_t bytes) {
    char* start = static_cast<char*>(memory);
    auto next = blocks_.lower_bound(start);
    if (next != blocks_.end() && next->second.held && next->first == start + bytes) {
      bytes += next->second.bytes;
      next = blocks_.erase(next);
    }
    if (next != blocks_.begin()) {
      const auto before = std::prev(next);
      if (before->second.held && before->first + before->second.bytes == start) {
        start = before->first;
        bytes += before->second.bytes;
        blocks_.erase(before);
      }
    }
    blocks_[start] = {bytes, true};
  }

  // Returns what is free to the system; the address space stays.
  void trim() noexcept {
    for (auto block = blocks_.begin(); block != blocks_.end();) {
      if (block->second.held) {
        madvise(block->first, block->second.bytes, MADV_DONTNEED);
        held -= block->second.bytes;
        block->second.held = false;
      }
      const auto before = block == blocks_.begin() ? blocks_.end() : std::prev(block);
      if (before != blocks_.end() && before->first + before->second.bytes == block->first) {
        before->second.bytes += block->second.bytes;
        block = blocks_.erase(block);
      } else {
        ++block;
      }
    }
  }

 private:
  static constexpr size_t PIECE = size_t(1) << 32, LEAST = size_t(1) << 16;

  struct Free {
    size_t bytes;
    bool held;  // whether the system has given memory for it, or only addresses
  };
  using Blocks = std::map<char*, Free>;

  Blocks blocks_;  // the free ones, by address

  Blocks::iterator first(size_t bytes) {
    return std::find_if(blocks_.begin(), blocks_.end(), [=](auto& b) { return b.second.held && b.second.bytes >= bytes; });
  }

  // Gives memory to the first free addresses that suffice, together with the free block before them.
  Blocks::iterator grow(size_t bytes) {
    for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
      if (block->second.held) continue;
      char* start = block->first;
      size_t before = 0;
      if (block != blocks_.begin()) {
        const auto neighbour = std::prev(block);
        if (neighbour->second.held && neighbour->first + neighbour->second.bytes == start) before = neighbour->second.bytes;
      }
      const size_t room = block->second.bytes;
      if (before + room < bytes) continue;
      // Somewhat more than needed, so that runs whose order differs soon find enough.
      const size_t more = std::min(room, (std::max(bytes - before, held / 16) + LEAST - 1) / LEAST * LEAST);
      blocks_.erase(block);
      if (room > more) blocks_[start + more] = {room - more, false};
      held += more;
      n_grown++;
      blocks_[start - before] = {before + more, true};
      return blocks_.find(start - before);
    }
    reserve(bytes);
    return grow(bytes);
  }

  void reserve(size_t bytes) {
    size_t size = std::max(PIECE, bytes + HUGE_PAGE);
    void* memory = size > PIECE ? MAP_FAILED : map(size, true);
    if (memory == MAP_FAILED) memory = map(size = bytes + HUGE_PAGE, false);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    const uintptr_t address = reinterpret_cast<uintptr_t>(memory);
    const size_t skipped = (HUGE_PAGE - address % HUGE_PAGE) % HUGE_PAGE;
    char* start = static_cast<char*>(memory) + skipped;
#ifdef MADV_HUGEPAGE
    madvise(start, size - skipped, MADV_HUGEPAGE);
#endif
    blocks_[start] = {size - skipped, false};
  }

  // `addresses`: what is mapped is mostly never used, so the system need not have memory for all of it.
  static void* map(size_t bytes, bool addresses) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    if (addresses) flags |= MAP_NORESERVE;
#endif
    return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  }
};

}  // namespace znn::pool
