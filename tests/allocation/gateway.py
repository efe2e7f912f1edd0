"""A gateway's spending cap under as many calls at once: LiteLLM's Router, where it is installed.

It is no dependency of ours, and answers by itself: nothing leaves this machine. Without it the measurement
says so. It knows one cap, not three inside each other, and no process of it is killed.
"""

import asyncio
import logging
import os
import random
import time
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from tests.allocation.workload import CALL_SECONDS, DEAREST, Workload

PRICES = 32  # models, each at a price of its own: bills spread evenly up to the dearest
PROMPT_TOKENS = 10  # what the gateway counts for an answer of its own making
REFUSED_SECONDS = 0.1  # pause of a writer after a refusal


def told(workload: Workload) -> str:
    """Return in words how far the gateway exceeds the cap, micro-dollars."""
    if find_spec("litellm") is None:
        return "LiteLLM's Router cap: not installed"
    return (
        f"LiteLLM {version('litellm')} Router cap, same limit and calls: {asyncio.run(_excess(workload)):,}"
    )


async def _excess(workload: Workload) -> int:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)  # it warns of every price it does not know
    from litellm import Router

    cap = workload.limit / 1e6
    router = Router(
        model_list=[
            {
                "model_name": f"model-{number}",
                "litellm_params": {
                    "model": f"openai/none-{number}",
                    "api_key": "none",
                    "input_cost_per_token": DEAREST / 1e6 * (number + 0.5) / PRICES / PROMPT_TOKENS,
                    "output_cost_per_token": 0.0,
                    "mock_response": "nothing was drawn",
                },
            }
            for number in range(PRICES)
        ],
        provider_budget_config={"openai": {"budget_limit": cap, "time_period": "1d"}},
        num_retries=0,
    )
    until = time.time() + workload.seconds
    spent = await asyncio.gather(*(_write(router, writer, until) for writer in range(workload.writers)))
    return max(0, round(1e6 * (sum(spent) - cap)))


async def _write(router: Any, writer: int, until: float) -> float:
    """Call until a moment of Unix time; return the bills, dollars."""
    draw = random.Random(writer)
    spent = 0.0
    while time.time() < until:
        try:
            answer = await router.acompletion(
                f"model-{draw.randrange(PRICES)}",
                messages=[{"role": "user", "content": "five red circles"}],
                mock_delay=CALL_SECONDS,
            )
        except ValueError:  # over budget
            await asyncio.sleep(REFUSED_SECONDS)
            continue
        spent += float(answer._hidden_params["response_cost"])
    return spent
