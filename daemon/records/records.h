// From accounts to the record of a job, which people and programs read. Pure.
#pragma once

#include <string>
#include <vector>

#include "daemon/records/accounts.h"
#include "proto/control/record.h"

namespace ckptd::records {

api::PushRecord push_record(const PushAccount& account, const Peaks& peaks);

api::JobRecord update_record(const JobAccount& job, const std::vector<PushAccount>& pushes, const Peaks& peaks);
api::JobRecord load_record(const JobAccount& job, const LoadAccount& load, const Peaks& peaks);

/// The record in one line of the log.
std::string in_one_line(const api::JobRecord& record);

}  // namespace ckptd::records
