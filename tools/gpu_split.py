"""A captured model on a GPU: the answers of the module when its rows come one slab after another, and its profile."""

from __future__ import annotations

import argparse
import sys

import torch

from rowcast.split import RowStream, capture
from rowcast.split.profiling import measure
from rowcast.testing.zoo import resnet

#: Of the largest answer: convolutions of other shapes are computed by other algorithms.
TOLERANCE = 1e-4
SLABS = 4


def main(arguments: list[str] | None = None) -> int:
    """Compare and measure; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=2.0, help="for which the model is measured")
    parser.add_argument("--size", type=int, default=224, help="rows and columns of the image")
    options = parser.parse_args(arguments)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    net, example = resnet(size=(options.size, options.size))
    net, inputs = net.to(options.device).eval(), tuple(tensor.to(options.device) for tensor in example)
    captured = capture(net, inputs)
    graph = captured.graph
    with torch.no_grad():
        expected = net(*inputs)
    stream = RowStream(captured, range(len(graph)), graph.outputs)
    (op,), (image,) = graph.inputs, inputs
    answers = []
    for slab in image.chunk(SLABS, dim=2):
        stream.push(op, slab.contiguous())
        answers += [found for one in graph.outputs if (found := stream.take(one)) is not None]
    difference = float((torch.cat(answers) - expected).abs().max() / expected.abs().max())
    print(f"ResNet50 in {SLABS} slabs on {options.device}: largest difference {difference:.1e} of the largest answer")
    profile = measure(captured, inputs, seconds=options.seconds)
    print(f"whole model {profile.robot_s.sum() * 1e3:.3f} ms, 99th percentile {profile.local_p99_s * 1e3:.3f} ms")
    print(
        f"an operator at least {profile.robot_floor_s * 1e6:.1f} us, in slabs {profile.robot_step_s * 1e6:.1f} us more"
    )
    return 0 if stream.finished and difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
