"""Train on samples as they arrive: rows of a CSV file that is played at a rate, or any other source of such rows.

    python examples/stream.py --write digits.csv                               # once: rows to play
    rowcast serve --policy bsp --workers 2                                     # on one machine, once
    python examples/stream.py --name robot-0 --source 'digits.csv?rate=40'     # on each robot, with its own name
    python examples/stream.py --name robot-1 --source 'digits.csv?rate=160'    # and its own stream

The loop waits for samples, and ends with the stream. Each batch is this robot's share of 64 samples of the whole team,
and counts as much: the robot with four times the samples has four times the say.
"""

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import rowcast
from rowcast.streams import Sample


def write(path: str, rows: int) -> None:
    pixels, digits = load_digits(return_X_y=True)
    lines = [",".join([*(f"p{k}" for k in range(64)), "digit"])]
    lines += [",".join(map(str, [*map(int, image), digit])) for image, digit in zip(pixels, digits, strict=True)]
    Path(path).write_text("\n".join([*lines[: 1 + rows], ""]), encoding="utf-8")


def decode(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    *pixels, digit = sample.payload.numbers()
    return torch.tensor(pixels, dtype=torch.float32) / 16, torch.tensor(int(digit))


def train(arguments: argparse.Namespace) -> nn.Module:
    torch.set_num_threads(1)  # enough for a model of 5,000 parameters
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    team = rowcast.join(arguments.server, name=arguments.name)
    optimizer = rowcast.Optimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, team)
    with rowcast.StreamLoader(arguments.source, decode, optimizer, batch=arguments.batch) as loader:
        for images, digits in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), digits).backward()
            optimizer.step(samples=loader.samples)
        optimizer.close()
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn handwritten digits from a stream, in a team.")
    parser.add_argument("--write", metavar="FILE", help="write rows of digits, and leave")
    parser.add_argument("--rows", type=int, default=1797, help="so many of them")
    parser.add_argument("--source", help="where samples come from, as digits.csv?rate=40")
    parser.add_argument("--batch", default="team:64", help="when how many samples make a batch")
    parser.add_argument("--server", default="127.0.0.1:7117", help="host:port of the server")
    parser.add_argument("--name", default="robot-0", help="unique in the team")
    parser.add_argument("--save", help="write the trained parameters to this file")
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.write, arguments.rows)
        return
    if not arguments.source:
        parser.error("--source or --write is needed")

    model = train(arguments)
    pixels, digits = load_digits(return_X_y=True)
    guesses = model(torch.tensor(pixels / 16, dtype=torch.float32)).argmax(dim=1)
    print(f"{arguments.name}: {100 * (guesses == torch.tensor(digits)).float().mean().item():.1f} % right")
    if arguments.save:
        torch.save(model.state_dict(), arguments.save)


if __name__ == "__main__":
    main()
