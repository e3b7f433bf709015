// The daemon's values as text for people. Pure functions; times are shown as ages against `now`.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "proto/control/api.h"

namespace ckptd::ctl {

/// How the text is to be laid out and when it is read.
struct View {
  std::optional<std::size_t> width{};  ///< columns of the terminal; absent: nothing is shortened
  bool utf8 = false;
  std::chrono::system_clock::time_point now = std::chrono::system_clock::now();
};

/// What a job that succeeded has done, from its result: one line for a load, a line and one for each engine for an
/// update. Members that are missing or of another type are left out.
std::string summary_of(const proto::control::Job& job);

/// What whoever calls the engines themselves has to do, with the endpoints as JSON, one line for each engine.
std::string show_handles(const proto::control::Job& job);

/// What bounded an ended job, one line for each engine or one for a load; empty without a record.
std::string verdict_of(const proto::control::Job& job);
/// The record of an ended job: where the time went, and against what.
std::string show_record(const proto::control::JobRecord& record, const View& view);
/// "copies 9.10 GB/s at best (measured 2 d ago)"
std::string show_peak(const proto::control::Peak& peak, const View& view);

std::string show_versions(const std::vector<proto::control::Version>& versions, const View& view);
std::string show_version(const proto::control::Version& version, const View& view);
std::string show_jobs(const std::vector<proto::control::Job>& jobs, const View& view);
std::string show_job(const proto::control::Job& job, const View& view);
std::string show_engines(const std::vector<proto::control::Engine>& engines, const View& view);
std::string show_engine(const proto::control::Engine& engine, const View& view);
std::string show_preview(const proto::control::UpdatePreview& preview, const View& view);
/// One line: what a reload of the configuration did, without its time.
std::string show_reload(const proto::control::Reload& reload);
std::string show_status(const proto::control::Status& status, const View& view);

}  // namespace ckptd::ctl
