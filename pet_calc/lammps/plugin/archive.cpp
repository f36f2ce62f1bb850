// SPDX-License-Identifier: GPL-2.0-or-later
// Copyright the pet-calc developers
//
// The format is that of PKWARE's APPNOTE 6.3; all numbers are little-endian.

#include "archive.h"

#include <array>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <vector>

namespace pet_calc {

namespace {

constexpr uint32_t END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50;
constexpr uint32_t CENTRAL = 0x02014b50, LOCAL = 0x04034b50;
constexpr uint64_t IN_EXTRA_FIELD = 0xffffffff;
constexpr uint64_t LONGEST_COMMENT = 65535;

class Bytes {
 public:
  Bytes(std::vector<unsigned char> bytes, const std::string &path)
      : bytes_(std::move(bytes)), path_(path) {}

  uint64_t size() const { return bytes_.size(); }

  uint64_t read(uint64_t place, int width) const {
    require(place, width);
    uint64_t value = 0;
    for (int k = width - 1; k >= 0; k--) value = value << 8 | bytes_[place + k];
    return value;
  }

  std::string read_text(uint64_t place, uint64_t length) const {
    require(place, length);
    return std::string(bytes_.begin() + place, bytes_.begin() + place + length);
  }

  uint32_t compute_checksum(uint64_t place, uint64_t length) const {
    require(place, length);
    static const std::array<uint32_t, 256> table = make_table();
    uint32_t sum = 0xffffffff;
    for (uint64_t k = place; k < place + length; k++)
      sum = table[(sum ^ bytes_[k]) & 0xff] ^ sum >> 8;
    return ~sum;
  }

  [[noreturn]] void fail(const std::string &what) const {
    throw std::runtime_error(path_ + " is damaged (" + what + "); copy it again");
  }

 private:
  static std::array<uint32_t, 256> make_table() {
    std::array<uint32_t, 256> table;
    for (uint32_t n = 0; n < 256; n++) {
      uint32_t value = n;
      for (int bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ value >> 1 : value >> 1;
      table[n] = value;
    }
    return table;
  }

  void require(uint64_t place, uint64_t length) const {
    if (place > size() || length > size() - place) fail("an entry ends beyond the file");
  }

  std::vector<unsigned char> bytes_;
  std::string path_;
};

struct Entry {
  uint64_t length, place;    // of the content in the archive, and of the local header
};

// The numbers that do not fit into 32 bits are in the extra field, in this order.
Entry read_entry(const Bytes &bytes, uint64_t header) {
  const uint64_t unpacked = bytes.read(header + 24, 4);
  Entry entry{bytes.read(header + 20, 4), bytes.read(header + 42, 4)};
  uint64_t place = header + 46 + bytes.read(header + 28, 2);
  const uint64_t end = place + bytes.read(header + 30, 2);
  while (place + 4 <= end) {
    const uint64_t kind = bytes.read(place, 2), width = bytes.read(place + 2, 2);
    uint64_t next = place + 4;
    if (kind == 1) {
      if (unpacked == IN_EXTRA_FIELD) next += 8;
      if (entry.length == IN_EXTRA_FIELD) {
        entry.length = bytes.read(next, 8);
        next += 8;
      }
      if (entry.place == IN_EXTRA_FIELD) entry.place = bytes.read(next, 8);
    }
    place += 4 + width;
  }
  return entry;
}

}    // namespace

void check_archive(const std::string &path) {
  std::ifstream stream(path, std::ios::binary);
  const Bytes bytes({std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()},
                    path);
  if (bytes.size() < 22 || bytes.read(0, 4) != LOCAL) return;
  uint64_t end = bytes.size() - 22;
  while (bytes.read(end, 4) != END) {
    if (end == 0 || bytes.size() - end > 22 + LONGEST_COMMENT) bytes.fail("it has no end");
    end--;
  }
  uint64_t n_entries = bytes.read(end + 10, 2), header = bytes.read(end + 16, 4);
  if (end >= 20 && bytes.read(end - 20, 4) == LOCATOR64) {
    const uint64_t record = bytes.read(end - 12, 8);
    if (bytes.read(record, 4) != END64) bytes.fail("it has no directory");
    n_entries = bytes.read(record + 32, 8);
    header = bytes.read(record + 48, 8);
  }
  for (uint64_t k = 0; k < n_entries; k++) {
    if (bytes.read(header, 4) != CENTRAL) bytes.fail("its directory is not whole");
    const uint64_t method = bytes.read(header + 10, 2), name_length = bytes.read(header + 28, 2);
    const Entry entry = read_entry(bytes, header);
    const std::string name = bytes.read_text(header + 46, name_length);
    if (bytes.read(entry.place, 4) != LOCAL ||
        bytes.read_text(entry.place + 30, bytes.read(entry.place + 26, 2)) != name)
      bytes.fail(name + " is not where its directory says");
    const uint64_t content =
        entry.place + 30 + bytes.read(entry.place + 26, 2) + bytes.read(entry.place + 28, 2);
    if (method == 0 && bytes.compute_checksum(content, entry.length) != bytes.read(header + 16, 4))
      bytes.fail(name + " differs from its checksum");
    header += 46 + name_length + bytes.read(header + 30, 2) + bytes.read(header + 32, 2);
  }
}

}    // namespace pet_calc
