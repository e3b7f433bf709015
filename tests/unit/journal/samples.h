// Contents that use every member, for the tests of this room.
#pragma once

#include "daemon/journal/journal.h"

namespace ckptd::journal {

inline Contents full_contents() {
  return {
      .engines = {{.name = "sglang-0",
                   .kind = "sglang",
                   .endpoint = "http://127.0.0.1:30000",
                   .checkpoint = "Qwen/Qwen3-8B",
                   .devices = {"HOST-0", "HOST-1"},
                   .target = VersionRecord{"Qwen/Qwen3-8B@2", "00ff", "aa"},
                   .serving = VersionRecord{"Qwen/Qwen3-8B@1", "1234", "aa"},
                   .poisoned = "rank 1 said:\n\"boom\" \\ \x01 \xc3\xa9",
                   .api_key_file = "/etc/ckptd/sglang.key",
                   .admin_key_file = "/etc/ckptd/sglang-admin.key"},
                  {.name = "bare", .kind = "sglang", .endpoint = "unix:/run/e.sock", .checkpoint = "m"}},
      .updates = {{.job = "update-7",
                   .engine = "sglang-0",
                   .version = "Qwen/Qwen3-8B@2",
                   .phase = Phase::pushing,
                   .sessions = {{"ipc:///run/ckptd/ranks/a1.sock", "HOST-0"},
                                {"ipc:///run/ckptd/ranks/b2.sock", "HOST-1"}}},
                  {.job = "update-8", .engine = "bare", .version = "m@1"}},
      .in_custody = {{"ipc:///run/ckptd/ranks/c3.sock", "HOST-0"}},
  };
}

}  // namespace ckptd::journal
