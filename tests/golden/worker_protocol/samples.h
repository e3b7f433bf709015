// Messages with known values, written by proto/checkpoint_engine. unpickle_test.py knows the same names and values.
#pragma once

#include <map>
#include <string>

namespace ckptd::test {

std::map<std::string, std::string> message_samples();

}  // namespace ckptd::test
