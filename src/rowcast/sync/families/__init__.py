"""The families of policies that Rowcast has, each in a file of its own. A new one is a file, and a line here."""

from rowcast.sync.families.asp import ASP
from rowcast.sync.families.bsp import BSP
from rowcast.sync.families.flown import FLOWN
from rowcast.sync.families.local import DILOCO, LOCALSGD
from rowcast.sync.families.powersgd import POWERSGD
from rowcast.sync.families.rog import ROG
from rowcast.sync.families.rowcast import ROWCAST
from rowcast.sync.families.sparse import DEMO, SPARSELOCO
from rowcast.sync.families.sparta import SPARTA
from rowcast.sync.families.ssp import SSP
from rowcast.sync.families.twostep import TWOSTEP
from rowcast.sync.family import REGISTRY, register

__all__ = [
    "ASP",
    "BSP",
    "DEMO",
    "DILOCO",
    "FLOWN",
    "LOCALSGD",
    "POWERSGD",
    "REGISTRY",
    "ROG",
    "ROWCAST",
    "SPARSELOCO",
    "SPARTA",
    "SSP",
    "TWOSTEP",
]

for _family in (BSP, SSP, ASP, FLOWN, LOCALSGD, DILOCO, SPARSELOCO, DEMO, SPARTA, POWERSGD, ROG, TWOSTEP, ROWCAST):
    register(_family)
