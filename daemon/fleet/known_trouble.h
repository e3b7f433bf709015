// Which models are known to go wrong when they are given to which servers: docs/engines.md, "What is known to work", as a
// table. A test compares the two. Pure.
//
// A row is a report in a public tracker, not something that was tried here. It applies to the versions that its report
// names; where none is told, to all of them. What no row applies to is unknown, and nobody is refused for that.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "common/result.h"
#include "daemon/fleet/engine.h"
#include "daemon/weights/manifest.h"

namespace ckptd::fleet {

/// What of a model matters here, as names and types of its tensors tell it.
struct Model {
  bool fp8 = false;        ///< weights of eight-bit floats with scales beside them
  bool quantised = false;  ///< that, or any other weights with scales beside them
  bool experts = false;    ///< a mixture of experts, each with weights of its own
  bool operator==(const Model&) const = default;
};
Model model_of(const weights::Manifest& manifest);

/// How an engine is given weights.
enum class Way {
  worker,  ///< its ranks load what they are given over the live model: checkpoint-engine's protocol
  native,  ///< by its own weight transfer, which puts the model together again as at its start
};

struct Circumstances {
  std::string_view kind;  ///< of the engine
  Way way = Way::worker;
  Model model;
  const Description& server;
};

struct KnownTrouble {
  std::string_view id;            ///< of its row in docs/engines.md
  std::string_view kind;          ///< of engines that it is about
  std::string_view name;          ///< of those, for people
  Way way;
  std::string_view from, before;  ///< versions of the server: from this one, and before that one; empty: none is told
  std::string_view sources;       ///< "owner/name#1, #2", as in docs/engines.md
  std::string_view what;          ///< goes wrong
  std::string_view instead;       ///< what else can be done, as an order; no full stop
  bool (*concerns)(const Circumstances&);
};

std::span<const KnownTrouble> known_troubles();

/// The first row that applies, or null.
const KnownTrouble* trouble_with(const Circumstances& circumstances);

/// One sentence without a full stop, for whoever went on all the same: what goes wrong and who says so.
std::string show(const KnownTrouble& trouble);

/// conflict: `version` is not given to `engine`, why not, and what to do instead.
Error refusal(const KnownTrouble& trouble, const std::string& engine, const std::string& version);
/// What is to be typed for that.
std::string forced_update(const std::string& engine, const std::string& version);

/// Whether a server's version lies in the range of a row; false when it does not tell one that can be compared, unless the
/// row is about all of them.
bool applies_to(const KnownTrouble& trouble, std::string_view version);

}  // namespace ckptd::fleet
