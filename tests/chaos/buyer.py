"""The paid tier's buyer in the harness: the product's own, which dies of poison and counts what it gets.

It knows which prompts are poison (`tests.chaos.poison`). Permission, call and bill are `routet2i.buying`'s.
"""

import threading
from collections.abc import Sequence
from typing import Any

from routet2i.buying import Buyer
from routet2i.contracts import Claim
from routet2i.execution import CallBook, Lease, Order, Pictures
from routet2i.provider import Answer, Drawn, Provider
from routet2i.settings import Settings
from routet2i.tiers import TierProfile
from tests.chaos import poison
from tests.chaos.hands import Hands


class CountedProvider(Provider):
    """A provider whose pictures are counted as drawn."""

    def __init__(self, profile: TierProfile, *, settings: Settings, hands: Hands) -> None:
        """Send with the deployment's key."""
        super().__init__(profile, key=settings.api_key(profile.name))
        self._hands = hands

    def _send(self, *arguments: Any, **named: Any) -> Answer:
        answer = super()._send(*arguments, **named)
        if isinstance(answer, Drawn):
            self._hands.note_drawn(1)
        return answer


class FragileBuyer(Buyer):
    """A buyer that is killed by poison before it buys anything of the group."""

    def buy(
        self,
        orders: Sequence[Order],
        *,
        claim: Claim,
        book: CallBook,
        pictures: Pictures,
        lease: Lease,
        stop: threading.Event | None,
    ) -> Sequence[bytes | Exception | None]:
        """See `execution.Buyer.buy`."""
        refused: dict[int, Exception] = {}
        for number, order in enumerate(orders):
            try:
                poison.swallow(order.request.prompt)
            except RecursionError as error:
                refused[number] = error
        wanted = [order for number, order in enumerate(orders) if number not in refused]
        made = iter(
            super().buy(wanted, claim=claim, book=book, pictures=pictures, lease=lease, stop=stop)
            if wanted
            else ()
        )
        return [refused[number] if number in refused else next(made) for number in range(len(orders))]


def open_buyer(settings: Settings, profile: TierProfile) -> FragileBuyer:
    """Return the buyer of a run's paid tier."""
    return FragileBuyer(
        profile, provider=CountedProvider(profile, settings=settings, hands=Hands(settings.home))
    )
