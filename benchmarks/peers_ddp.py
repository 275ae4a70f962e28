"""A contender of ``peers.py``: PyTorch's DistributedDataParallel on gloo, which is what PyTorch has for CPUs.

As PyTorch's documentation recommends it (DistributedDataParallel; DDP communication hooks): buckets of the default
25 MB, ``gradient_as_bucket_view``; the statistics of batch norm are frozen in this job, so that buffers are not sent.
The hooks are its own: ``fp16_compress_hook``; ``powerSGD_hook`` with rank 1 (the default, with which the documentation
begins), error feedback and warm start. By default PowerSGD begins after 1,000 steps of plain float32, for the sake of
models that begin untrained; this one begins trained, and would never come that far here: it begins at step 2, the
earliest that PyTorch allows. It has one bucket: with two, as by default, its collectives come in another order on each
rank, and gloo ends the processes ("collective mismatch").
"""

from __future__ import annotations

import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from peers_job import Robot, arguments

HOOKS = ("none", "fp16", "powersgd")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--hook", default="none", choices=HOOKS, help="how gradients are compressed")
    parser.add_argument("--matrix-rank", type=int, default=1, help="of PowerSGD's approximation")
    options = parser.parse_args()
    robot = Robot(options)
    dist.init_process_group(
        "gloo", init_method=f"tcp://{options.address}", rank=robot.rank, world_size=robot.job.workers
    )
    # The same 25 MB as by default; but where they are named, there is no small first bucket.
    buckets = {"bucket_cap_mb": 25} if options.hook == "powersgd" else {}
    model = DistributedDataParallel(
        robot.worker.model, broadcast_buffers=False, gradient_as_bucket_view=True, **buckets
    )
    if options.hook == "fp16":
        model.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif options.hook == "powersgd":
        state = powerSGD_hook.PowerSGDState(
            process_group=None, matrix_approximation_rank=options.matrix_rank, start_powerSGD_iter=2
        )
        model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    robot.worker.model = model
    dist.barrier()
    robot.joined()
    robot.train(robot.worker.optimizer.step)


if __name__ == "__main__":
    main()
