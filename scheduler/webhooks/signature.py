"""Signatures of webhooks by the Standard Webhooks scheme, which OpenAI's clients verify.

It knows bytes and moments, no HTTP: HMAC-SHA256 over `id.timestamp.body` with the secret that follows
`whsec_`, base64, behind a `v1,`. docs/webhooks.md has the receiver's half.

Source: standardwebhooks/standard-webhooks, spec/standard-webhooks.md.
"""

import base64
import hashlib
import hmac


def headers(secret: str, *, message_id: str, seconds: int, body: str) -> dict[str, str]:
    """Return the three headers of one try.

    Args:
        secret: `whsec_` and base64.
        seconds: since 1970, of this try.
    """
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{seconds}.{body}".encode()
    signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": f"v1,{signature}",
    }
