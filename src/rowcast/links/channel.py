"""Channel models: how transfers that are under way at the same time share the medium.

A channel knows links by small whole numbers (one for each worker and direction). Each link has a
:class:`~rowcast.links.trace.Trace` of the rate ``R`` that it would get alone, and carries one transfer at a time.

============= =================================================== ============================================
name          rate of a transfer under way                        stands for
============= =================================================== ============================================
`independent` ``R_w(t)``                                          links that do not disturb each other
`airtime`     ``R_w(t) / m(t)``                                   one channel, each station the same time on it
`equal`       ``1 / sum_u 1 / R_u(t)``, the same for all          one channel, each station the same throughput:
                                                                  the 802.11 anomaly, a slow robot drags all
============= =================================================== ============================================

``m`` and the sum count the transfers under way whose rate is above 0 at that moment. A station at rate 0 has lost its
association: it carries nothing and takes no airtime from the others, in both shared models. It goes on where it
stopped when its rate comes back.

Everything is integrated exactly over the piecewise-constant rates. `independent` asks the traces in closed form:
O(log n) per event. The shared ones walk from rate change to rate change, O(m) each; one transfer alone is closed form
again, so that all three then agree to the bit.

Sources: Heusse, Rousseau, Berger-Sabbatel, Duda, "Performance Anomaly of 802.11b", INFOCOM 2003 (equal throughput);
Hoiland-Jorgensen et al., "Ending the Anomaly: Achieving Low Latency and Airtime Fairness in WiFi", USENIX ATC 2017.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rowcast.links.independent import Independent
from rowcast.links.medium import Channel
from rowcast.links.shared import EqualThroughput, SharedAirtime

__all__ = ["CHANNELS", "Channel", "EqualThroughput", "Independent", "SharedAirtime"]

#: The name of a channel model in settings -> what makes an empty channel of it.
CHANNELS: Mapping[str, Callable[[], Channel]] = {
    "independent": Independent,
    "airtime": SharedAirtime,
    "equal": EqualThroughput,
}
