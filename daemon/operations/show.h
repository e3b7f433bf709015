// From the rooms' values to those of the control API.
#pragma once

#include <vector>

#include "daemon/catalogue/catalogue.h"
#include "daemon/jobs/jobs.h"
#include "daemon/pipeline/arena.h"
#include "proto/control/api.h"

namespace ckptd::operations {

proto::control::Job show(const jobs::Record& record);
std::vector<proto::control::Quarantine> show(const std::vector<pipeline::Arenas::InQuarantine>& arenas);
std::optional<proto::control::LostDevice> show(const std::optional<device::Loss>& loss);
proto::control::Version show(const catalogue::View& view);

}  // namespace ckptd::operations
