"""The schedulers of the harness: the product's command line, with a control's stand-ins where one runs.

`python -m tests.chaos.scheduler scheduler`.
"""

from scheduler.cli import main
from tests.chaos import doubles

if __name__ == "__main__":
    doubles.put_in_place()
    main()
