"""What a resumed run may differ in, and what undoes the rest."""

from __future__ import annotations

import pytest

from tuner.errors import IntegrityError
from tuner.record.identity import Cause, check_identity


@pytest.mark.parametrize(
    ("causes", "fix"),
    [
        ([Cause("a.jsonl has changed")], "put back the files as they were, or start a new run"),
        ([Cause("data.eval: 4", "data.eval", 0.5)], "resume with --set data.eval=0.5, or start"),
        (
            [Cause("a.jsonl has changed"), Cause("data.template: b", "data.template", "qa")],
            "put back the files as they were and resume with --set data.template=qa, or start",
        ),
        ([Cause("data.columns: b", "data.columns", {"a": "b"})], "undo these changes, or start"),
    ],
)
def test_what_made_a_digest_differ_is_what_is_to_be_undone(causes: list[Cause], fix: str) -> None:
    saved, now = {"data.tokens_sha256": "aa"}, {"data.tokens_sha256": "bb"}
    with pytest.raises(IntegrityError) as caught:
        check_identity(saved, now, (), {"data.tokens_sha256": causes})
    assert caught.value.problems == [cause.line for cause in causes]
    assert caught.value.fix.startswith(fix)
