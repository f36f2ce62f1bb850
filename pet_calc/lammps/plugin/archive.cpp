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
#include <tuple>
#include <vector>

#include <caffe2/serialize/inline_container.h>

namespace pet_calc {

namespace {

constexpr uint32_t END = 0x06054b50, END64 = 0x06064b50, LOCATOR64 = 0x07064b50;
constexpr uint32_t CENTRAL = 0x02014b50, LOCAL = 0x04034b50;
constexpr uint64_t IN_EXTRA_FIELD = 0xffffffff;
constexpr uint64_t LONGEST_COMMENT = 65535;
constexpr uint64_t STORED = 0, DEFLATED = 8;

uint32_t compute_checksum(const unsigned char *bytes, uint64_t length) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> values;
    for (uint32_t n = 0; n < 256; n++) {
      uint32_t value = n;
      for (int bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ value >> 1 : value >> 1;
      values[n] = value;
    }
    return values;
  }();
  uint32_t sum = 0xffffffff;
  for (uint64_t k = 0; k < length; k++) sum = table[(sum ^ bytes[k]) & 0xff] ^ sum >> 8;
  return ~sum;
}

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
    return pet_calc::compute_checksum(bytes_.data() + place, length);
  }

  [[noreturn]] void fail(const std::string &what) const {
    throw std::runtime_error(path_ + " is damaged (" + what + "); copy it again");
  }

 private:
  void require(uint64_t place, uint64_t length) const {
    if (place > size() || length > size() - place) fail("an entry ends beyond the file");
  }

  std::vector<unsigned char> bytes_;
  std::string path_;
};

struct Entry {
  uint64_t length, place;    // of the content in the archive, and of the local header
};

struct Compressed {
  std::string name;
  uint64_t checksum;    // of the content once unpacked
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

// torch unpacks them, as it does when it loads the file, and does not look at checksums.
void check_compressed(const std::string &path, const Bytes &bytes,
                      const std::vector<Compressed> &entries) {
  if (entries.empty()) return;
  std::string name = "its directory";
  try {
    caffe2::serialize::PyTorchStreamReader reader(path);
    for (const Compressed &entry : entries) {
      name = entry.name;
      // torch's names leave out the folder that all entries are in
      const auto [content, length] = reader.getRecord(name.substr(name.find('/') + 1));
      const auto *unpacked = static_cast<const unsigned char *>(content.get());
      if (compute_checksum(unpacked, length) != entry.checksum)
        bytes.fail(name + " differs from its checksum");
    }
  } catch (const c10::Error &) {
    bytes.fail(name + " cannot be unpacked");
  }
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
  std::vector<Compressed> compressed;
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
    const uint64_t checksum = bytes.read(header + 16, 4);
    if (method == DEFLATED)
      compressed.push_back({name, checksum});
    else if (method != STORED)
      bytes.fail(name + " is packed in a way that torch does not write");
    else if (bytes.compute_checksum(content, entry.length) != checksum)
      bytes.fail(name + " differs from its checksum");
    header += 46 + name_length + bytes.read(header + 30, 2) + bytes.read(header + 32, 2);
  }
  check_compressed(path, bytes, compressed);
}

}    // namespace pet_calc
