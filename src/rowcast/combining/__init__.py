"""Models that were trained apart, combined by their scores: where a team cannot train together, or no longer.

A :class:`Combiner` is fitted on a few labelled items that no model was trained on (the validation items).
:func:`try_methods` fits all of them to saved models of a task and says how often each is right (``rowcast combine``).

A name is imported when it is needed: the command line knows the settings without loading torch.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rowcast.combining.combined import CombinedModel, load_combined, save_combined
    from rowcast.combining.combiner import Combiner
    from rowcast.combining.methods import METHODS
    from rowcast.combining.models import LoadedModel, TaskFamily, load_models, parameter_mean
    from rowcast.combining.settings import CombineSettings
    from rowcast.combining.trial import MethodResult, Trial, try_methods

__all__ = [
    "METHODS",
    "CombineSettings",
    "CombinedModel",
    "Combiner",
    "LoadedModel",
    "MethodResult",
    "TaskFamily",
    "Trial",
    "load_combined",
    "load_models",
    "parameter_mean",
    "save_combined",
    "try_methods",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'rowcast.combining' has no attribute {name!r}")
    from rowcast.combining import combined, combiner, methods, models, settings, trial

    homes = (combined, combiner, methods, models, settings, trial)
    return next(getattr(home, name) for home in homes if name in home.__all__)
