// What a rank that failed has answered, as text for people. Pure. Nothing is ever unpickled.
//
// checkpoint-engine from 0.2.2 on answers with a traceback in UTF-8; 0.2.1 with its exception, pickled, of which the texts
// that stand in it are shown. Versions before that do not answer at all.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace ckptd::proto::checkpoint_engine {

struct ErrorReply {
  std::string summary;  ///< for a sentence: the exception itself
  std::string detail;   ///< all that is worth keeping, of bounded size, UTF-8
};

/// `reply` is not empty.
ErrorReply read_error_reply(std::string_view reply);

/// The first byte of every pickle of protocol 2 and later, and of no text in UTF-8.
bool is_pickle(std::string_view reply);

/// The texts in a pickle: what stands behind an opcode that announces a text of a length that fits, if it is UTF-8. A
/// search without any meaning: no opcode is carried out, and what is no pickle gives nonsense at worst.
std::vector<std::string> texts_in_pickle(std::string_view pickle);

}  // namespace ckptd::proto::checkpoint_engine
