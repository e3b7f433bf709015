// From the rooms' values to those of the control API.
#pragma once

#include "daemon/catalogue/catalogue.h"
#include "daemon/jobs/jobs.h"
#include "proto/control/api.h"

namespace ckptd::operations {

proto::control::Job show(const jobs::Record& record);
proto::control::Version show(const catalogue::View& view);

}  // namespace ckptd::operations
