"""Texts in two languages: columns that are called by their languages, as translations."""

from __future__ import annotations

from tuner.data.columns.evidence import Evidence
from tuner.data.columns.ways import Alternative
from tuner.data.templates.template import all_templates
from tuner.schema.suggest import plain

_LANGUAGES = {
    **{"ar": "Arabic", "bg": "Bulgarian", "cs": "Czech", "da": "Danish", "de": "German"},
    **{"el": "Greek", "en": "English", "es": "Spanish", "et": "Estonian", "fa": "Persian"},
    **{"fi": "Finnish", "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian"},
    **{"id": "Indonesian", "it": "Italian", "ja": "Japanese", "ko": "Korean", "lt": "Lithuanian"},
    **{"lv": "Latvian", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese"},
    **{"ro": "Romanian", "ru": "Russian", "sk": "Slovak", "sl": "Slovenian", "sv": "Swedish"},
    **{"th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese"},
    **{"zh": "Chinese"},
}
_BY_NAME = {
    **{plain(code): name for code, name in _LANGUAGES.items()},
    **{plain(name): name for name in _LANGUAGES.values()},
}


def translations(whole: Evidence) -> list[Alternative]:
    """Return the two directions in which two columns, or two values of a mapping, translate.

    English and Chinese have templates of their own.

    Args:
        whole: what the columns hold, and what is inside of them.
    """
    groups: dict[str, dict[str, str]] = {}
    for column in whole.columns:
        before, _, name = column.rpartition(".")
        language = _BY_NAME.get(plain(name))
        if language and whole.values(column) and whole.holds(column, ("text",)):
            groups.setdefault(before, {})[language] = column
    pairs = [each for each in groups.values() if len(each) == 2]
    if len(pairs) != 1 or {*pairs[0]} == {"English", "Chinese"}:
        return []
    template = next(each for each in all_templates() if each.name == "prompt_completion")
    (one, first), (other, second) = pairs[0].items()
    return [
        Alternative(
            template,
            {"prompt": source, "completion": target},
            2,
            {"instruction": f"Translate from {of} into {into}."},
            f"translation from {of} into {into}",
        )
        for of, source, into, target in ((one, first, other, second), (other, second, one, first))
    ]
