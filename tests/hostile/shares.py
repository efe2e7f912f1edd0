"""How many of the inputs each door gets, in thousandths of about all: strangers' files most.

It knows names of doors; whoever only asks for them imports no parser.
"""

SHARES = {
    "prompts.jsonl": 250,
    "prompts.csv": 170,
    "prompts.txt": 80,
    "tiers": 60,
    "metrics": 50,
    "trace": 50,
    "ratings": 50,
    "growing ratings": 30,
    "noun count": 35,
    "predictor": 50,
    "weights": 30,
    "model folder": 35,
    "message": 30,
    "settings": 35,
    "database URL": 35,
    "broker URL": 35,
    "arguments": 25,
    "exports": 30,
}
