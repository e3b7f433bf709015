#include "proto/checkpoint_engine/error_reply.h"

#include <catch2/catch.hpp>
#include <random>

#include "common/utf8.h"
#include "proto/checkpoint_engine/messages.h"

namespace ckptd::proto::checkpoint_engine {
namespace {

using namespace std::string_literals;

/// pickle.dumps(RuntimeError("no such layer"), protocol), as CPython 3.12 writes it; pyzmq uses the newest protocol.
const std::string kProtocol5 =
    "\x80\x05\x95\x2b\0\0\0\0\0\0\0\x8c\x08" "builtins\x94\x8c\x0c" "RuntimeError\x94\x93\x94\x8c\x0d" "no such layer\x94\x85\x94R\x94."s;
/// pickle.dumps(ValueError("x" * 300)): a text that is longer than one byte tells.
const std::string kLongText = "\x80\x05\x95\x4d\x01\0\0\0\0\0\0\x8c\x08" "builtins\x94\x8c\x0a" "ValueError\x94\x93\x94X\x2c\x01\0\0"s +
                              std::string(300, 'x') + "\x94\x85\x94R\x94.";

}  // namespace

TEST_CASE("a traceback's last line is the summary") {
  const auto told = read_error_reply("Traceback (most recent call last):\n  File \"x\"\nValueError: no such layer\n\n");
  CHECK(told.summary == "ValueError: no such layer");
  CHECK(told.detail.starts_with("Traceback"));
}

TEST_CASE("of a pickled exception the texts are shown, and that it was not read") {
  CHECK(is_pickle(kProtocol5));
  CHECK(texts_in_pickle(kProtocol5) == std::vector<std::string>{"builtins", "RuntimeError", "no such layer"});
  const auto told = read_error_reply(kProtocol5);
  CHECK(told.summary.starts_with("RuntimeError: no such layer ("));
  CHECK(told.summary.find("ckptd does not read") != std::string::npos);
  CHECK(told.summary.find("engine's log") != std::string::npos);
  CHECK(told.detail.find("no such layer") != std::string::npos);
  CHECK(texts_in_pickle(kLongText) == std::vector<std::string>{"builtins", "ValueError", std::string(300, 'x')});
  CHECK(read_error_reply(kLongText).summary.size() < 1'000);
}

TEST_CASE("a pickle without a text is still a sentence") {
  const auto told = read_error_reply("\x80\x05N.");
  CHECK(told.summary.find("pickled exception") != std::string::npos);
  CHECK_FALSE(told.detail.empty());
}

TEST_CASE("no traceback is taken for a pickle, and our own pickles are seen as such") {
  CHECK_FALSE(is_pickle("Traceback"));
  CHECK_FALSE(is_pickle("\xc2\x80"));
  CHECK(is_pickle(none()));
}

TEST_CASE("lengths that lie, cut pickles and noise become bounded text and no crash") {
  for (std::size_t cut = 1; cut < kProtocol5.size(); ++cut) {
    const auto told = read_error_reply(kProtocol5.substr(0, cut));
    CHECK(is_utf8(told.summary));
  }
  CHECK(texts_in_pickle("\x80\x05\x8c\xffhello").empty());
  CHECK(texts_in_pickle("\x80\x05X\xff\xff\xff\xffhello").empty());
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    std::string noise(1 + random() % 2'000, '\0');
    for (auto& byte : noise) byte = random() % 4 ? static_cast<char>(random()) : '\x8c';
    noise[0] = '\x80';
    const auto told = read_error_reply(noise);
    CHECK(is_utf8(told.summary));
    CHECK(is_utf8(told.detail));
    CHECK(told.summary == shown(told.summary, 2'000));
    CHECK(told.detail.size() < (1 << 17));
  }
  const auto huge = read_error_reply("\x80\x05" + std::string(16 << 20, '\x8c'));
  CHECK(huge.detail.size() < (1 << 17));
}

}  // namespace ckptd::proto::checkpoint_engine
