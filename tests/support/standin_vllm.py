#!/usr/bin/env python3
"""A stand-in for a vLLM server in development mode, with checkpoint-engine's worker extension, or its weight transfer.

  standin_vllm.py --devices HOST-0,HOST-1 --kind reference --program build/dev/tests/reference_rank

Ranks, options and the routes of tests are those of standin_common.py. As in vLLM: /collective_rpc answers when all
workers have returned, with one result for each, and 500 when any of them has raised; its routes know no key, but for
/v1 and the like. With --weight-transfer ipc and transfer_rank.py as its ranks it is given weights by its own weight
transfer. What else is assumed: docs/standins.md.
"""

import sys
import threading
import time

from standin_common import Server, common_parser, run

GUARDED = ("/v1", "/v2", "/inference", "/cohere")
METHOD = "update_weights_from_ipc"
EXTENSION = "checkpoint_engine.worker.VllmColocateWorkerExtension"


class Vllm(Server):
    def refusal(self, request):
        key = self.arguments.api_key
        if key is None or not request.path.startswith(GUARDED) or request.bearer() == key:
            return None
        return 401, {"error": "Unauthorized"}

    def success(self, _handles):
        return 200, {"results": [None] * len(self.ranks)}

    def failure(self, text):
        return 500, {"error": {"message": f"Call to collective_rpc method failed: {text}", "type": "InternalServerError",
                               "param": None, "code": 500}}

    def missing_uuid(self, device, _handles):
        return repr(device)  # a KeyError's words

    def wrong_uuid(self, _device, _handles):
        return repr("GPU-ffffffff")

    def routes(self):
        table = {
            ("GET", "/health"): lambda _: (503 if self.starting() else 200, None),
            ("GET", "/version"): lambda _: (200, {"version": self.arguments.version or "0.26.0"}),
            ("GET", "/v1/models"): lambda _: (200, {"object": "list", "data": [{"id": "stand-in", "root": "stand-in"}]}),
            ("GET", "/metrics"): lambda _: (200, self.metrics()),
            ("GET", "/openapi.json"): lambda _: (200, {"openapi": "3.1.0",
                                                        "paths": {path: {} for _, path in self.routes()}}),
        }
        if not self.arguments.no_dev_mode:
            table |= {
                ("POST", "/collective_rpc"): self.collective_rpc,
                ("GET", "/is_sleeping"): lambda _: (200, {"is_sleeping": bool(self.released) or self.paused is not None}),
                ("GET", "/is_paused"): lambda _: (200, {"is_paused": bool(self.released) or self.paused is not None}),
                ("POST", "/pause"): self.pause,
                ("POST", "/resume"): self.resume,
                ("POST", "/sleep"): self.sleep,
                ("POST", "/wake_up"): self.wake_up,
                ("POST", "/reset_prefix_cache"): self.reset_prefix_cache,
                ("GET", "/get_world_size"): lambda _: (200, {"world_size": len(self.ranks)}),
                ("GET", "/server_info"): self.server_info,
                ("GET", "/weight_info"): lambda _: (200, {"weight_version": self.weight_version}),
                ("POST", "/update_weight_version"): self.update_weight_version,
                ("POST", "/weight_checker"): self.weight_checker,
            }
        if not self.arguments.no_dev_mode:
            table |= self.transfer_routes()
        return table

    # -- weight transfer: one call for all workers, whose first complaint is the answer

    def transfer_routes(self):
        """There in every server of development mode, whatever it was configured for."""
        table = {("POST", "/init_weight_transfer_engine"): self.transfer_call("init", "init_info", "Weight transfer initialized"),
                 ("POST", "/update_weights"): self.transfer_call("update", "update_info", "Weights updated")}
        if self.arguments.two_phases:
            return table
        return table | {
            ("POST", "/start_weight_update"): self.transfer_call("start", None, "Weight update started"),
            ("POST", "/start_draft_weight_update"): self.transfer_call("start_draft", None, "Draft weight update started"),
            ("POST", "/finish_weight_update"): self.transfer_call("finish", None, "Weight update finished")}

    def transfer_call(self, call, argument, message):
        """Misbehaviour is that of the next bucket."""
        def route(request):
            body = request.body()
            if argument and body.get(argument) is None:
                return 400, {"detail": f"Missing '{argument}' in request body"}
            misbehaviour = self.next_misbehaviour() if call == "update" else {"answer": "normal"}
            about = self.note_call({})
            does = misbehaviour.get("update", True)
            complaint = self.transfer(call, body.get(argument) if argument else None) if does else None
            if misbehaviour["answer"] == "failure":
                complaint = "the stand-in was told to say no"
            about.update(ended=time.monotonic(), message=complaint or "")
            self.closing.wait(misbehaviour.get("seconds", 0))
            if complaint:
                return misbehaviour["answer"], *self.failure(complaint)
            if call == "finish" and isinstance(body.get("weight_version"), str):
                self.weight_version = body["weight_version"]
            return misbehaviour["answer"], 200, {"message": message}
        return route

    def transfer(self, call, info):
        if not self.arguments.weight_transfer:
            return "Weight transfer not configured. Please set weight_transfer_config to enable weight transfer."
        if call == "update" and self.arguments.weight_transfer == "ipc" and not self.arguments.insecure_serialization:
            return "Refusing to deserialize `ipc_handles_pickled` without VLLM_ALLOW_INSECURE_SERIALIZATION=1"
        if call in ("start", "start_draft", "update") and "weights" in self.released:
            self.end_ranks("an update of released memory ends the workers")
        answers = {}

        def run(index, rank):
            answers[rank.device] = rank.ask({"cmd": "transfer", "call": call, "info": info, "rank": index})

        with self._writer:
            threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(self.ranks)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return self.complaint_of(answers)

    def metrics(self):
        awake = 0.0 if self.released else 1.0
        return ("# TYPE vllm:engine_sleep_state gauge\n"
                f'vllm:engine_sleep_state{{engine="0",model_name="stand-in",sleep_state="awake"}} {awake}\n'
                f'vllm:engine_sleep_state{{engine="0",model_name="stand-in",sleep_state="discard_all"}} {1.0 - awake}\n')

    def server_info(self, request):
        if request.query.get("config_format") != ["json"]:
            return 200, {"vllm_config": f"model='stand-in', tensor_parallel_size={len(self.ranks)}"}
        transfer = self.arguments.weight_transfer
        return 200, {"vllm_config": {
            "model_config": {"model": "stand-in", "enable_sleep_mode": self.arguments.sleep_mode,
                             "quantization": self.arguments.quantization},
            "kernel_config": {"moe_backend": self.arguments.moe_backend},
            "parallel_config": {"tensor_parallel_size": len(self.ranks), "pipeline_parallel_size": 1,
                                "data_parallel_size": 1, "nnodes": 1,
                                "worker_extension_cls": "" if self.arguments.no_extension else EXTENSION},
            "speculative_config": {"method": "mtp"} if self.arguments.mtp else None,
            "weight_transfer_config": ({"backend": transfer} | ({"packed": True} if self.arguments.packed_server else {}))
                                      if transfer else None},
            "vllm_env": {"VLLM_ALLOW_INSECURE_SERIALIZATION": self.arguments.insecure_serialization}
                        if self.arguments.tells_environment else {}}

    def collective_rpc(self, request):
        body = request.body()
        method = body.get("method")
        if method is None:
            return 400, {"detail": "Missing 'method' in request body"}
        if method != METHOD or self.arguments.no_extension:
            return self.failure(f"Method {method!r} is not implemented.")
        arguments = body.get("args", [])
        if len(arguments) != 1 or not isinstance(arguments[0], dict):
            return self.failure("update_weights_from_ipc() takes 2 positional arguments")
        if "weights" in self.released:
            self.end_ranks("an update of released memory ends the workers")
        return self.update(arguments[0])

    def pause(self, request):
        mode = request.query.get("mode", ["abort"])[0]
        if mode not in ("abort", "wait", "keep"):
            return 422, {"detail": [{"loc": ["query", "mode"], "msg": "Input should be 'abort', 'wait' or 'keep'"}]}
        self.hold_back(mode)
        if mode != "keep":
            self.running_requests = 0
        return 200, {"status": "paused"}

    def resume(self, _request):
        self.let_go_on()
        return 200, {"status": "resumed"}

    def sleep(self, request):
        if not self.arguments.sleep_mode:
            return 500, {"error": {"message": "Sleep mode is not enabled.", "type": "InternalServerError", "code": 500}}
        int(request.query.get("level", ["1"])[0])
        self.released = {"weights", "kv_cache"}
        return 200, None

    def wake_up(self, request):
        tags = set(request.query.get("tags", ["weights", "kv_cache"]))
        self.released -= tags
        if not self.released:
            self.let_go_on()
        return 200, None

    def reset_prefix_cache(self, request):
        preempts = request.query.get("reset_running_requests") == ["true"]
        return 200, {"success": self.running_requests == 0 or preempts}

    def update_weight_version(self, request):
        version = request.body().get("new_version")
        if not isinstance(version, str):
            return 422, {"detail": [{"loc": ["body", "new_version"], "msg": "Field required"}]}
        self.weight_version = version
        return 200, {"success": True, "new_version": version}

    def weight_checker(self, request):
        action = request.body().get("action")
        if action != "checksum":
            return 400, {"detail": f"action must be one of checksum|reset|compare, got {action!r}"}
        return 200, {"checksums": {f"dp0:pp0:pcp0:tp{index}:ep0:{name}": value
                                   for index, sums in enumerate(self.checksums()) for name, value in sums.items()}}


def parse_arguments():
    parser = common_parser(__doc__)
    parser.add_argument("--no-dev-mode", action="store_true", help="as without VLLM_SERVER_DEV_MODE=1")
    parser.add_argument("--no-extension", action="store_true", help="as without --worker-extension-cls")
    parser.add_argument("--sleep-mode", action="store_true", help="as --enable-sleep-mode")
    parser.add_argument("--weight-transfer", choices=("ipc", "nccl"), help="as --weight-transfer-config")
    parser.add_argument("--two-phases", action="store_true", help="weight transfer as before vLLM 0.22")
    parser.add_argument("--packed-server", action="store_true", help='as "packed":true in --weight-transfer-config')
    parser.add_argument("--insecure-serialization", action="store_true", help="as VLLM_ALLOW_INSECURE_SERIALIZATION=1")
    parser.add_argument("--tells-environment", action="store_true", help="/server_info has its environment")
    parser.add_argument("--quantization", help="that it tells; nothing is quantised")
    parser.add_argument("--moe-backend", default="auto", help="that it tells")
    parser.add_argument("--mtp", action="store_true", help="speculates with a draft model of the same checkpoint")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run(Vllm, parse_arguments()))
