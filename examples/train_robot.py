"""A plain PyTorch training script, and the few lines that make it a member of a team.

    rowcast serve --policy rog:4 --workers 2        # on one machine, once
    python examples/train_robot.py --name robot-0   # on each robot, with its own name
    python examples/train_robot.py --alone          # the same script without Rowcast

Lines that end in ``# rowcast`` are all that was added.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

import rowcast  # rowcast


def main() -> None:
    parser = argparse.ArgumentParser(description="Learn handwritten digits, alone or in a team.")
    parser.add_argument("--alone", action="store_true", help="plain PyTorch, no team")
    parser.add_argument("--server", default="127.0.0.1:7117", help="host:port of the server")  # rowcast
    parser.add_argument("--name", default="robot-0", help="unique in the team")  # rowcast
    parser.add_argument("--part", default="0/1", help="which part of the data is ours, as in 0/2 and 1/2")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--save", help="write the trained parameters to this file")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    part, parts = map(int, arguments.part.split("/"))
    pixels, digits = load_digits(return_X_y=True)
    images = torch.tensor(pixels[part::parts] / 16, dtype=torch.float32)
    labels = torch.tensor(digits[part::parts])

    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if not arguments.alone:  # rowcast
        team = rowcast.join(arguments.server, name=arguments.name)  # rowcast
        optimizer = rowcast.Optimizer(optimizer, model, team)  # rowcast

    generator = torch.Generator().manual_seed(part)
    for _ in range(arguments.steps):
        batch = torch.randint(len(labels), (32,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()

    if not arguments.alone:  # rowcast
        optimizer.close()  # rowcast: everything is delivered, everybody agrees
    right = (model(images).argmax(dim=1) == labels).float().mean().item()
    print(f"{arguments.name}: loss {loss.item():.3f}, {100 * right:.1f} % right")
    if arguments.save:
        torch.save(model.state_dict(), arguments.save)


if __name__ == "__main__":
    main()
