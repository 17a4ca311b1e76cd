"""The recipe's key `data.learn`: which turns of a conversation are learned."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PlainSerializer

from tuner.schema.fields import Section, own_words
from tuner.schema.suggest import suggestion

Role = Literal["system", "user", "assistant", "tool"]
Which = Literal["answers", "last_answer", "all"]
ROLES: tuple[Role, ...] = get_args(Role)


class LearnedRoles(Section):
    """Turns by who speaks."""

    roles: Annotated[
        tuple[Role, ...],
        PlainSerializer(list, return_type=list[str]),
        Field(min_length=1, description="roles whose turns are learned"),
    ]


def _read(value: Any) -> Any:
    if isinstance(value, LearnedRoles):
        return value
    if isinstance(value, str):
        if value not in get_args(Which):
            raise own_words(f"no '{value}' here; {suggestion(value, get_args(Which))}, {_FORM}")
        return str(value)
    if not isinstance(value, dict) or set(value) != {"roles"}:
        raise own_words(f"expected answers, last_answer or all, {_FORM}")
    given = value["roles"]
    roles = [given] if isinstance(given, str) else given
    if not isinstance(roles, list | tuple) or not roles:
        raise own_words(f"expected roles, {_FORM}", "roles")
    for role in roles:
        if role not in ROLES:
            raise own_words(f"no role '{role}'; {suggestion(str(role), ROLES)}", "roles")
    # Ordered and once each, so that the same roles make the same run.
    return LearnedRoles(roles=tuple(role for role in ROLES if role in roles))


_FORM = "or a mapping {roles: [assistant, tool]}"
Learn = Annotated[Which | LearnedRoles, BeforeValidator(_read)]
