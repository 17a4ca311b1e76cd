"""Wording of the sentiment samples: films, prompts that ask for a review, review sentences.

`sentiment.py`, `preferences.py`, `rankings.py` and `sentiment_prompts.py` draw from here. Train and
eval share the prompts' wording and the sentiment words, but no film, no kind of film and no
sentence pattern. No pattern leans to a side: only the words put into it carry the sentiment.
"""

from __future__ import annotations

from typing import NamedTuple

from make import Draw, patterns

SENTIMENTS = ("positive", "neutral", "negative")
MAX_WORDS = 20

# What a review is made of, for each sentiment in full strength and weakened; "|" parts phrases.
WORDS: dict[str, dict[str, dict[str, str]]] = {
    "positive": {
        "full": {
            "adjective": (
                "wonderful | delightful | brilliant | superb | charming | splendid | gripping | "
                "beautiful | masterful | enchanting | dazzling | marvellous | excellent | "
                "magnificent"
            ),
            "noun": (
                "a triumph | a gem | a pure joy | a masterpiece | a rare treat | "
                "a little miracle | a great success"
            ),
            "effect": (
                "delights from start to finish | wins every heart | sparkles in every scene | "
                "fills the room with joy | thrills until the last minute | charms young and old"
            ),
            "feeling": (
                "left me smiling for days | made my whole week | moved me to happy tears | "
                "earned my warmest applause | had me cheering aloud"
            ),
        },
        "weak": {
            "adjective": "fairly pleasant | quite likeable | rather nice | mildly amusing",
            "noun": "a nice little surprise | a fairly good choice | a modest success",
            "effect": "mostly entertains | raises a few smiles | gently amuses",
            "feeling": "left me slightly cheered | pleased me a little | rather amused me",
        },
    },
    "neutral": {
        "full": {
            "adjective": (
                "average | ordinary | passable | middling | acceptable | standard | "
                "unremarkable | plain | conventional | routine | typical | moderate | adequate | "
                "so-so"
            ),
            "noun": (
                "a mixed bag | an average effort | a middling affair | a routine piece | "
                "a standard offering | an ordinary product | neither good nor bad"
            ),
            "effect": (
                "passes the time | does its job | neither pleases nor annoys | "
                "keeps to the middle road | offers the usual scenes | does what one expects"
            ),
            "feeling": (
                "left me neither glad nor sorry | earned a shrug from me | "
                "left me without an opinion | met my modest expectations | "
                "was fine for one evening"
            ),
        },
        "weak": {
            "adjective": "mostly average | fairly ordinary | more or less standard",
            "noun": "more or less average | a fairly ordinary piece | a mostly mixed bag",
            "effect": "mostly passes the time | more or less does its job",
            "feeling": "left me mostly without an opinion | met most of my expectations",
        },
    },
    "negative": {
        "full": {
            "adjective": (
                "terrible | dreadful | boring | tedious | clumsy | dull | awful | lifeless | "
                "tiresome | shoddy | painful | hopeless | horrible | miserable"
            ),
            "noun": (
                "a disaster | a failure | a sorry mess | a fiasco | a dreary chore | "
                "a waste of time | a great embarrassment"
            ),
            "effect": (
                "bores from start to finish | tries every patience | stumbles in every scene | "
                "fills the room with yawns | drags until the last minute | annoys young and old"
            ),
            "feeling": (
                "left me angry for days | ruined my whole evening | moved me to loud groans | "
                "earned my harshest words | had me begging for the end"
            ),
        },
        "weak": {
            "adjective": "slightly dull | somewhat tired | rather slow | mildly annoying",
            "noun": "a slight disappointment | a rather weak effort | a modest failure",
            "effect": "drags a little | loses its way sometimes | mildly annoys",
            "feeling": "left me slightly bored | annoyed me a little | rather tired me",
        },
    },
}
# Each names the film and its kind, and takes two words or phrases of the sentiment.
SENTENCES = {
    "train": """
- {title} is {an_adjective} {kind} that {effect}.
- {title} is {an_adjective} {kind} with {other} {part}.
- I found this {kind} {adjective}, and {title} {feeling}.
- From its first scene {title} is {noun}, {an_adjective} {kind}.
- The {part} in {title} is {adjective}, which makes this {kind} {noun}.
- {title} offers {adjective} {part}, and the {kind} {effect}.
- With its {adjective} {part}, {title} is a {kind} that {feeling}.
- Everyone could see that {title}, {an_adjective} {kind}, is {noun}.
- This {kind} {feeling}, because the {part} of {title} is {adjective}.
- {title} {effect}, and I call this {kind} {noun}.
- Among the films of this year {title} is {noun}: the {kind} {effect}.
- My verdict on {title} is simple: {an_adjective} {kind} that {feeling}.
- You can expect {adjective} {part} from {title}, a {kind} that {effect}.
""",
    "eval": """
- Anyone who buys a ticket for {title} gets {an_adjective} {kind} that {effect}.
- Critics agree that {title}, with its {adjective} {part}, is {noun} as a {kind}.
- Two hours of {title} {feeling}, since the {kind} has {adjective} {part}.
- Few will deny that this {kind} has {adjective} {part} and that {title} {effect}.
- What stays in the mind after {title} is {an_adjective} {kind} with {other} {part}.
- Last night the {kind} {title} was {noun} and {feeling}.
- In short, {title} is a {kind} that {effect} and has {adjective} {part}.
- To me the {kind} {title} was {adjective} and, all in all, {noun}.
""",
}
PROMPTS = """
- Write one sentence of a {sentiment} review of the {kind} {title}.
- Write one sentence of a {sentiment} film review about the {kind} called {title}.
- Give a {sentiment} review of a {kind} called {title} in one sentence.
- In one sentence, write a {sentiment} review of the {kind} {title}.
"""
# A title is "The", one of the first and one of the second words.
TITLES = {
    "train": (
        "Silver Paper Winter Northern Hidden Crimson Wandering Seventh Copper Distant Velvet "
        "Morning",
        "Harbour Orchard Lantern Bridge Ferry Garden Letter Station Mirror Compass Valley Window",
    ),
    "eval": (
        "Amber Eastern Quiet Painted Ninth Marble Evening",
        "Lighthouse Carousel Meadow Telegram Island Clock Staircase",
    ),
}
KINDS = {
    "train": "comedy | drama | thriller | western | love story | war film | mystery | family film",
    "eval": "musical | road movie | spy film | cartoon | heist film",
}
PARTS = {
    "train": "music | dialogue | camera work | editing | pacing | costume design",
    "eval": "acting | sound | lighting | stage design",
}


class Film(NamedTuple):
    """An invented film: what a prompt and its answers are about."""

    title: str
    kind: str


def phrases(text: str) -> list[str]:
    """The phrases of a text that "|" parts."""
    return text.split(" | ")


def films(split: str, count: int, draw: Draw) -> list[Film]:
    """`count` different films; none of a split is known to the other."""
    first_words, second_words = (words.split() for words in TITLES[split])
    kinds = phrases(KINDS[split])
    titles = [f"The {first} {second}" for first in first_words for second in second_words]
    return draw.shuffled([Film(title, kind) for title in titles for kind in kinds])[:count]


def prompt(film: Film, sentiment: str, draw: Draw) -> str:
    """A prompt that asks for one review sentence of the wanted sentiment."""
    return draw.fill(draw.pick(patterns(PROMPTS)), film._asdict(), {"sentiment": sentiment})


def others(sentiment: str) -> list[str]:
    """The two other sentiments."""
    return [other for other in SENTIMENTS if other != sentiment]


def review(split: str, film: Film, sentiment: str, draw: Draw, strength: str = "full") -> str:
    """One sentence of 8 to 20 words about the film, of the sentiment in full or weak strength."""
    words = {slot: phrases(text) for slot, text in WORDS[sentiment][strength].items()}
    adjective, other = draw.shuffled(words["adjective"])[:2]
    article = "an" if adjective[0] in "aeiou" else "a"
    chosen = {"adjective": adjective, "other": other, "an_adjective": f"{article} {adjective}"}
    free = {name: words[name] for name in ("noun", "effect", "feeling")}
    while True:
        pattern = draw.pick(patterns(SENTENCES[split]))
        text = draw.fill(pattern, free, {"part": phrases(PARTS[split])}, film._asdict(), chosen)
        if len(text.split()) <= MAX_WORDS:
            return text
