#!/bin/sh
# A batch with curl alone: health, upload, order, wait, download. `sh examples/curl.sh prompts.txt`, one prompt a line,
# and BUDGET_USD of dollars (1).
# Python stands in for jq, which not everybody has: it makes the lines and reads fields out of answers.
set -eu

prompts=${1:?"usage: sh examples/curl.sh PROMPTS.txt"}
python=${PYTHON:-python3}

# where to ask, and as whom: the environment, else the stack that `routet2i up` started in this home
stack=${ROUTET2I_HOME:-.routet2i}/run/stack.json
of_stack() { "$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["api"][sys.argv[2]])' "$stack" "$1"; }
base=${OPENAI_BASE_URL:-$(of_stack url)/v1}
key=${OPENAI_API_KEY:-$(of_stack key)}

# field NAME < JSON: one field of an answer, empty where there is none
field() { "$python" -c 'import json, sys; print(json.load(sys.stdin).get(sys.argv[1]) or "")' "$1"; }
ask() { curl --silent --show-error --fail-with-body --header "Authorization: Bearer $key" "$@"; }

lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
"$python" - "$prompts" > "$lines" <<'END'
import json, sys
for number, line in enumerate(open(sys.argv[1], encoding="utf-8"), 1):
    if line.strip():
        print(json.dumps({"custom_id": f"line-{number}", "method": "POST", "url": "/v1/images/generations",
                          "body": {"prompt": line.strip(), "response_format": "url"}}))
END

echo "ready: $(ask "${base%/v1}/readyz")"
file=$(ask "$base/files" --form purpose=batch --form "file=@$lines;filename=prompts.jsonl" | field id)
batch=$(ask "$base/batches" --header "Content-Type: application/json" --data "{\"input_file_id\": \"$file\", \"endpoint\": \"/v1/images/generations\",
  \"completion_window\": \"24h\", \"budget_usd\": ${BUDGET_USD:-1}}" | field id)
echo "$file is $batch"

status=validating
while [ "$status" = validating ] || [ "$status" = in_progress ] || [ "$status" = finalizing ]; do
    sleep 1
    status=$(ask "$base/batches/$batch" | field status)
    echo "$status"
done

# the output's lines tell each picture's address, which is signed: for an hour it opens without the key
ask "$base/files/$(ask "$base/batches/$batch" | field output_file_id)/content" > "$lines"
"$python" -c '
import json, sys
for line in map(json.loads, sys.stdin):
    print(line["custom_id"], line["response"]["body"]["data"][0]["url"])' < "$lines" |
    while read -r name url; do
        curl --silent --show-error --fail-with-body "$url" --output "$name.png"
        echo "$name.png"
    done
