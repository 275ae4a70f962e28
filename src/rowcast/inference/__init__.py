"""Inferences shared by a robot and a server, as state machines without clock, sockets or PyTorch.

The robot (:class:`AskerNode`) decides where to compute, sends tensors row by row, and answers itself where the link
does not let the server do so in time. The server (:class:`AnswererNode`) computes what it is asked for. What computing
is, an :class:`Engine` knows: PyTorch, or a profile in virtual time.
"""

from __future__ import annotations

from rowcast.inference.answerer import AnswererNode
from rowcast.inference.asker import AskerNode
from rowcast.inference.model import ModelSpec, Side
from rowcast.inference.outcome import Outcome, Spent
from rowcast.inference.plans import Planning
from rowcast.inference.work import Engine, Made, Piece, Work

__all__ = [
    "AnswererNode",
    "AskerNode",
    "Engine",
    "Made",
    "ModelSpec",
    "Outcome",
    "Piece",
    "Planning",
    "Side",
    "Spent",
    "Work",
]
