// Opens and closes the accounts of jobs, of which daemon/records makes records and traces. Internal to the room.
#pragma once

#include <optional>
#include <string>

#include "daemon/jobs/jobs.h"
#include "daemon/operations/service.h"
#include "daemon/records/accounts.h"

namespace ckptd::operations {

records::JobAccount open_account(std::string id, std::string kind, std::string subject);
records::PushAccount open_account(const EnginePush& push);

void close_account(records::JobAccount& account, const Result<std::string>& result);
void close_account(records::PushAccount& account, const Result<nlohmann::json>& report);
/// With the stages that its job was told.
void close_account(records::LoadAccount& account, const Result<std::string>& result,
                   const std::optional<jobs::Record>& job);

/// How far a load's reading came; to be called now and then.
void note_read(records::LoadAccount& account, std::uint64_t read_bytes);

void note_plan(records::PushAccount& account, const plan::Plan& plan);
void note_push(records::PushAccount& account, const pipeline::Report& report, const pipeline::Progress& progress);

}  // namespace ckptd::operations
