"""Valid inputs of every door, which hostile ones are made from.

It knows examples, no parser.
"""

import json
from pathlib import Path
from typing import Any

from routet2i.tiers import packaged
from scheduler.predictor.interface import WEIGHTS_FOLDER, packaged_artefact

FIELDS = ("custom_id", "prompt", "negative_prompt", "seed", "width", "height", "n", "priority", "metadata")
CSV_COLUMNS = {
    "trace": ("at_seconds", "prompt", "prs", "n"),
    "ratings": ("prompt", "group", "tier", "metric", "value"),
}
MESSAGE = {"v": "1", "microbatch_id": '"01890a5d-ac96-774b-bcce-b302099a8057"'}
URLS = {
    "database URL": (
        "sqlite+pysqlite:////tmp/nowhere/routet2i.db",
        "postgresql+psycopg://me:canary-secret@127.0.0.1:1/routet2i",
        "postgresql+psycopg://me:canary-secret@db.example:5432/routet2i?sslmode=verify-full",
        "postgresql+psycopg://me@/routet2i?host=/run/postgresql",
        *(
            "postgresql://h/d",
            "mysql+pymysql://h/d",
            "sqlite://",
            "oracle://",
            "://",
            "postgresql+asyncpg://h/d",
        ),
    ),
    "broker URL": (
        "redis://:canary-secret@127.0.0.1:1/0",
        "rediss://:canary-secret@broker.example:6379/0",
        "redis://user:canary-secret@[::1]:1/15",
        *("amqp://guest@h//", "unix:///tmp/x.sock", "redis://", "rediss://h", "sqs://", "memory://", "://"),
    ),
}
DOCUMENTS: dict[str, Any] = {
    "predictor": json.loads((WEIGHTS_FOLDER / "cold_start" / "predictor.json").read_text(encoding="utf-8")),
    "noun count": json.loads(packaged_artefact().read_text(encoding="utf-8")),
    "model folder": json.loads(
        (Path(str(packaged("pocket"))).parents[1] / "pocket/weights/edge/model_index.json").read_text("utf-8")
    )
    | {"nested": {"auto_map_not": 1, "list": [1, {"a": "b"}]}},
    "settings": {
        "ROUTET2I_LEASE_SECONDS": "45",
        "ROUTET2I_WINDOW_SECONDS": "1.0",
        "ROUTET2I_WINDOW_JOBS": "512",
        "ROUTET2I_BUDGET_MICRO_USD": "1000",
        "ROUTET2I_SHADOW_SHARE": "0.5",
        "ROUTET2I_MAX_LINE_BYTES": "65536",
        "ROUTET2I_DEPLOYMENT": "default",
        "ROUTET2I_HOME": "/tmp/nowhere",
        "ROUTET2I_TIERS": "/tmp/nowhere/tiers.toml",
        "ROUTET2I_LOG_FORMAT": "json",
        "ROUTET2I_FAKE_MODELS": "1",
        "ROUTET2I_DATABASE_URL": "postgresql+psycopg://me:canary-secret@127.0.0.1:1/routet2i",
        "ROUTET2I_BROKER_URL": "redis://:canary-secret@127.0.0.1:1/0",
    },
}
_JSONL = (
    b'{"custom_id":"a/1","prompt":"a red circle","negative_prompt":"blur","seed":7,"width":64,"height":128,'
    b'"n":3,"priority":-5,"metadata":{"k":[1,{"x":"\xc3\xa9"}]}}\n{"prompt":"a blue square"}\n'
)
_CSV = (
    b"custom_id,prompt,seed,width,height,n,priority,metadata\n"
    b'a,"a ""red"", round\nthing",7,64,64,2,0,"{""k"": 1}"\n,plain,,,,,,\n'
)
FILES: dict[str, tuple[bytes, ...]] = {
    "prompts.jsonl": (_JSONL, _JSONL * 20, b'{"prompt":"x"}'),
    "prompts.csv": (_CSV, _CSV + b"b,c,1,8,8,1,1,{}\n" * 30, b"prompt\nx\n"),
    "prompts.txt": (b"a red circle\n# a dog\n\nblue\n", b"x"),
    "tiers": tuple(packaged(name).read_bytes() for name in ("pocket", "sd21-sd3", "turbo-sdxl")),
    "metrics": (packaged("metrics").read_bytes(),),
    "trace": (b"at_seconds,prompt,n\n0,a red circle,1\n1.5,two dogs,2\n", b"at_seconds,prs\n0,0.5\n9,0.1\n"),
    "ratings": (
        b"prompt,group,tier,metric,value\na,,edge,q,0.5\na,,cloud,q,0.7\nb,g,edge,q,0.1\nb,g,cloud,q,1\n",
    ),
    "growing ratings": (
        b'prompt,group,tier,metric,value\na,,edge,q,0.5\n"b\n",,cloud,q,0.7\nc,,ed',
        b"prompt,gro",
    ),
    "predictor": (json.dumps(DOCUMENTS["predictor"]).encode(),),
    "weights": ((WEIGHTS_FOLDER / "cold_start" / "weights.safetensors").read_bytes(),),
    "noun count": (json.dumps(DOCUMENTS["noun count"]).encode(),),
    "model folder": (json.dumps(DOCUMENTS["model folder"]).encode(),),
    "settings": (json.dumps(DOCUMENTS["settings"]).encode(),),
    "message": (json.dumps({"v": 1, "microbatch_id": "01890a5d-ac96-774b-bcce-b302099a8057"}).encode(),),
    "database URL": tuple(url.encode() for url in URLS["database URL"]),
    "broker URL": tuple(url.encode() for url in URLS["broker URL"]),
    "exports": (b"a red circle", b"=1+1"),
    "arguments": (b"2.50", b"--budget\n2.50", b"last", b"a-key"),
}
