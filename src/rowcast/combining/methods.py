"""The methods by name; the settings know them without loading torch."""

from __future__ import annotations

__all__ = ["METHODS"]

#: Every method by its name, and what it does with the scores of an item.
METHODS: dict[str, str] = {
    "best": "the model that is right most often on the validation items, alone",
    "mean": "the mean of the scores",
    "weighted-mean": "the same, each model weighted with its accuracy",
    "maximum": "the greatest score of each class",
    "median": "the median of the scores of each class",
    "majority": "each model has a vote",
    "weighted-vote": "each vote weighted with the logarithm of the odds that it is right",
    "dcs-la": "the model that is right most often on the nearest validation items, alone",
    "des-la": "a vote of those that are nearly as good as that one there",
    "des-la-mean": "the mean of the scores of those",
    "stacking": "a logistic regression over all scores",
}
