"""RouteT2I's shared core: contracts, tiers, settings, the worker's protocol, models and the pocket family.

Start with `contracts` (what crosses a process), then `execution` (what a worker does with one microbatch).
It does not know SQL (`db`) and decides nothing (`scheduler`).
"""

__version__ = "0.1.0"
