// What is read at the moment of a scrape, as families of series. Internal to the room.
#pragma once

#include <prometheus/metric_family.h>

#include <filesystem>
#include <vector>

#include "proto/control/api.h"

namespace ckptd::metrics {

/// Of the daemon's values: pure.
std::vector<prometheus::MetricFamily> state_families(const proto::control::Status& status,
                                                     const std::vector<proto::control::Version>& versions,
                                                     proto::control::Time now);

/// Of this process, from PROC/self. What cannot be read is left out.
std::vector<prometheus::MetricFamily> process_families(const std::filesystem::path& proc = "/proc");

/// One value without labels.
prometheus::MetricFamily single(std::string name, std::string help, prometheus::MetricType type, double value);

}  // namespace ckptd::metrics
