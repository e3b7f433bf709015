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
                   .follow = false,
                   .wake = "weights",
                   .target = VersionRecord{"Qwen/Qwen3-8B@2", "00ff", "aa", "step-120", true},
                   .serving = VersionRecord{"Qwen/Qwen3-8B@1", "1234", "aa"},
                   .previous = VersionRecord{"Qwen/Qwen3-8B@0", "77", "aa"},
                   .poisoned = "rank 1 said:\n\"boom\" \\ \x01 \xc3\xa9",
                   .listener = ProcessId{4711, 123456789},
                   .label = "1",
                   .lost = "its server was restarted",
                   .changed_by_others = true,
                   .given_asleep = true,
                   .drained = true,
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
      .in_custody = {{"ipc:///run/ckptd/ranks/c3.sock", "HOST-0"}, {"ipc:///run/ckptd/ranks/c4.sock", "HOST-1", true}},
      .drained = true,
  };
}

/// As the ckptd before the life cycle wrote it, byte for byte.
inline constexpr const char* kFormat1 = R"({
 "format": 1,
 "engines": [
  {
   "name": "sglang-0",
   "kind": "sglang",
   "endpoint": "http://127.0.0.1:30000",
   "checkpoint": "Qwen/Qwen3-8B",
   "devices": [
    "HOST-0"
   ],
   "target": {
    "id": "Qwen/Qwen3-8B@2",
    "identity": "00ff",
    "schema": "aa"
   },
   "serving": {
    "id": "Qwen/Qwen3-8B@1",
    "identity": "1234",
    "schema": "aa"
   },
   "poisoned": "update-3 to Qwen/Qwen3-8B@2 did not finish"
  }
 ],
 "updates": [
  {
   "job": "update-4",
   "engine": "sglang-0",
   "version": "Qwen/Qwen3-8B@2",
   "phase": "opening",
   "sessions": [
    {
     "endpoint": "ipc:///run/ckptd/r/a1",
     "device": "HOST-0"
    }
   ]
  }
 ],
 "in_custody": []
}
)";

inline Contents contents_of_format_1() {
  return {.engines = {{.name = "sglang-0",
                       .kind = "sglang",
                       .endpoint = "http://127.0.0.1:30000",
                       .checkpoint = "Qwen/Qwen3-8B",
                       .devices = {"HOST-0"},
                       .target = VersionRecord{"Qwen/Qwen3-8B@2", "00ff", "aa"},
                       .serving = VersionRecord{"Qwen/Qwen3-8B@1", "1234", "aa"},
                       .poisoned = "update-3 to Qwen/Qwen3-8B@2 did not finish"}},
          .updates = {{.job = "update-4",
                       .engine = "sglang-0",
                       .version = "Qwen/Qwen3-8B@2",
                       .sessions = {{"ipc:///run/ckptd/r/a1", "HOST-0"}}}}};
}

}  // namespace ckptd::journal
