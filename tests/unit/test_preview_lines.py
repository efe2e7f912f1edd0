"""What a preview promises for each line: prices that add up, thresholds and reasons that tell the choice."""

from hypothesis import given, settings
from hypothesis import strategies as st

from routet2i.contracts import GenerationRequest, Prediction
from routet2i.tiers import packaged, read_tiers
from scheduler.allocator import REASONS
from scheduler.preview import plan
from scheduler.preview_draft import Draft
from scheduler.preview_lines import preview_lines

PAIR = read_tiers(packaged("pocket"))  # 9,000 and 65,000 micro-dollars a picture


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 4)), min_size=1, max_size=12),
    st.none() | st.floats(0, 1),
)
@settings(deadline=None)
def test_lines_add_up_to_the_preview_and_say_why_each_job_goes_where_it_goes(
    jobs: list[tuple[float, int]], share: float | None
) -> None:
    # Given a plan for some lines under some budget, or under none
    requests = [
        GenerationRequest(line_no=10 + k, custom_id=f"c{k}", prompt="p", seed=k, n=n)
        for k, (_, n) in enumerate(jobs)
    ]
    predictions = [Prediction(prs=prs, scores={"edge": {"q": prs}}) for prs, _ in jobs]
    pictures = sum(n for _, n in jobs)
    budget = None if share is None else pictures * 9_000 + round(share * pictures * 56_000)
    with Draft(tiers=PAIR, yardstick=None) as draft:
        draft.add(requests, predictions)
        made = plan(draft, budget=budget)
        # When its lines are made
        lines = list(preview_lines(made, draft))
    # Then they are the requests', with their predictions, and cost what the preview says
    assert [line.line_no for line in lines] == [one.line_no for one in requests]
    assert [line.prs for line in lines] == [one.prs for one in predictions]
    assert [line.scores for line in lines] == [one.scores for one in predictions]
    assert sum(line.micro_usd for line in lines) == made.preview.micro_usd
    # And a job is on the cloud exactly if its PRS is below its threshold
    for line, request in zip(lines, requests, strict=True):
        assert line.micro_usd == PAIR[line.tier].price(request.n)
        assert 0 <= line.threshold <= 0.5
        assert (line.tier == "cloud") == (line.prs < line.threshold)
        assert line.reason in REASONS
        if line.reason == "cloud_money_short":
            assert budget is not None
            assert line.prs < 0.5
