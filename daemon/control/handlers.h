// One function for each route: a call into operations::Operations and its outcome into a response. Each validates what
// only HTTP knows of (parameters, headers, JSON) and leaves everything else to operations.
#pragma once

#include "daemon/control/routes.h"

namespace ckptd::control::handlers {

using operations::Operations;

Result<Response> healthz(Operations&, const Call&);
Result<Response> readyz(Operations&, const Call&);
Result<Response> status(Operations&, const Call&);

Result<Response> reload(Operations&, const Call&);

Result<Response> list_checkpoints(Operations&, const Call&);
Result<Response> list_versions(Operations&, const Call&);
Result<Response> put_version(Operations&, const Call&);
Result<Response> get_version(Operations&, const Call&);
Result<Response> patch_version(Operations&, const Call&);
Result<Response> delete_version(Operations&, const Call&);
Result<Response> trim_store(Operations&, const Call&);

Result<Response> post_update(Operations&, const Call&);

Result<Response> list_jobs(Operations&, const Call&);
Result<Response> get_job(Operations&, const Call&);
Result<Response> delete_job(Operations&, const Call&);
Result<Response> get_trace(Operations&, const Call&);

Result<Response> post_probe(Operations&, const Call&);
Result<Response> verify_engine(Operations&, const Call&);
Result<Response> watch_job(Operations&, const Call&);
Result<Response> watch_everything(Operations&, const Call&);

Result<Response> list_engines(Operations&, const Call&);
Result<Response> put_engine(Operations&, const Call&);
Result<Response> get_engine(Operations&, const Call&);
Result<Response> delete_engine(Operations&, const Call&);
Result<Response> patch_engine(Operations&, const Call&);
Result<Response> engine_ready(Operations&, const Call&);
Result<Response> drain_engine(Operations&, const Call&);
Result<Response> undrain_engine(Operations&, const Call&);
Result<Response> drain_node(Operations&, const Call&);
Result<Response> undrain_node(Operations&, const Call&);
Result<Response> post_rollback(Operations&, const Call&);

}  // namespace ckptd::control::handlers
