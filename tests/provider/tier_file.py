"""A tier file with the pocket edge tier and a paid cloud tier at some address."""

TIERS = """
[tier.edge]
kind = "edge"
model = "pocket:edge"
steps = 1
guidance = 1
width = 64
height = 64
micro_usd_per_image = 9000

[tier.cloud]
kind = "http"
endpoint = "{url}"
model = "fake"
idempotent = {idempotent}
width = 64
height = 64
micro_usd_per_image = 65000
timeout_seconds = {timeout}
{more}
"""
