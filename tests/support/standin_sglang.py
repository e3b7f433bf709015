#!/usr/bin/env python3
"""A stand-in for an SGLang server: its weight-update API in front of rank processes that tests can make fail.

  standin_sglang.py --devices HOST-0,HOST-1 --kind torch --python VENV/bin/python
  standin_sglang.py --devices HOST-0 --kind reference --program build/dev/tests/reference_rank --unix /tmp/e.sock
  standin_sglang.py --devices HOST-0,HOST-1 --rank "CMD" [--rank "CMD"]      one command for all, or one for each

`--device UUID` is appended to each rank's command. Prints "ready PORT" or "ready PATH" once it listens.

As in SGLang: each rank looks its endpoint up by its device's uuid; one update at a time, later ones wait; the answer
comes when all ranks have ended (they meet at a barrier) and is that of the FIRST rank alone. A rank that is dead makes
the answer 400, where SGLang would have ended as a whole. What else is assumed: docs/standins.md. The routes of tests:
standin_common.py.
"""

import sys
import time

from standin_common import BadRequest, Closed, Server, common_parser, run

# Guarded by the admin key where there is one; every other route but the first three prefixes by the API key.
ADMIN = ("/update_weights_from_ipc", "/update_weight_version", "/pause_generation", "/continue_generation",
         "/release_memory_occupation", "/resume_memory_occupation", "/weights_checker", "/get_weights_by_name",
         "/flush_cache")
OPEN = ("/health", "/ready", "/metrics")
NOT_FLUSHED = ("Weights were updated, but the cache was not flushed because requests are still running or queued. "
               "Retract or finish them, then call /flush_cache.")


class Sglang(Server):
    def __init__(self, ranks, arguments):
        super().__init__(ranks, arguments)
        self._waits_until = time.monotonic() + arguments.wait_weights

    def starting(self):
        """Waiting for its first weights is starting too, until it gives up and serves what it has."""
        waits = not self.updated and time.monotonic() < self._waits_until
        return super().starting() or waits

    def refusal(self, request):
        if request.path.startswith(OPEN):
            return None
        arguments = self.arguments
        wanted = arguments.api_key
        if request.path in ADMIN and arguments.admin_api_key:
            wanted = arguments.admin_api_key
        if wanted is None or wanted in (request.bearer(), request.headers.get("x-api-key")):
            return None
        return 401, {"error": "Unauthorized"}

    def invalid(self, text):
        return 400, {"object": "error", "message": text, "code": 400}

    def complaint_of(self, answers):
        """That of the first scheduler alone: what became of the others nobody hears."""
        first = answers[self.ranks[0].device]
        return None if first.get("ok") else self.last_line(first)

    def success(self, _handles):
        return 200, {"success": True, "message": "IPC weight update completed successfully"}

    def failure(self, text):
        if not text.startswith(("Device UUID", "scheduler of", "the stand-in", "Weights were updated")):
            text = "IPC weight update failed: " + text
        return 400, {"success": False, "message": text}

    def routes(self):
        old = self.arguments.old
        table = {
            ("GET", "/ping"): lambda _: (503 if self.starting() and not old else 200, {} if old else None),
            ("GET", "/health"): lambda _: (503 if self.starting() else 200, None if self.starting() else {}),
            ("GET", "/health_generate"): lambda _: (503 if self.starting() else 200, None if self.starting() else {}),
            ("GET", "/get_model_info"): self.model_info,
            ("GET", "/get_server_info"): self.server_info,
            ("POST", "/update_weights_from_ipc"): self.update_weights,
            ("POST", "/update_weight_version"): self.update_weight_version,
            ("POST", "/pause_generation"): self.pause_generation,
            ("POST", "/continue_generation"): self.continue_generation,
            ("POST", "/release_memory_occupation"): self.release_memory,
            ("POST", "/resume_memory_occupation"): self.resume_memory,
            ("POST", "/flush_cache"): self.flush_cache,
            ("GET", "/get_weights_by_name"): self.get_weights_by_name,
            ("POST", "/get_weights_by_name"): self.get_weights_by_name,
            ("POST", "/standin/false_values"): self.set_false_values,
            ("GET", "/openapi.json"): lambda _: (200, {"openapi": "3.1.0",
                                                        "paths": {path: {} for _, path in self.routes()}}),
        }
        if not old:
            table |= {
                ("GET", "/ready"): lambda _: (503 if self.starting() or self.paused else 200, None),
                ("GET", "/model_info"): self.model_info,
                ("GET", "/server_info"): self.server_info,
                ("GET", "/weights_checker"): self.weights_checker,
                ("POST", "/weights_checker"): self.weights_checker,
            }
        return table

    def model_info(self, _request):
        return 200, {"model_path": "stand-in", "is_generation": True, "weight_version": self.weight_version,
                     "load_format": self.arguments.load_format}

    def server_info(self, _request):
        arguments, drafts = self.arguments, self.arguments.draft_models
        return 200, {
            "model_path": "stand-in", "version": arguments.version or "0.5.23", "load_format": arguments.load_format, "nnodes": 1,
            "tp_size": len(self.ranks), "pp_size": 1, "dp_size": arguments.dp_size, "enable_dp_attention": False,
            "quantization": arguments.quantization,
            "speculative_algorithm": arguments.speculative or ("EAGLE" if drafts else None),
            "speculative_num_steps": drafts or None,
            "enable_multi_layer_eagle": drafts > 1, "enable_memory_saver": arguments.memory_saver,
            "weight_cache_mode": "off", "checkpoint_engine_wait_weights_before_ready": arguments.wait_weights > 0,
            "internal_states": [{}]}

    def update_weights(self, request):
        body = request.body()
        handles, weight_version = parse_update(body)
        if "weights" in self.released:  # the GPU faults on memory that is not there
            self.end_ranks("an update of released memory ends the schedulers")
        if self.arguments.dp_size > 1:
            return 400, {"success": False, "message": "IPC weight update failed: dp_size must be 1 or dp attention must "
                                                      "be enabled for update weights from IPC"}
        flush = body.get("flush_cache", True)
        return self.with_label(weight_version, self.update(
            handles, weight_version, lambda: NOT_FLUSHED if flush and self.holds_cache() else None))

    def holds_cache(self):
        return self.running_requests > 0 and self.paused == "in_place"

    @staticmethod
    def with_label(weight_version, answer):
        kind, status, body = answer
        if status == 200 and weight_version is not None and body.get("success"):
            body["message"] += f" Weight version updated to {weight_version}."
        return kind, status, body

    def update_weight_version(self, request):
        version = request.body().get("new_version")
        if not isinstance(version, str):
            raise BadRequest("new_version: Field required")
        self.weight_version = version
        return 200, {"success": True, "message": f"Weight version updated to {version}", "new_version": version}

    def pause_generation(self, request):
        mode = request.body().get("mode", "abort")
        if mode not in ("abort", "retract", "in_place"):
            raise BadRequest("mode: Input should be 'abort', 'retract' or 'in_place'")
        self.hold_back(mode)
        if mode == "abort":
            self.running_requests = 0
        return 200, {"message": "Generation paused successfully.", "status": "ok"}

    def continue_generation(self, _request):
        self.let_go_on()
        return 200, {"message": "Generation continued successfully.", "status": "ok"}

    def release_memory(self, request):
        if not self.arguments.memory_saver or self.running_requests:
            self.end_ranks("a release without a memory saver, or of a busy server, fails an assertion")
            raise Closed
        self.released |= set(request.body().get("tags") or ("weights", "kv_cache", "cuda_graph"))
        return 200, None

    def resume_memory(self, request):
        tags = set(request.body().get("tags") or ("weights", "kv_cache", "cuda_graph"))
        if not tags <= self.released:
            self.end_ranks("a resume of memory that is not released ends the schedulers")
            raise Closed
        self.released -= tags
        return 200, None

    def flush_cache(self, _request):
        if self.running_requests and self.paused != "retract":
            return 400, "Flush cache failed.\n"
        return 200, "Cache flushed.\n"

    def weights_checker(self, request):
        action = request.body().get("action", "checksum")
        if action != "checksum":
            return 400, {"success": False, "message": f"Unsupported action {action}"}
        size = len(self.ranks)
        ranks = [{"checksums": sums, "per_gpu_checksum": "",
                  "parallelism_info": [{"role": "target", "tp_rank": index, "tp_size": size, "pp_rank": 0, "pp_size": 1,
                                        "dp_rank": 0, "dp_size": 1, "rank": index, "size": size}]}
                 for index, sums in enumerate(self.checksums())]
        return 200, {"success": True, "message": "Success", "ranks": ranks, "per_engine_checksum": ""}


    def get_weights_by_name(self, request):
        """The first rank answers for all; a model without such a method, and a tensor that is not there, are 400."""
        body = request.body()
        if not isinstance(body.get("name"), str) or not isinstance(body.get("truncate_size", 100), int):
            raise BadRequest("name: Field required")
        told = None
        if not self.arguments.no_values:
            told = self.ranks[0].ask({"cmd": "values", "name": body["name"],
                                      "count": body.get("truncate_size", 100)}).get("values")
        if told is None:
            return 400, {"error": {"message": "Get parameter by name failed"}}
        if self.arguments.false_values:
            told = [0.25 if told[0] == 0.5 else 0.5, *told[1:]]
        return 200, told

    def set_false_values(self, request):
        self.arguments.false_values = bool(request.body().get("wrong"))
        return 200, {"ok": True}


def parse_update(body):
    handles = body.get("zmq_handles")
    if not isinstance(handles, dict) or not all(isinstance(value, str) for value in handles.values()):
        raise BadRequest("zmq_handles: Input should be a valid dictionary of strings")
    for field in ("flush_cache", "torch_empty_cache"):
        if not isinstance(body.get(field, False), bool):
            raise BadRequest(f"{field}: Input should be a valid boolean")
    version = body.get("weight_version")
    if version is not None and not isinstance(version, str):
        raise BadRequest("weight_version: Input should be a valid string")
    return handles, version


def parse_arguments():
    parser = common_parser(__doc__)
    parser.add_argument("--admin-api-key")
    parser.add_argument("--memory-saver", action="store_true", help="as --enable-memory-saver")
    parser.add_argument("--dp-size", type=int, default=1)
    parser.add_argument("--load-format", default="auto")
    parser.add_argument("--quantization", help="that it tells; nothing is quantised")
    parser.add_argument("--speculative", metavar="ALGORITHM", help="that it tells; by default EAGLE with a draft model")
    parser.add_argument("--wait-weights", type=float, default=0, metavar="SECONDS",
                        help="as --checkpoint-engine-wait-weights-before-ready, giving up after SECONDS")
    parser.add_argument("--no-values", action="store_true", help="its model has no get_weights_by_name()")
    parser.add_argument("--false-values", action="store_true", help="get_weights_by_name() tells a wrong first value")
    parser.add_argument("--old", action="store_true", help="routes and /ping of servers before 0.5.23")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(Sglang, parse_arguments()))
