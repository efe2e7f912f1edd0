"""Stands for redis-cli where a machine has none: `-p PORT [-e] COMMAND...`, its password from REDISCLI_AUTH.

It knows what a healthcheck needs: the answer printed, and with -e an error's exit code.
"""

import os
import sys

import redis


def main(words: list[str]) -> int:
    """Send one command; return the exit code."""
    port, words = int(words[words.index("-p") + 1]), [word for word in words if word not in ("-e",)]
    client = redis.Redis(port=port, password=os.environ.get("REDISCLI_AUTH"), socket_timeout=5)
    try:
        print(client.execute_command(*words[2:]))
    except redis.RedisError as error:
        print(error)
        return 1
    finally:
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
