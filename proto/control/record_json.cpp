#include <nlohmann/json.hpp>

#include "proto/control/api.h"
#include "proto/control/json_reader.h"
#include "proto/control/record.h"

namespace ckptd::proto::control {
namespace {

using nlohmann::json;

template <class T>
json array_of(const std::vector<T>& values, json (*convert)(const T&)) {
  auto array = json::array();
  for (const auto& value : values) array.push_back(convert(value));
  return array;
}

json stage_object(const StageFigure& stage) {
  json object{{"name", stage.name},
              {"seconds", stage.seconds},
              {"bytes", stage.bytes},
              {"bytes_per_second", stage.bytes_per_second}};
  if (stage.peak_bytes_per_second) object["peak_bytes_per_second"] = *stage.peak_bytes_per_second;
  if (stage.share_of_peak) object["share_of_peak"] = *stage.share_of_peak;
  return object;
}

json share_object(const TimeShare& share) {
  return {{"reason", share.reason}, {"seconds", share.seconds}, {"waited_for", share.waited_for}};
}

json lane_object(const LaneRecord& lane) {
  return {{"device", lane.device},
          {"pid", lane.pid},
          {"bytes", lane.bytes},
          {"buckets_uploaded", lane.buckets_uploaded},
          {"buckets_reloaded", lane.buckets_reloaded},
          {"bounded_by", lane.bounded_by},
          {"stages", array_of(lane.stages, stage_object)},
          {"shares", array_of(lane.shares, share_object)}};
}

json slow_object(const SlowBucket& slow) {
  return {{"device", slow.device},
          {"stage", slow.stage},
          {"bucket", slow.bucket},
          {"bytes", slow.bytes},
          {"seconds", slow.seconds}};
}

json push_object(const PushRecord& push) {
  json object{{"engine", push.engine},
              {"state", push.state},
              {"seconds", push.seconds},
              {"bytes", push.bytes},
              {"buckets", push.buckets},
              {"bucket_bytes", push.bucket_bytes},
              {"arena_bytes", push.arena_bytes},
              {"copy_runs", push.copy_runs},
              {"fan_out", push.fan_out},
              {"bounded_by", push.bounded_by},
              {"because", push.because},
              {"shares", array_of(push.shares, share_object)},
              {"steps", array_of(push.steps, stage_object)},
              {"lanes", array_of(push.lanes, lane_object)},
              {"slowest", array_of(push.slowest, slow_object)},
              {"came_to", push.came_to},
              {"failed", push.failed}};
  if (push.error) object["error"] = to_json(*push.error)["error"];
  return object;
}

json load_object(const LoadRecord& load) {
  json object{{"seconds", load.seconds},
              {"bytes", load.bytes},
              {"bounded_by", load.bounded_by},
              {"because", load.because},
              {"shares", array_of(load.shares, share_object)},
              {"stages", array_of(load.stages, stage_object)},
              {"came_to", load.came_to}};
  if (load.storage_bytes) object["storage_bytes"] = *load.storage_bytes;
  if (load.page_cache_bytes) object["page_cache_bytes"] = *load.page_cache_bytes;
  return object;
}

Result<StageFigure> parse_figure(const json& value) {
  StageFigure stage;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("name", stage.name);
  reader.optional("seconds", stage.seconds);
  reader.optional("bytes", stage.bytes);
  reader.optional("bytes_per_second", stage.bytes_per_second);
  reader.optional("peak_bytes_per_second", stage.peak_bytes_per_second);
  reader.optional("share_of_peak", stage.share_of_peak);
  CKPTD_TRY(reader.finish());
  return stage;
}

Result<TimeShare> parse_share(const json& value) {
  TimeShare share;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("reason", share.reason);
  reader.optional("seconds", share.seconds);
  reader.optional("waited_for", share.waited_for);
  CKPTD_TRY(reader.finish());
  return share;
}

Result<LaneRecord> parse_lane(const json& value) {
  LaneRecord lane;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("device", lane.device);
  reader.optional("pid", lane.pid);
  reader.optional("bytes", lane.bytes);
  reader.optional("buckets_uploaded", lane.buckets_uploaded);
  reader.optional("buckets_reloaded", lane.buckets_reloaded);
  reader.optional("bounded_by", lane.bounded_by);
  reader.each("stages", lane.stages, parse_figure);
  reader.each("shares", lane.shares, parse_share);
  CKPTD_TRY(reader.finish());
  return lane;
}

Result<SlowBucket> parse_slow(const json& value) {
  SlowBucket slow;
  ObjectReader reader(value, kReadingAnswer);
  reader.optional("device", slow.device);
  reader.optional("stage", slow.stage);
  reader.optional("bucket", slow.bucket);
  reader.optional("bytes", slow.bytes);
  reader.optional("seconds", slow.seconds);
  CKPTD_TRY(reader.finish());
  return slow;
}

Result<PushRecord> parse_push(const json& value) {
  PushRecord push;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("engine", push.engine);
  reader.optional("state", push.state);
  reader.optional("seconds", push.seconds);
  reader.optional("bytes", push.bytes);
  reader.optional("buckets", push.buckets);
  reader.optional("bucket_bytes", push.bucket_bytes);
  reader.optional("arena_bytes", push.arena_bytes);
  reader.optional("copy_runs", push.copy_runs);
  reader.optional("fan_out", push.fan_out);
  reader.optional("bounded_by", push.bounded_by);
  reader.optional("because", push.because);
  reader.optional("came_to", push.came_to);
  reader.optional("failed", push.failed);
  reader.each("shares", push.shares, parse_share);
  reader.each("steps", push.steps, parse_figure);
  reader.each("lanes", push.lanes, parse_lane);
  reader.each("slowest", push.slowest, parse_slow);
  if (const auto* error = reader.take("error")) push.error = parse_error({{"error", *error}});
  CKPTD_TRY(reader.finish());
  return push;
}

Result<LoadRecord> parse_load(const json& value) {
  LoadRecord load;
  ObjectReader reader(value, kReadingAnswer);
  reader.optional("seconds", load.seconds);
  reader.optional("bytes", load.bytes);
  reader.optional("bounded_by", load.bounded_by);
  reader.optional("because", load.because);
  reader.optional("storage_bytes", load.storage_bytes);
  reader.optional("page_cache_bytes", load.page_cache_bytes);
  reader.optional("came_to", load.came_to);
  reader.each("shares", load.shares, parse_share);
  reader.each("stages", load.stages, parse_figure);
  CKPTD_TRY(reader.finish());
  return load;
}

}  // namespace

json to_json(const JobRecord& record) {
  json object{{"job", record.job},
              {"kind", record.kind},
              {"state", record.state},
              {"seconds", record.seconds},
              {"engines", array_of(record.engines, push_object)},
              {"notes", record.notes}};
  if (record.load) object["load"] = load_object(*record.load);
  return object;
}

json to_json(const Peak& peak) {
  return {{"stage", peak.stage},
          {"device", peak.device},
          {"bytes_per_second", peak.bytes_per_second},
          {"bytes", peak.bytes},
          {"measured", peak.measured}};
}

Result<JobRecord> parse_job_record(const json& value) {
  JobRecord record;
  ObjectReader reader(value, kReadingAnswer);
  reader.optional("job", record.job);
  reader.optional("kind", record.kind);
  reader.optional("state", record.state);
  reader.optional("seconds", record.seconds);
  reader.optional("notes", record.notes);
  reader.each("engines", record.engines, parse_push);
  if (const auto* load = reader.take("load")) {
    auto parsed = parse_load(*load);
    if (parsed)
      record.load = *std::move(parsed);
    else
      reader.join(std::unexpected(parsed.error().within("load")));
  }
  CKPTD_TRY(reader.finish());
  return record;
}

Result<Peak> parse_peak(const json& value) {
  Peak peak;
  ObjectReader reader(value, kReadingAnswer);
  reader.required("stage", peak.stage);
  reader.optional("device", peak.device);
  reader.required("bytes_per_second", peak.bytes_per_second);
  reader.optional("bytes", peak.bytes);
  reader.optional("measured", peak.measured);
  CKPTD_TRY(reader.finish());
  return peak;
}

}  // namespace ckptd::proto::control
