"""Who may go on, which rows travel, for how long."""

from rowcast.sync.artifact import ArtifactTime
from rowcast.sync.levels import Levels
from rowcast.sync.mta import MtaTime, minimum_share
from rowcast.sync.policy import REGISTRY, Policy, parse_policy
from rowcast.sync.punctuality import Punctuality
from rowcast.sync.rate import RateMeter
from rowcast.sync.slack import SlackChange, SlackTuner
from rowcast.sync.versions import VersionTable

__all__ = [
    "REGISTRY",
    "ArtifactTime",
    "Levels",
    "MtaTime",
    "Policy",
    "Punctuality",
    "RateMeter",
    "SlackChange",
    "SlackTuner",
    "VersionTable",
    "minimum_share",
    "parse_policy",
]
