"""What the words of a prompt do, as `predictor explain` tells it; computed on request and remembered.

It opens the deployment's predictor when it is asked for the first time, which imports torch; who never asks
never pays. A rule that looks at no words has nothing to tell.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from db.repository import Repository
from routet2i.errors import MissingModels, UsageError
from routet2i.settings import Settings
from scheduler.api.turns import Turn

if TYPE_CHECKING:
    from scheduler.predictor.routet2i import RouteT2I

KEPT = 500  # prompts


@dataclass(slots=True)
class Explainer:
    """The live predictor's reading of prompts."""

    settings: Settings
    repository: Repository
    _network: "RouteT2I | None" = None
    _opened: str | None = None  # the promotion it was opened under
    _told: OrderedDict[tuple[str, str], dict[str, Any]] = field(default_factory=OrderedDict)
    _turn: Turn = field(default_factory=Turn)

    def of(self, prompt: str) -> dict[str, Any]:
        """Return what is told of a prompt, as templates take it.

        Raises:
            MissingModels: torch is not installed here.
            UsageError: the predictor looks at no words.
            ModelError: it cannot be opened.
            Refused: too many ask at once.
        """
        with self._turn.taken():  # one prompt at a time: a network of a few milliseconds
            network = self._open()
            key = (network.version, prompt)
            if key not in self._told:
                from scheduler.cli.predictor_explain import pieces, telling, verdict

                told = telling(network.explain(prompt), prompt=prompt)
                self._told[key] = told | {
                    "pieces": pieces(told),
                    "verdict": verdict(told["prs"]),
                    "predictor": network.name,
                    "version": network.version,
                }
                while len(self._told) > KEPT:
                    self._told.popitem(last=False)
            self._told.move_to_end(key)
            return self._told[key]

    def _open(self) -> "RouteT2I":
        live = self.repository.live_predictor() or self.settings.predictor
        if self._network is not None and self._opened == live:
            return self._network
        try:
            from scheduler.cli.networks import as_network
            from scheduler.predictor.interface import open_predictor

            found = open_predictor(
                self.settings.predictor, tiers=self.settings.read_tiers(), registry=self.repository
            )
            network = as_network(found)
        except ImportError as error:
            raise MissingModels(f"{error}; type: pip install 'routet2i[models]'") from error
        if network is None:
            raise UsageError(f"predictor {found.name!r} looks at no words, so there is nothing to explain")
        self._network, self._opened = network, live
        return network
