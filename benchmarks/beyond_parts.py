"""The parts of the policy ``rowcast``, each taken away and each alone: what the ablations of ``beyond.py`` run."""

from __future__ import annotations

__all__ = ["OWN_WRITES", "alone", "without"]

#: How each part is switched off.
OFF = {
    "elastic": "elastic=off",
    "ahead": "ahead=0",
    "anticipate": "anticipate=off",
    "adapt": "adapt=off",
    "refine": "refine=off",
    "auto_lr": "auto_lr=off",
}
#: A gradient sees what its robot has pending, and expects nothing of the others.
OWN_WRITES = "rowcast?anticipate=own"
#: The slack that adapts begins there; where it does not adapt, it stays there.
SLACK = 16


def without(*parts: str) -> str:
    """The policy without these parts."""
    return f"rowcast?{'&'.join(OFF[part] for part in parts)}"


def alone(*parts: str) -> str:
    """Rows that stream, and these parts, or none; 'auto' is the slack that adapts."""
    off = "&".join(text for part, text in OFF.items() if part not in parts)
    return f"{'rowcast' if 'auto' in parts else f'rowcast:{SLACK}'}?{off}"
