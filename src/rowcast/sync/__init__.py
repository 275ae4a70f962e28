"""Who may go on, which rows travel, for how long."""

from rowcast.sync.artifact import ArtifactTime
from rowcast.sync.families import REGISTRY
from rowcast.sync.family import Family, parse_policy, policy_forms, register
from rowcast.sync.interval import UsualInterval
from rowcast.sync.minimum import MinimumTracker
from rowcast.sync.mta import MtaTime, minimum_share
from rowcast.sync.order import RowsToSend
from rowcast.sync.outer_rate import OuterRateChange, OuterRateTuner
from rowcast.sync.policy import Policy
from rowcast.sync.rate import RateMeter
from rowcast.sync.slack import SlackChange, SlackTuner
from rowcast.sync.threshold import Threshold
from rowcast.sync.versions import VersionTable

__all__ = [
    "REGISTRY",
    "ArtifactTime",
    "Family",
    "MinimumTracker",
    "MtaTime",
    "OuterRateChange",
    "OuterRateTuner",
    "Policy",
    "RateMeter",
    "RowsToSend",
    "SlackChange",
    "SlackTuner",
    "Threshold",
    "UsualInterval",
    "VersionTable",
    "minimum_share",
    "parse_policy",
    "policy_forms",
    "register",
]
