"""The reference paper's own numbers, to be printed beside ours and never in one column with them.

Another pair of tiers, other prompts, other metrics' means: no percentage here may be compared with one of
ours. All numbers are third-party summaries of arXiv 2411.13787 (routing.md section 8). It knows nothing else.
"""

HEADING = "paper, SD3 (cloud) / SD2.1 (edge), COCO2014"

PUBLISHED = """| router, 50 % routing | Definition | Detail | Integrity | delta-P % |
|---|---|---|---|---|
| edge only | .6251 | .6685 | .4690 | - |
| cloud only | .6337 | .6847 | .4972 | 80 (inferred) |
| random | .6294 | .6766 | .4831 | 40.00 |
| RouteLLM-BERT | .6347 | .6792 | .4866 | 71.51 |
| Hybrid LLM | .6327 | .6784 | .4864 | 73.49 |
| ZOOTER | .6350 | .6796 | .4854 | 77.95 |
| RouteT2I | .6350 | .6786 | .4865 | 83.97 |

| cloud calls saved against random, % | at delta-P 40 | at 50 | at 60 |
|---|---|---|---|
| RouteLLM-BERT | 56.15 | 51.39 | 46.92 |
| ZOOTER | 69.28 | 65.76 | 60.81 |
| RouteT2I | 71.81 | 70.24 | 66.61 |

| ablation, delta-w % (the paper's own, not defined there) | at 40 % cloud | at 50 % | at 80 % |
|---|---|---|---|
| without multi-metric | 27.37 | 22.81 | 19.92 |
| without token selection | 27.82 | 23.05 | 19.24 |
| without dual gate | 27.22 | 22.09 | 21.62 |
| full | 30.60 | 25.81 | 21.94 |

Also published: 58.17 million parameters, 64.5 ms added per prompt, 18 pairs of tiers tested. Not known to us:
seven of the ten metrics' columns, the row of RouteLLM's matrix factorisation, the definition of delta-w."""
