"""Experts over two gloo processes are the experts of one, forward and every gradient."""

import json
import os
import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

# In each process: the parallel layer on half of the tokens; rank 0 also runs the whole layer
# alone.
CODE = """
import json, sys, torch, torch.distributed as dist
from llmbook.moe import MoE, MoEConfig, balance_loss
from llmbook.moe.parallel import ParallelExperts
rank, port, capacity, only = int(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
torch.manual_seed(0)
config = MoEConfig(8, 12, 6, k=2, router=only, capacity=capacity)
whole, split = MoE(config).double(), MoE(config).double()
split.load_state_dict(whole.state_dict())
with torch.no_grad():  # an expert of the second process that nobody wants
    for moe in (whole, split):
        moe.router.weight[5] = 0
        moe.router.weight[:5] += torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
split.experts = ParallelExperts(split.experts)
x = torch.randn(2, 9, 8, dtype=torch.float64)
x[1, 5:] = x[0, 5:]
x += 3 * whole.router.weight[:5].sum(0).detach()
upstream = torch.randn_like(x)
mine = x[rank].clone().requires_grad_()
out = split(mine)
(out * upstream[rank]).sum().backward()
both = x.clone().requires_grad_()
rows = [whole(both[r]) for r in range(2)]  # capacity is each process's own
sum((rows[r] * upstream[r]).sum() for r in range(2)).backward()
dist.all_reduce(split.router.weight.grad)
here = slice(3 * rank, 3 * rank + 3)
gap = lambda a, b: float((a - b).abs().max())
# balance over the global batch: f of all tokens, P of each process's own; gradients average
routing, all_of = split.router(x[rank]), whole.router(x.flatten(0, 1))
shared = balance_loss(routing, group=dist.group.WORLD)
mean = shared.detach().clone() / 2
dist.all_reduce(mean)
own = torch.autograd.grad(shared, split.router.weight)[0] / 2
dist.all_reduce(own)
truth = balance_loss(all_of)
result = {
    "out": gap(out, rows[rank]),
    "dx": gap(mine.grad, both.grad[rank]),
    "router": gap(split.router.weight.grad, whole.router.weight.grad),
    "in": gap(split.experts.in_weight.grad, whole.experts.in_weight.grad[here]),
    "down": gap(split.experts.down_weight.grad, whole.experts.down_weight.grad[here]),
    "balance": gap(mean, truth),
    "balance gradient": gap(own, torch.autograd.grad(truth, whole.router.weight)[0]),
    "held": len(split.experts.in_weight),
    "largest": float(out.abs().max()),
}
try:
    ParallelExperts(MoE(MoEConfig(8, 8, 5)).experts)
except ValueError as error:
    result["refused"] = str(error)
print(json.dumps(result))
dist.destroy_process_group()
"""


def run_two(*arguments):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, str(rank), port, *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        finished = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, finished, strict=True):
        assert process.returncode == 0, errors[-3000:]
    return [json.loads(out.splitlines()[-1]) for out, _ in finished]


@pytest.mark.parametrize(("form", "capacity"), [("softmax_after", None), ("input", 0.6)])
def test_two_processes_equal_one(form, capacity):
    for result in run_two(json.dumps(capacity), form):
        assert result.pop("held") == 3
        assert result.pop("largest") > 0
        assert "5 experts, 2 processes" in result.pop("refused")
        assert all(gap < 1e-10 for gap in result.values()), result
