"""The report of routing: what the predictor is worth beside every sensible router, on every kind of data.

`python -m scheduler.routing` fits, measures and writes `docs/routing.md`, its plots and two reports. Read it
in this order: `experiment` (one question), `pocket`, `rated`, `unseen`, `drawn` (the data), `entrants` and
`contests` (who competes where), `fits`, `cases`, `judging`, `results` (the numbers), `targets`, `tables`,
`plots`, `published`, `speed`, `document` (the page). Nothing here decides a job's tier, and nothing of the
package outside this folder imports it.
"""
